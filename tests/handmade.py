"""Overlays written by hand: what the engine makes, in its smallest form, to test what carries it."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from codecache.types import Overlay, Patch
from jit import datafile, offline
from jit.tracepoints import Point, Tracepoint
from lifter.image.load import open_image
from lifter.image.types import Image

COUNTED = "__attribute__((noinline, noipa, patchable_function_entry(8)))"
"""What a C function needs for `counting_overlay`: eight bytes of nops at its entry."""

_NOPS = b"\x90" * 5

LINKS: dict[str, tuple[str, ...]] = {
    "pie": ("gcc", "-pie"),
    "fixed": ("gcc", "-no-pie"),
    "static": ("gcc", "-static"),
    "static-pie": ("gcc", "-static-pie"),
    "musl": ("musl-gcc",),
    "musl-static": ("musl-gcc", "-static"),
}
"""How executables are linked."""


def build(source: str, output: Path, *command: str) -> Path:
    """Compiles C source text."""
    path = output.with_name(output.name + ".c")
    path.write_text(source)
    compiler, *flags = command or ("gcc",)
    subprocess.run([compiler, "-O1", "-w", "-fcf-protection=none", path, *flags, "-o", output], check=True, timeout=100)
    return output


def counting_overlay(image: Image, functions: Sequence[str] = ("work",)) -> Overlay:
    """Counts the calls of functions that were compiled with COUNTED: counter i is that of function i."""
    found = {function.name: function for function in image.functions}
    tracepoints = [
        Tracepoint(Point.ENTRY, name, found[name].address, len(_NOPS), 1, "count", ((index, 1),))
        for index, name in enumerate(functions)
    ]
    data_address = offline.reserve(image)
    layout = datafile.layout(str(image.path), image.build_id, tracepoints, len(tracepoints), image.content)
    code_address = offline.after_data(data_address, layout.size)
    code = b""
    patches = []
    for index, tracepoint in enumerate(tracepoints):
        stub = code_address + len(code)
        counter = data_address + layout.counters_offset + 8 * index
        after = tracepoint.address + len(_NOPS)
        code += b"\x9c\xf0\x48\xff\x05" + struct.pack("<i", counter - (stub + 9))  # pushfq; lock incq counter
        code += b"\x9d\xe9" + struct.pack("<i", after - (stub + 15))  # popfq; jmp after
        patches.append(Patch(tracepoint.address, _NOPS, b"\xe9" + struct.pack("<i", stub - after)))
    patches.sort(key=lambda patch: patch.address)
    return Overlay(code_address, code, data_address, datafile.encode(layout), tuple(patches))


def empty_overlay(image: Image, code: bytes = b"\xcc" * 16) -> Overlay:
    """Changes nothing: a counter that nobody counts, and code that nobody runs."""
    tracepoint = Tracepoint(Point.ENTRY, "nobody", 0, 1, 1, "count", ((0, 1),))
    data_address = offline.reserve(image)
    layout = datafile.layout(str(image.path), image.build_id, [tracepoint], 1, image.content)
    return Overlay(offline.after_data(data_address, layout.size), code, data_address, datafile.encode(layout), ())


def rewrite(path: Path, output: Path, functions: Sequence[str] = ("work",)) -> Path:
    """Writes `path` with a counting overlay to `output`."""
    image = open_image(path)
    offline.write(image, counting_overlay(image, functions), output)
    return output
