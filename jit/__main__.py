"""`python -m jit` is `probeloom`."""

from jit.cli import main

main()
