"""What the engine makes of one function, at each stage: for people."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, Literal

from codecache.compiler import assembly, compile_batch, optimised_text
from codecache.types import CompiledRegion
from ir.source import RegionSource, readable
from jit.options import Clock, Effort, Options
from jit.prepare import Prepared, prepare
from jit.regions import AnyRegion
from jit.tracepoints import Point, Spec
from lifter.cfg import build_all
from lifter.decode import decode_run
from lifter.errors import RefusedError
from lifter.graph import FunctionGraph
from lifter.image.types import Function, Image
from lifter.instruction import Instruction

Stage = Literal["cfg", "ir", "probe", "opt", "asm"]
STAGES: Final[tuple[Stage, ...]] = ("cfg", "ir", "probe", "opt", "asm")


def stage(image: Image, function: Function, which: Stage, specs: Sequence[Spec], options: Options) -> str:
    """The text of one stage of `function`.

    `cfg` is the control-flow graph, `ir` the regions without probes, `probe` with the probes of `specs` woven
    in (every block counted if there are none), `opt` the same after LLVM's passes, `asm` the machine code.
    Raises RefusedError where nothing of the function can be lifted.
    """
    if which == "cfg":
        if function.refusal is not None:
            raise RefusedError(str(function.refusal))
        return render_graph(build_all(image, [function])[function.address])
    everything = [Spec(Point.BLOCK, f"{function.address:#x}")]
    wanted = list(specs) if specs and which != "ir" else everything
    # What goes through LLVM, whether or not it would by itself; but the machine code is that which is used.
    effort: Effort = options.optimise if which == "asm" else "all"
    prepared = prepare(image, wanted, replace(options, bare=which == "ir", optimise=effort), Clock())
    planned = next((p for p in prepared.functions if p.plan.graph.function.address == function.address), None)
    if planned is None:
        raise RefusedError(f"{function.demangled}: {_first_reason(prepared)}")
    makers: dict[str, Callable[[RegionSource], str]] = {
        "ir": lambda source: readable(source.text),
        "probe": lambda source: readable(source.text),
        "opt": optimised_text,
        "asm": _compiled,
    }
    return "\n".join(_sections(planned.lower().code.all_regions, makers[which]))


def _first_reason(prepared: Prepared) -> str:
    return str(prepared.refusals[0]) if prepared.refusals else "nothing in it can be lifted"


def _sections(regions: Iterable[AnyRegion], make: Callable[[RegionSource], str]) -> Iterable[str]:
    for region in regions:
        kind = f"region {region.head:#x}" if region.head >= 0 else f"stub for {-region.head:#x}"
        yield f"; {kind}: {region.lifted} instructions lifted, {region.verbatim} verbatim"
        for symbol, value in region.symbols.items():
            meaning = f"counter {value}" if symbol[2] in "cw" else f"{value:#x}"
            yield f";   {symbol} = {meaning}"
        text = make(region.source) if isinstance(region.source, RegionSource) else _disassembled(region.source)
        yield text.rstrip() + "\n"


def _compiled(source: RegionSource) -> str:
    (result,) = compile_batch([source])
    if not isinstance(result, CompiledRegion):
        return f"; {result.reason}"
    return f"; stack lowered by {result.shift}, frame {result.frame}\n{assembly(source)}"


def _disassembled(region: CompiledRegion) -> str:
    """A region that is made of its own instructions."""
    symbols = {relocation.offset: relocation.symbol for relocation in region.relocations}
    lines = ["; its own instructions"]
    for at, instruction in decode_run(region.code):
        name = next((symbols[where] for where in range(at, at + len(instruction.code)) if where in symbols), "")
        text = _with_target(instruction.text, at) if isinstance(instruction, Instruction) else instruction.reason
        lines.append(f"  {at:#x}  {text}{f'  ; {name}' if name else ''}")
    return "\n".join(lines)


def render_graph(graph: FunctionGraph) -> str:
    """A function's blocks with their instructions, and what is known of its jumps."""
    function = graph.function
    lines = [f"{function.demangled} at {function.address:#x}, {function.size} bytes, {len(graph.blocks)} blocks"]
    for block in graph.blocks.values():
        marks = ["entered from outside"] if block.address in graph.entries else []
        goes = ", ".join(f"{s:#x}" for s in block.successors) or "nowhere in the function"
        lines.append(f"\n{block.address:#x}: -> {goes}{''.join(f' [{mark}]' for mark in marks)}")
        for address, instruction in block.addressed():
            how = f"  ; {instruction.handling.value}: {instruction.reason}" if instruction.reason else ""
            lines.append(f"  {address:#x}  {_with_target(instruction.text, address)}{how}")
    for table in graph.tables.values():
        lines.append(f"\njump table at {table.address:#x} for {table.jump:#x}: {len(table.targets)} targets")
    for address in graph.unresolved:
        lines.append(f"\nindirect jump at {address:#x}: its targets are not known")
    lines += [f"\nleft out: {refusal}" for refusal in graph.refusals]
    return "\n".join(lines) + "\n"


def _with_target(text: str, address: int) -> str:
    """Intel text with the branch target as an address: `$+0x10` is relative to the instruction's own."""
    return re.sub(r"\$([+-]0x[0-9a-f]+|[+-]\d+)", lambda match: f"{address + int(match[1], 0):#x}", text)
