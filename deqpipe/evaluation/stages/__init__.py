"""The evaluating stages, one module each."""
