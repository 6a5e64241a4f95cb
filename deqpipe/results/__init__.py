"""Files: one module per format; and what all of them have in common: provenance, locks, whole writes."""
