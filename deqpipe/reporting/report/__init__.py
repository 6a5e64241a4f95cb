"""The report: one page with all tables and figures, and what they amount to."""
