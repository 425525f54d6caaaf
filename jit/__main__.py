"""The command `probeloom`, also as `python -m jit`."""

import signal


def main() -> None:
    """Run the command line and exit."""
    # Ctrl-C ends the command by the signal's own action. Python would raise an exception at any point, as in the middle
    # of loading a C++ library, which ends in a crash; nothing is half-written either way (see `jit.atomicfile`).
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from jit.cli import main as run

    run()


if __name__ == "__main__":
    main()
