"""The code cache: compile regions, link them, place them, keep them between runs."""

from codecache.compiler import assembly, compile_batch, optimised_text
from codecache.encoding import decode, encode, source_key
from codecache.link import Linked, LinkFailure, Unit, link, place
from codecache.pool import Compiler
from codecache.store import Store, StoreInfo
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
