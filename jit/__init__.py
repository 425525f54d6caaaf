"""The engine, its modes, the public library and the command line.

from jit import Binary, count, probe
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ir.probes import Probe as Probe
    from ir.probes import PythonContext as PythonContext
    from ir.probes import probe as probe
    from jit.api import Binary as Binary
    from jit.api import Plan as Plan
    from jit.api import Result as Result
    from jit.api import count as count
    from jit.session import Handle as Handle
    from jit.session import Session as Session

__all__ = ["Binary", "Handle", "Plan", "Probe", "PythonContext", "Result", "Session", "count", "probe"]

_PLACES = {
    **dict.fromkeys(("probe", "Probe", "PythonContext"), "ir.probes"),
    **dict.fromkeys(("Session", "Handle"), "jit.session"),
}


def __getattr__(name: str) -> Any:
    """Import public names when first used: the command line starts without LLVM and numba."""
    if name not in __all__:
        raise AttributeError(f"module 'jit' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_PLACES.get(name, "jit.api")), name)
