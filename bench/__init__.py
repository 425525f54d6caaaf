"""Benchmarks: how fast instrumented programs run, beside other tools, and how fast they are made."""
