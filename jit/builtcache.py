"""Whole instrumentations kept between runs: the same file with the same probes is not analysed again.

The key covers the input file, the probes (a Python probe by its compiled text), the options that matter, and the
source of every module that takes part, so that a change of the engine never meets an old result.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any, Final

from codecache.types import Overlay, Patch
from codecache.version import compiler_identity
from ir.probes import CompiledProbe
from jit.tracepoints import Spec
from lifter.errors import Refusal
from lifter.image.types import Image

_PACKAGES: Final = ("lifter", "lifter.image", "lifter.x86", "ir", "codecache", "jit", "jit.startup")
_HEAD: Final = struct.Struct("<QQIII")
"""Code address, data address, sizes of code, data and description."""


@cache
def _engine_identity() -> bytes:
    digest = sha256(compiler_identity().encode())
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
        "patches": [(p.address, p.before.hex(), p.after.hex()) for p in overlay.patches],
        "refusals": [(r.address, r.reason, r.code.hex(), r.hint, r.function) for r in refusals],
        "report": report,
    }
    text = zlib.compress(json.dumps(description).encode(), 1)
    head = _HEAD.pack(overlay.code_address, overlay.data_address, len(overlay.code), len(overlay.data), len(text))
    return head + overlay.code + overlay.data + text


def decode(content: bytes) -> tuple[Overlay, tuple[Refusal, ...], dict[str, Any]]:
    """What `encode` made these bytes of. Raises ValueError where it cannot have."""
    try:
        code_address, data_address, code, data, text = _HEAD.unpack_from(content)
        at = _HEAD.size
        if len(content) != at + code + data + text:
            raise ValueError("its sizes are wrong")
        description = json.loads(zlib.decompress(content[at + code + data :]))
        patches = tuple(Patch(a, bytes.fromhex(b), bytes.fromhex(c)) for a, b, c in description["patches"])
        refusals = tuple(
            Refusal(address, reason, bytes.fromhex(shown), hint, function)
            for address, reason, shown, hint, function in description["refusals"]
        )
    except (struct.error, zlib.error, KeyError, TypeError) as error:
        raise ValueError(f"not an instrumentation: {error}") from error
    overlay = Overlay(
        code_address, content[at : at + code], data_address, content[at + code : at + code + data], patches
    )
    return overlay, refusals, description["report"]
