"""The engine, its modes, the public library and the command line.

from jit import Binary, count, probe
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ir.probes import probe as probe

__all__ = ["probe"]

_PLACES = {"probe": "ir.probes"}


def __getattr__(name: str) -> Any:
    """Import public names when first used: the command line starts without LLVM and numba."""
    if name not in _PLACES:
        raise AttributeError(f"module 'jit' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)
