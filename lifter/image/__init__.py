"""The program as it stands in its file: segments, symbols, functions. Read from the bytes alone: no parser library."""
