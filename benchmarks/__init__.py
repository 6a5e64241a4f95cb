"""What is measured here is measured, not tested (README.md beside this file)."""
