"""What a supervisor is at, as `probeloom status` and `top` show it."""

from __future__ import annotations

from typing import Any

from jit.live.module import State
from jit.live.supervisor import Space, Supervisor


def overview(supervisor: Supervisor) -> dict[str, Any]:
    """All of it, as JSON would have it: sizes in bytes, times in seconds."""
    return {"processes": [_process(space) for space in supervisor.spaces.values()]}


def _process(space: Space) -> dict[str, Any]:
    statistics = space.instrumentation.statistics
    return {
        "pid": space.target.pid,
        "modules": [_module(space, number) for number in space.instrumentation.modules],
        "first_calls": statistics.first_calls,
        "instrumented": statistics.installed + statistics.from_store,
        "from_store": statistics.from_store,
        "seconds_waited": round(statistics.seconds_waited, 6),
        "seconds_stopped": round(statistics.seconds_stopped, 6),
    }


def _module(space: Space, number: int) -> dict[str, Any]:
    module = space.instrumentation.modules[number]
    area = module.area
    states = [item.state for item in module.functions.values()]
    return {
        "path": module.data.module.path,
        "active": module.is_active,
        "functions": {state.value: states.count(state) for state in State},
        "tracepoints": len(module.data.tracepoints),
        "refused": len(module.refusals),
        "code_bytes": area.used - area.start if area is not None else 0,
        "mapped_bytes": area.size if area is not None else 0,
    }
