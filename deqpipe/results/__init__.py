"""Files: records, weights, histories; and what all files have in common: provenance, locks, whole writes."""
