"""Whether a profile carries every job of a run to its end, and limits that do: hours, tries, memory, kept work."""
