"""Tables 1 to 10."""
