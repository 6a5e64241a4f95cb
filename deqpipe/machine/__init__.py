"""The machine that computes: its devices, its clock."""
