"""Plans and compiled functions as the store keeps them."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Sequence
from typing import Any, Final

from codecache.encoding import decode as decode_region
from codecache.encoding import encode as encode_region
from codecache.types import CompiledRegion
from jit.layout import CompiledFunction, Piece
from jit.live.firstcall import Displaced
from jit.live.plan import LiveFunction, ModulePlan
from jit.tracepoints import Point, Spec
from jit.trampolines import Site
from lifter.errors import Refusal

_SIZE: Final = struct.Struct("<I")


def encode_plan(plan: ModulePlan) -> bytes:
    """A module's plan as bytes."""
    table = {
        "red_zone": plan.red_zone,
        "functions": [[f.address, f.end, f.name, _displaced(f.waits), sorted(f.intrusive)] for f in plan.functions],
        "guards": [[[s.point.value, s.pattern, s.offset, s.action], index] for s, index in plan.guards],
        "refusals": [[r.address, r.reason, r.code.hex(), r.hint, r.function] for r in plan.refusals],
    }
    head = json.dumps(table, separators=(",", ":")).encode()
    return zlib.compress(_SIZE.pack(len(head)) + head + plan.segment, 1)


def decode_plan(content: bytes) -> ModulePlan:
    """What `encode_plan` made these bytes of. Raises ValueError where it cannot have."""
    try:
        plain = zlib.decompress(content)
        (size,) = _SIZE.unpack_from(plain)
        at = _SIZE.size + size
        table: dict[str, Any] = json.loads(plain[_SIZE.size : at])
        return ModulePlan(
            plain[at:],
            table["red_zone"],
            tuple(
                LiveFunction(address, end, name, _to_displaced(waits), frozenset(intrusive))
                for address, end, name, waits, intrusive in table["functions"]
            ),
            tuple(Refusal(a, reason, bytes.fromhex(code), hint, f) for a, reason, code, hint, f in table["refusals"]),
            tuple(
                (Spec(Point(point), pattern, offset, action, guarded=True), index)
                for (point, pattern, offset, action), index in table["guards"]
            ),
        )
    except (zlib.error, struct.error, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"not a module's plan: {error}") from error


def _displaced(found: Displaced | None) -> list[Any] | None:
    if found is None:
        return None
    parts = [[code.hex(), target] for code, target in found.parts]
    return [found.address, found.before.hex(), parts, found.following]


def _to_displaced(found: list[Any] | None) -> Displaced | None:
    if found is None:
        return None
    address, before, parts, following = found
    moved = tuple((bytes.fromhex(code), target) for code, target in parts)
    return Displaced(address, bytes.fromhex(before), moved, following)


def encode_functions(functions: Sequence[CompiledFunction]) -> bytes:
    """Compiled functions as bytes."""
    table = []
    code = bytearray()
    for function in functions:
        pieces = []
        for piece in function.pieces:
            encoded = encode_region(piece.region)
            pieces.append([piece.head, piece.flags_in, dict(piece.symbols), piece.origins, len(encoded)])
            code += encoded
        sites = [[site.head, site.jump, site.springboard] for site in function.sites]
        table.append([function.entry, function.entry_stub, pieces, sites, function.redirects])
    head = json.dumps(table, separators=(",", ":")).encode()
    return zlib.compress(_SIZE.pack(len(head)) + head + code, 1)


def decode_functions(content: bytes) -> tuple[CompiledFunction, ...]:
    """What `encode_functions` made these bytes of. Raises ValueError where it cannot have."""
    try:
        plain = zlib.decompress(content)
        (size,) = _SIZE.unpack_from(plain)
        at = _SIZE.size + size
        functions = []
        for entry, entry_stub, pieces, sites, redirects in json.loads(plain[_SIZE.size : at]):
            found = []
            for head, flags_in, symbols, origins, length in pieces:
                region = decode_region(plain[at : at + length])
                at += length
                if not isinstance(region, CompiledRegion):
                    raise ValueError("not a region")
                found.append(Piece(head, region, flags_in, symbols, tuple((at, of) for at, of in origins)))
            functions.append(
                CompiledFunction(
                    entry,
                    entry_stub,
                    tuple(found),
                    tuple(Site(head, jump, springboard) for head, jump, springboard in sites),
                    tuple((site, opcode, head) for site, opcode, head in redirects),
                )
            )
    except (zlib.error, struct.error, TypeError) as error:
        raise ValueError(f"not compiled functions: {error}") from error
    return tuple(functions)
