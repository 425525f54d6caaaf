"""The program as it stands in its file: segments, symbols, functions. LIEF's types stop here."""
