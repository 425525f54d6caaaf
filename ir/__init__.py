"""Regions as LLVM IR: how lifted blocks are grouped, probes woven in, text made."""
