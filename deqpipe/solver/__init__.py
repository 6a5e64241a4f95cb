"""Fixed-point solvers whose every state can be read."""
