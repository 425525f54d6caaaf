"""Fuzzers and campaigns: instructions, blocks, functions, programs."""
