"""What the checkpoints of the authors' release and of locuslab/deq hold, and how they are read."""
