"""Two runs side by side: in which settings they differ, and which numbers differ by more than chance."""
