"""Attacks: what they maximise (surrogates) and how (PGD)."""
