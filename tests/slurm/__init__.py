"""A real SLURM on one machine, and this workflow on it: `python -m tests.slurm` (`make test-slurm`)."""
