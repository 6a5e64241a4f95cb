"""Faults made on purpose, case by case: `python -m tests.faults` (`make test-faults`)."""
