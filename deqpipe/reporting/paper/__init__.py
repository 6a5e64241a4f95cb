"""The paper's numbers, and its experiment as settings."""
