"""Compiled regions as bytes: what workers send and what the store keeps.

Layout, little-endian: `_HEAD`, the relocations of the code and then of the data (`_RELOCATION`), code, data, and the
symbols' names joined by commas. A failure is its reason in UTF-8 behind the byte 'F', a region starts with 'R'.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from hashlib import sha256

from codecache.types import CompiledRegion, CompileFailure, RegionSource, Relocation, RelocationKind
from codecache.version import compiler_identity

_HEAD = struct.Struct("<cIIIiHH")
_RELOCATION = struct.Struct("<IBHq")
_KINDS = tuple(RelocationKind)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_FAILURE, _REGION = b"F", b"R"

_IDENTITY = sha256(compiler_identity().encode())


def source_key(source: RegionSource) -> bytes:
    """Key of a region in the store: 32 bytes that cover all that its machine code depends on.

    Features and options of the compiler are constants in its source, which `compiler_identity` covers.
    """
    digest = _IDENTITY.copy()
    fields = (source.shift, source.shift_framed, source.passes, source.features, source.loose)
    digest.update(f"{fields}\0{source.text}".encode())
    return digest.digest()


def encode(result: CompiledRegion | CompileFailure) -> bytes:
    """A result as bytes."""
    if isinstance(result, CompileFailure):
        return _FAILURE + result.reason.encode()
    names: dict[str, int] = {}
    rows = [
        _RELOCATION.pack(r.offset, _NUMBERS[r.kind], names.setdefault(r.symbol, len(names)), r.addend)
        for relocations in (result.relocations, result.data_relocations)
        for r in relocations
    ]
    sizes = (len(result.code), len(result.data), result.frame, result.shift)
    head = _HEAD.pack(_REGION, *sizes, len(result.relocations), len(result.data_relocations))
    return b"".join([head, *rows, result.code, result.data, ",".join(names).encode()])


@lru_cache(1 << 16)
def _relocation(offset: int, kind: int, symbol: str, addend: int) -> Relocation:
    """Most relocations are like many others: making one takes far longer than finding one."""
    return Relocation(offset, _KINDS[kind], symbol, addend)


def sizes(content: bytes) -> tuple[int, int, int]:
    """Bytes of code and of constant data of an encoded region, and its `shift`."""
    _, code, data, _, shift, _, _ = _HEAD.unpack_from(content)
    return code, data, shift


def decode(content: bytes) -> CompiledRegion | CompileFailure:
    """The result that `encode` made these bytes of.

    Raises ValueError where it cannot have.
    """
    if content[:1] == _FAILURE:
        return CompileFailure(content[1:].decode())
    try:
        mark, code_size, data_size, frame, shift, code_count, data_count = _HEAD.unpack_from(content)
        start = _HEAD.size + (code_count + data_count) * _RELOCATION.size
        data_start = start + code_size
        end = data_start + data_size
        if mark != _REGION or end > len(content):
            raise ValueError("not an encoded region")
        names = content[end:].decode().split(",")
        relocations = [
            _relocation(offset, kind, names[name], addend)
            for offset, kind, name, addend in _RELOCATION.iter_unpack(content[_HEAD.size : start])
        ]
    except (struct.error, IndexError) as error:
        raise ValueError(f"not an encoded region: {error}") from error
    return CompiledRegion(
        content[start:data_start],
        tuple(relocations[:code_count]),
        content[data_start:end],
        tuple(relocations[code_count:]),
        frame,
        shift,
    )
