"""From records to what a reader sees: tables, figures and the report. No torch."""
