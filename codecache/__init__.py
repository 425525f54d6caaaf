"""The code cache: compile regions, link them, place them, keep them between runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from codecache.link import Linked, LinkFailure, Unit, link, place
from codecache.types import (
    CompiledRegion,
    CompileFailure,
    Overlay,
    Patch,
    Placed,
    RegionSource,
    Relocation,
    RelocationKind,
    Symbols,
)

if TYPE_CHECKING:
    from codecache.compiler import assembly, compile_batch, optimised_text
    from codecache.encoding import decode, encode, source_key
    from codecache.pool import Compiler
    from codecache.store import Store, StoreInfo

__all__ = [
    "CompileFailure",
    "CompiledRegion",
    "Compiler",
    "LinkFailure",
    "Linked",
    "Overlay",
    "Patch",
    "Placed",
    "RegionSource",
    "Relocation",
    "RelocationKind",
    "Store",
    "StoreInfo",
    "Symbols",
    "Unit",
    "assembly",
    "compile_batch",
    "decode",
    "encode",
    "link",
    "optimised_text",
    "place",
    "source_key",
]

_PLACES = {
    "assembly": "compiler",
    "compile_batch": "compiler",
    "optimised_text": "compiler",
    "decode": "encoding",
    "encode": "encoding",
    "source_key": "encoding",
    "Compiler": "pool",
    "Store": "store",
    "StoreInfo": "store",
}


def __getattr__(name: str) -> Any:
    """Import what needs LLVM when it is first used: reading a report does not."""
    if name not in _PLACES:
        raise AttributeError(f"module 'codecache' has no attribute '{name}'")
    return getattr(import_module(f"codecache.{_PLACES[name]}"), name)
