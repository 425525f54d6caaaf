"""What of a program regions can hold: over its code, and over a run of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from jit.report import Report
from jit.tracepoints import Point
from lifter.cfg import build_all
from lifter.coverage import BY_DESIGN, Figures, Form, Holding, add_up, count_blocks
from lifter.decode import decode_run
from lifter.errors import RefusedError
from lifter.image.types import Image
from lifter.instruction import Instruction


@dataclass(frozen=True, slots=True)
class Coverage:
    """The figures of one binary."""

    module: str
    """Its path."""
    build_id: str
    code: Figures
    """Over every instruction that the analysis finds in its functions."""
    run: Figures | None = None
    """Over those that a run executed, as often as it did."""


def measure(image: Image) -> Figures:
    """Figures over every instruction that the analysis finds in the functions of `image`."""
    # All of them together, since functions have parts that only others jump to.
    graphs = build_all(image, [function for function in image.functions if function.refusal is None])
    return count_blocks(block for graph in graphs.values() for block in graph.blocks.values())


def measure_run(image: Image, report: Report) -> Figures:
    """Figures over the instructions that a run executed: its blocks must have been counted.

    Raises RefusedError if the report is of another file or has no blocks.
    """
    if report.module.build_id != image.build_id:
        raise RefusedError(f"the data file is of another build than {image.path}")
    blocks = [row for row in report.rows if row.tracepoint.point is Point.BLOCK]
    if not blocks:
        raise RefusedError("the data file counts no blocks: rewrite with --probe 'block:*'")
    return add_up(
        (instruction, row.count)
        for row in blocks
        if row.count
        for _, instruction in decode_run(image.read(row.tracepoint.address, row.tracepoint.size))
        if isinstance(instruction, Instruction)
    )


def to_dict(coverage: Coverage, forms: int) -> dict[str, Any]:
    """As JSON has it, with the most frequent `forms` that are native and verbatim."""
    found = {"module": coverage.module, "build_id": coverage.build_id, **_figures(coverage.code, forms)}
    if coverage.run is not None:
        found["executed"] = _figures(coverage.run, forms)
    return found


def _figures(figures: Figures, forms: int) -> dict[str, Any]:
    native = (Holding.NATIVE, *BY_DESIGN)
    return {
        "instructions": figures.instructions,
        "lifted": figures[Holding.LIFTED] + figures[Holding.CARRIED],
        "lifted_to_ir": figures[Holding.LIFTED],
        "carried_exactly": figures[Holding.CARRIED],
        "verbatim": figures[Holding.VERBATIM],
        "native": figures[Holding.NATIVE] + figures.by_design,
        "calls": figures[Holding.CALL],
        "system_calls": figures[Holding.SYSCALL],
        "indirect_jumps": figures[Holding.INDIRECT_JUMP],
        "traps": figures[Holding.TRAP],
        "other_native": figures[Holding.NATIVE],
        "native_forms": [_form(form, count) for form, count in figures.most_frequent(native, forms)],
        "other_native_forms": [_form(f, count) for f, count in figures.most_frequent([Holding.NATIVE], forms)],
        "verbatim_forms": [_form(f, count) for f, count in figures.most_frequent([Holding.VERBATIM], forms)],
    }


def _form(form: Form, count: int) -> dict[str, Any]:
    found: dict[str, Any] = {"form": form.text, "count": count}
    if form.reason:
        found["reason"] = form.reason
    return found


_SHARES: Final = (Holding.LIFTED, Holding.CARRIED, Holding.VERBATIM, Holding.NATIVE)


def render(coverages: Sequence[Coverage], forms: int) -> str:
    """A table, then what is native, for people. Shares are of the instructions that regions could hold."""
    header = ["", "instructions", "lifted", "carried", "verbatim", "native", "calls", "syscalls", "ind. jumps", "traps"]
    lines = [header]
    for coverage in coverages:
        lines.append([coverage.module, *_cells(coverage.code)])
        if coverage.run is not None:
            lines.append(["  executed", *_cells(coverage.run)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    text = [
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    text += [
        "",
        "lifted: as LLVM IR; carried: as it is, its effects known exactly (SSE to AVX2, FMA, atomics, strings);",
        "verbatim: as it is, its effects known roughly (x87, AES, SHA, AVX-512, CPUID); native: it runs in place.",
        "Shares of all but calls, system calls, indirect jumps and traps, which run in place by design.",
    ]
    for coverage in coverages:
        native = coverage.code.most_frequent([Holding.NATIVE], forms)
        if native:
            text += ["", f"native in {coverage.module}:"]
            text += [f"  {count:>9,}  {form.text:<24}  {form.reason}".rstrip() for form, count in native]
    return "\n".join(text) + "\n"


def _cells(figures: Figures) -> list[str]:
    whole = max(figures.holdable, 1)
    shares = [f"{100 * figures[holding] / whole:.3f}%" for holding in _SHARES]
    return [f"{figures.instructions:,}", *shares, *(f"{figures[holding]:,}" for holding in BY_DESIGN)]
