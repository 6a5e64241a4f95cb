"""A hand-in to RobustBench: a trained network as files that need nothing of ours, or the reason why it takes none."""
