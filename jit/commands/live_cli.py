"""The commands on running processes, as the command line declares them: `run`, `attach`, `top`, `status`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer

from jit.commands.options import CounterUpdate, Jobs, Liveness, NoCache, ProbeFiles, job_count
from lifter.errors import UsageError

ProcessProbes = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        "-p",
        metavar="SPEC",
        help="POINT:[MODULE!]FUNCTION[=ACTION], several times. MODULE: a glob over file names; without it, the "
        "executable, or where that has no such function, the libraries. The rest as for rewrite.",
    ),
]
Format = Annotated[Literal["text", "json", "drcov", "lcov"], typer.Option("--format", help="Output format.")]
Sort = Annotated[Literal["count", "address", "function", "instructions"], typer.Option(help="Order of the table.")]
Top = Annotated[int | None, typer.Option(metavar="N", min=0, help="Only the first N rows of each table.")]
Every = Annotated[bool, typer.Option("--all", help="Rows that were never hit, too.")]
Children = Annotated[
    Literal["sum", "apart", "ignore"],
    typer.Option(help="Processes made by fork: counted together, each for itself, or not at all."),
]
NameCode = Annotated[
    bool, typer.Option("--symbols", help="Write /tmp/perf-PID.map for perf and /tmp/probeloom-PID.symbols for gdb.")
]
ExactFaults = Annotated[
    bool,
    typer.Option("--exact-faults", help="Faults in loops, too, are raised at the original instruction; slows loops."),
]
Duration = Annotated[
    str | None, typer.Option("--for", metavar="TIME", help="End after 30s, 500ms, 5m; else at Ctrl-C.")
]
Pid = Annotated[int, typer.Argument(metavar="PID", help="A process.")]
_UNITS: Final = {"": 1.0, "s": 1.0, "ms": 0.001, "m": 60.0, "h": 3600.0}


def add_live_commands(app: typer.Typer) -> None:
    """Declare them."""
    app.command("run", context_settings={"allow_interspersed_args": False})(_run)
    app.command("attach")(_attach)
    app.command("top")(_top)
    app.command("status")(_status)


def _run(
    command: Annotated[list[str], typer.Argument(metavar="PROGRAM [ARGS]...", help="What to run; '--' may precede.")],
    probe: ProcessProbes = None,
    probes: ProbeFiles = None,
    form: Format = "text",
    sort: Sort = "count",
    top: Top = None,
    every: Every = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of standard error.")
    ] = None,
    children: Children = "sum",
    jobs: Jobs = None,
    liveness: Liveness = "abi",
    counter_update: CounterUpdate = "auto",
    exact_faults: ExactFaults = False,
    no_cache: NoCache = False,
    name_code: NameCode = False,
) -> int:
    """Run a program under probes, and report when it has ended.

    Functions are instrumented when they are called for the first time; nothing is written to a file but the report.
    Ends as the program does, or with 125 and the reason.
    """
    from jit.commands.run import run

    return run(command, _options(**locals()))


def _attach(
    pid: Pid,
    probe: ProcessProbes = None,
    probes: ProbeFiles = None,
    duration: Duration = None,
    form: Format = "text",
    sort: Sort = "count",
    top: Top = None,
    every: Every = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of printing.")] = None,
    children: Children = "sum",
    jobs: Jobs = None,
    liveness: Liveness = "abi",
    counter_update: CounterUpdate = "auto",
    exact_faults: ExactFaults = False,
    no_cache: NoCache = False,
    name_code: NameCode = False,
) -> None:
    """Put probes into a running process, which goes on; take them out again, and report."""
    from jit.commands.attach import attach

    attach(pid, seconds(duration), _options(**locals()))


def _top(
    pid: Pid,
    probe: ProcessProbes = None,
    probes: ProbeFiles = None,
    duration: Duration = None,
    sort: Annotated[Literal["rate", "count", "address", "function"], typer.Option(help="Order of the table.")] = "rate",
    top: Top = None,
    every: Every = False,
    children: Children = "sum",
    jobs: Jobs = None,
    liveness: Liveness = "abi",
    counter_update: CounterUpdate = "auto",
    exact_faults: ExactFaults = False,
    no_cache: NoCache = False,
) -> None:
    """Show counts and rates of a process while it runs.

    With --probe it is instrumented for the time; without, what another probeloom counts there is shown.
    """
    from jit.commands.top import top as show

    show(pid, seconds(duration), _options(form="text", output=None, **locals()))


def _status(
    pid: Pid,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show what a running probeloom has instrumented in a process, and what that takes."""
    from jit.commands.status import status

    status(pid, as_json)


def _options(**given: Any) -> Any:
    from jit.commands.live import Options

    chosen: Sequence[str] = ("form", "sort", "top", "every", "output", "children")
    how: Sequence[str] = ("liveness", "counter_update", "exact_faults")
    return Options(
        probes=tuple(given["probe"] or ()),
        files=tuple(given["probes"] or ()),
        jobs=job_count(given["jobs"]),
        use_cache=not given["no_cache"],
        name_code=given.get("name_code", False),
        **{name: given[name] for name in (*chosen, *how)},
    )


def seconds(duration: str | None) -> float | None:
    """A duration as the user gives it, in seconds. Raises UsageError."""
    if duration is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", duration.strip())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"--for '{duration}' is no time: 30s, 500ms, 5m or 1h")
    return float(found[1]) * _UNITS[found[2]]
