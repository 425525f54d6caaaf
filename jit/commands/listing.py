"""`probeloom list`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jit import console
from jit.analysis import go_runtime_refusal
from jit.attach import attach
from jit.planner import plan_function
from jit.specs import match
from jit.tracepoints import Point, Spec
from lifter.cfg import build_all
from lifter.errors import Refusal
from lifter.graph import FunctionGraph
from lifter.image.load import open_image
from lifter.image.types import Function, Image


@dataclass(frozen=True, slots=True)
class Row:
    """One function of the list."""

    name: str
    demangled: str
    address: int
    size: int
    """In bytes."""
    blocks: int
    """0 where its code was not looked at, because the function is refused as a whole."""
    instrumentable_blocks: int
    instrumentable: bool
    """Whether a probe can be put anywhere in it."""
    reason: str
    """Why not all of it can be instrumented; '' where it can."""


def run(binary: Path, glob: str, as_json: bool) -> None:
    """Print the functions of `binary` that match `glob`. Raises ProbeloomError."""
    image = open_image(binary)
    (functions,) = match([Spec(Point.BLOCK, glob)], image.functions).values() if image.functions else ((),)
    rows = list(describe(image, functions))
    if as_json:
        content = {"module": str(image.path), "build_id": image.build_id, "functions": [asdict(row) for row in rows]}
        print(json.dumps(content, indent=1))
        return
    lines = [("address", "size", "blocks", "can be instrumented", "function")]
    for row in rows:
        lines.append((f"{row.address:#x}", str(row.size), str(row.blocks), _verdict(row), row.demangled))
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    for address, size, blocks, verdict, name in lines:
        print(f"{address:>{widths[0]}}  {size:>{widths[1]}}  {blocks:>{widths[2]}}  {verdict:<{widths[3]}}  {name}")
    whole = sum(row.instrumentable and not row.reason for row in rows)
    partly = sum(row.instrumentable and bool(row.reason) for row in rows)
    sys.stdout.flush()
    console.note(
        f"{len(rows)} functions: {whole} can be instrumented, {partly} in part, {len(rows) - whole - partly} not"
    )


def _verdict(row: Row) -> str:
    if not row.instrumentable:
        return f"no: {row.reason}"
    if row.reason:
        return f"{row.instrumentable_blocks} of {row.blocks}: {row.reason}"
    return "yes"


def describe(image: Image, functions: Sequence[Function]) -> Iterator[Row]:
    """What can be done with each of `functions`."""
    refused = {function.address: function.refusal or go_runtime_refusal(image, function) for function in functions}
    graphs = build_all(image, [function for function in functions if refused[function.address] is None])
    for function in functions:
        refusal = refused[function.address]
        if refusal is not None:
            yield _row(function, 0, 0, [refusal])
        else:
            yield _planned(image, graphs[function.address])


def _planned(image: Image, graph: FunctionGraph) -> Row:
    attachments = attach(image, graph, [Spec(Point.BLOCK, f"{graph.function.address:#x}")])
    refusals = list(attachments.refusals)
    possible = 0
    if attachments.points:
        blocks = attachments.counted
        plan = plan_function(image, graph, (), blocks, False, None)
        possible = len(blocks) - len(blocks & plan.refused.keys())
        refusals += plan.refused.values()
    return _row(graph.function, len(graph.blocks), possible, refusals)


def _row(function: Function, blocks: int, possible: int, refusals: Sequence[Refusal]) -> Row:
    reason = refusals[0].reason if refusals else "" if possible else "no code was found in it"
    return Row(
        function.name, function.demangled, function.address, function.size, blocks, possible, possible > 0, reason
    )
