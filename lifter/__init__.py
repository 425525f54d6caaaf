"""Machine code to IR: the image, its functions and graphs, the instruction table and its semantics."""
