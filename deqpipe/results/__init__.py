"""One module per kind of file: how it is written whole, and read again."""
