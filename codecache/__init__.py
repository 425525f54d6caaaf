"""The code cache: compile regions, link them, place them, keep them between runs."""

from codecache.compiler import assembly, compile_batch, optimised_text
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

__all__ = [
    "CompileFailure",
    "CompiledRegion",
    "LinkFailure",
    "Linked",
    "Overlay",
    "Patch",
    "Placed",
    "RegionSource",
    "Relocation",
    "RelocationKind",
    "Symbols",
    "Unit",
    "assembly",
    "compile_batch",
    "link",
    "optimised_text",
    "place",
]
