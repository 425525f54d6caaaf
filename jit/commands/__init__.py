"""What each command of the command line does. Imported when the command runs: `--help` starts without LLVM."""
