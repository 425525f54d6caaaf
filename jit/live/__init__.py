"""Live mode: instrumentation of a process while it runs, from outside it."""
