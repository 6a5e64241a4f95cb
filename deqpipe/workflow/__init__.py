"""What the workflow is made of: stages, their specs, the names of models and defences. No torch."""
