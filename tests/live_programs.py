"""Small C programs for the tests of live mode, compiled when first asked for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jit.live.tracer import Tracer


def compiled(directory: Path, name: str, source: str, *options: str) -> Path:
    """The program, built in `directory`."""
    program = directory / name
    code = directory / f"{name}.c"
    code.write_text(source)
    subprocess.run(["gcc", "-O2", "-w", *options, "-o", program, code, "-lpthread", "-ldl"], check=True)
    return program


def alike(pid: int) -> dict[str, str]:
    """What of /proc/PID/status must be the same after a process was controlled and let go."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    names = ("State", "TracerPid", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "Threads", "VmSize")
    return {name: fields[name].strip() for name in names}


@contextmanager
def none_left() -> Iterator[None]:
    """Kills what a failed test leaves under control."""
    tracer = Tracer.current()
    yield
    for pid in [*tracer.targets]:
        with suppress(ProcessLookupError):
            os.kill(pid, 9)
    for _ in tracer.events(10):
        if not tracer.targets:
            break
