"""Arguments and options that several commands have."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from lifter.errors import UsageError

Binary = Annotated[Path, typer.Argument(metavar="BINARY", help="An executable or shared library.")]
Probes = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        "-p",
        metavar="SPEC",
        help="POINT:FUNCTION[=ACTION], several times. POINT: entry, return, block, insn (FUNCTION+0xOFF). "
        "FUNCTION: a glob over names, or 0xADDRESS. ACTION: count, or FILE.py:NAME.",
    ),
]
ProbeFiles = Annotated[
    list[Path] | None,
    typer.Option("--probes", metavar="FILE.toml", help="A file with a list of the same named 'probes'."),
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", metavar="N", help="Processes that compile; all cores.")]
Liveness = Annotated[
    Literal["abi", "strict"],
    typer.Option(help="Which registers a region keeps: those the calling convention needs, or all."),
]
CounterPlacement = Annotated[
    Literal["minimal", "every"],
    typer.Option(help="As few counters as tell how often every block ran, or one in every block."),
]
Calls = Annotated[
    Literal["auto", "cache", "place"],
    typer.Option(
        help="Make calls in the code cache where nothing looks at return addresses, or all in place; "
        "auto is in place where the file has debugging information."
    ),
]
CounterUpdate = Annotated[
    Literal["auto", "plain", "biased", "atomic"],
    typer.Option(
        help="How counters are added to; auto is biased where the program can start threads: "
        "plainly by the main thread, atomically by others."
    ),
]
Optimise = Annotated[
    Literal["loops", "all"],
    typer.Option(
        help="What LLVM compiles: loops (and what has probes in Python), or every region. "
        "The rest is put together from its own instructions."
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Neither read nor fill the store of compiled code.")]


def job_count(jobs: int | None) -> int:
    """The number of processes that --jobs asks for. Raises UsageError."""
    if jobs is None:
        return len(os.sched_getaffinity(0))
    if jobs < 1:
        raise UsageError(f"--jobs is at least 1, not {jobs}")
    return jobs
