"""Whole instrumentations kept between runs: the same file with the same probes is not analysed again.

The key covers the input file, the probes (a Python probe by its compiled text), the options that matter, and the
source of every module that takes part, so that a change of the engine never meets an old result.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import resources
from itertools import accumulate, pairwise
from typing import Any, Final

from codecache.types import Overlay, Patch
from codecache.version import library_identity
from ir.probes import CompiledProbe
from jit.tracepoints import Spec
from lifter.errors import Refusal
from lifter.image.types import Image

_PACKAGES: Final = ("lifter", "lifter.image", "lifter.x86", "ir", "codecache", "jit", "jit.startup")
_HEAD: Final = struct.Struct("<9Q")
"""Addresses of code, data and frames, sizes of code, data, both kinds of frames, patches and description."""
_PATCH: Final = struct.Struct("<QB")
"""Address and size of a patch; what was there and what is to be there follow."""


@cache
def _engine_identity() -> bytes:
    digest = sha256(library_identity().encode())
    for package in _PACKAGES:
        files = [entry for entry in resources.files(package).iterdir() if entry.name.endswith((".py", ".ll"))]
        for entry in sorted(files, key=lambda entry: entry.name):
            digest.update(entry.name.encode() + entry.read_bytes())
    return digest.digest()


def plan_key(image: Image, specs: Sequence[Spec], probes: Mapping[str, CompiledProbe], settings: Iterable[str]) -> str:
    """The key of an instrumentation. `probes` are those that the specs' actions name, compiled."""
    digest = sha256(_engine_identity())
    for text in (str(image.path), *settings, *map(str, specs)):
        digest.update(text.encode("utf-8", "surrogateescape") + b"\0")
    for name in sorted(probes):
        digest.update(f"{name}\0{probes[name].words}\0{probes[name].text}\0".encode())
    digest.update(image.content)
    return digest.hexdigest()


def encode(overlay: Overlay, refusals: Sequence[Refusal], report: Mapping[str, Any]) -> bytes:
    """An instrumentation as bytes. Its tracepoints are in the overlay's data (see `jit.datafile`)."""
    description = {
        "names": overlay.names,
        "refusals": [(r.address, r.reason, r.code.hex(), r.hint, r.function) for r in refusals],
        "report": report,
    }
    text = zlib.compress(json.dumps(description).encode(), 1)
    patches = b"".join([_PATCH.pack(p.address, len(p.after)) + p.before + p.after for p in overlay.patches])
    parts = (overlay.code, overlay.data, overlay.frames, overlay.debug_frames, patches, text)
    addresses = (overlay.code_address, overlay.data_address, overlay.frames_address)
    return b"".join((_HEAD.pack(*addresses, *map(len, parts)), *parts))


def decode(content: bytes) -> tuple[Overlay, tuple[Refusal, ...], dict[str, Any]]:
    """What `encode` made these bytes of. Raises ValueError where it cannot have."""
    try:
        code_address, data_address, frames_address, *sizes = _HEAD.unpack_from(content)
        ends = list(accumulate(sizes, initial=_HEAD.size))
        if len(content) != ends[-1]:
            raise ValueError("its sizes are wrong")
        parts = (content[start:end] for start, end in pairwise(ends))
        code, data, frames, debug_frames, patched, text = parts
        patches = tuple(_patches(patched))
        description = json.loads(zlib.decompress(text))
        names = tuple((address, size, name) for address, size, name in description["names"])
        refusals = tuple(
            Refusal(address, reason, bytes.fromhex(shown), hint, function)
            for address, reason, shown, hint, function in description["refusals"]
        )
    except (struct.error, zlib.error, KeyError, TypeError) as error:
        raise ValueError(f"not an instrumentation: {error}") from error
    overlay = Overlay(code_address, code, data_address, data, patches, frames_address, frames, debug_frames, names)
    return overlay, refusals, description["report"]


def _patches(content: bytes) -> Iterator[Patch]:
    at = 0
    while at < len(content):
        address, size = _PATCH.unpack_from(content, at)
        middle = at + _PATCH.size + size
        yield Patch(address, content[at + _PATCH.size : middle], content[middle : middle + size])
        at = middle + size
