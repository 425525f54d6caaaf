"""`probeloom status`."""

from __future__ import annotations

import json
from typing import Any

from jit.live.control import ask
from jit.live.procfs import check_exists
from lifter.errors import RefusedError


def status(pid: int, as_json: bool) -> None:
    """Print what is instrumented in a process. Raises ProbeloomError."""
    check_exists(pid)
    found = ask(pid, "status")
    if found is None:
        raise RefusedError(f"process {pid}: no probeloom of this user follows it")
    print(json.dumps(found) if as_json else "\n".join(_lines(found)))


def _lines(found: dict[str, Any]) -> list[str]:
    lines = []
    for process in found["processes"]:
        lines.append(
            f"process {process['pid']}: {process['instrumented']:,} functions instrumented, "
            f"{process['from_store']:,} of them as stored; {process['first_calls']:,} first calls waited "
            f"{process['seconds_waited'] * 1e3:,.1f} ms in all, "
            f"all threads stood still {process['seconds_stopped'] * 1e3:,.1f} ms"
        )
        for module in process["modules"]:
            functions = module["functions"]
            lines.append(
                f"  {module['path']}{'' if module['active'] else ' (disabled)'}: "
                f"{functions['instrumented']:,} functions instrumented, {functions['waits']:,} not called yet, "
                f"{functions['called']:,} being made, {functions['original']:,} left as they are; "
                f"{module['tracepoints']:,} tracepoints; "
                f"{module['code_bytes'] >> 10:,} KiB of code, {module['mapped_bytes'] >> 10:,} KiB mapped"
            )
    return lines
