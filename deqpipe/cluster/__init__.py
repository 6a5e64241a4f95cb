"""Clusters: what a profile asks of one, and whether that can be had. No torch."""
