"""The engine, its modes, the public API and the command line."""
