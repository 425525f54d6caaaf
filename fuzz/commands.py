"""`probeloom fuzz`: campaigns against the oracles, and the report of one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from lifter.errors import DifferenceError, UsageError

app = typer.Typer(
    help="Look for differences between original and lifted code, at random.", add_completion=False,
    rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip

Binaries = Annotated[
    list[Path] | None, typer.Argument(metavar="[BINARY ...]", help="Executables or libraries to take code from.")
]
Count = Annotated[int | None, typer.Option("--count", metavar="N", min=1, help="How much to do (see above).")]
Seconds = Annotated[float | None, typer.Option("--seconds", metavar="N", min=0, help="How long to go on, instead.")]
Seed = Annotated[int, typer.Option("--seed", metavar="S", help="Of everything random.")]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", metavar="N", min=1, help="Processes; all cores.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Keep the campaign there; one that was stopped goes on with it."),
]
Cluster = Annotated[
    str, typer.Option("--cluster", metavar="ADDRESS", help="Work on a dask.distributed cluster instead of processes.")
]
Match = Annotated[str, typer.Option("--match", metavar="TEXT", help="Only what has this in its name.")]
KeepGoing = Annotated[bool, typer.Option("--keep-going", help="Do not stop at the first difference.")]
CaseText = Annotated[str | None, typer.Option("--case", metavar="CASE", help="Run the case of a difference again.")]
SaveTo = Annotated[
    Path | None,
    typer.Option("--save-to", metavar="FILE", help="Append what is found as a one-line case, as in tests/cases."),
]


@app.command()
def insn(
    count: Count = None,
    seconds: Seconds = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    out: Out = None,
    cluster: Cluster = "",
    match: Match = "",
    keep_going: KeepGoing = False,
    case: CaseText = None,
    save_to: SaveTo = None,
) -> None:
    """Every instruction of the table, any prefix and operand, boundary values, all flags.

    --count is the number of states of each form (2,000).
    """
    _run("insn", (), count, seconds, seed, jobs, out, cluster, match, keep_going, case, save_to)


@app.command()
def block(
    binaries: Binaries = None,
    count: Count = None,
    seconds: Seconds = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    out: Out = None,
    cluster: Cluster = "",
    match: Match = "",
    keep_going: KeepGoing = False,
    case: CaseText = None,
) -> None:
    """Basic blocks as the engine compiles them: random ones, or blocks of the files given.

    --count is the number of blocks (1,000).
    """
    _run("block", binaries or (), count, seconds, seed, jobs, out, cluster, match, keep_going, case, None)


@app.command()
def function(
    binaries: Binaries = None,
    count: Count = None,
    seconds: Seconds = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    out: Out = None,
    cluster: Cluster = "",
    match: Match = "",
    keep_going: KeepGoing = False,
    case: CaseText = None,
) -> None:
    """Whole functions of the files given, from random states.

    --count is the number of functions (200).
    """
    _run("function", binaries or (), count, seconds, seed, jobs, out, cluster, match, keep_going, case, None)


@app.command()
def program(
    count: Count = None,
    seconds: Seconds = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    out: Out = None,
    cluster: Cluster = "",
    match: Match = "",
    keep_going: KeepGoing = False,
    case: CaseText = None,
) -> None:
    """Programs made by csmith, compiled and rewritten at random: same output, same exit status.

    --count is the number of programs (20).
    """
    _run("program", (), count, seconds, seed, jobs, out, cluster, match, keep_going, case, None)


@app.command()
def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The --out of a campaign.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of DIR/report.html; - prints.")
    ] = None,
) -> None:
    """Draw what a campaign covered as an HTML page."""
    from fuzz.html import render
    from fuzz.journal import read_campaign
    from jit.console import write_output

    settings, progress = read_campaign(directory)
    target = output or directory / "report.html"
    write_output(render(settings, progress.total, progress.elapsed), target)
    if str(target) != "-":
        print(target)


def _run(
    kind: str,
    binaries: list[Path] | tuple[()],
    count: int | None,
    seconds: float | None,
    seed: int,
    jobs: int | None,
    out: Path | None,
    cluster: str,
    match: str,
    keep_going: bool,
    case: str | None,
    save_to: Path | None,
) -> None:
    from fuzz.campaign import Settings
    from fuzz.runner import Means, replay_command, run_campaign, summary

    if count is not None and seconds is not None:
        raise UsageError("either --count or --seconds")
    if case is not None:
        from fuzz.workers import replay

        failure = replay(kind, case)
        if failure is None:
            print("no difference")
            return
        raise DifferenceError(failure.what)
    settings = Settings(kind, tuple(str(path.resolve()) for path in binaries), count, seconds, seed, match)
    means = Means(jobs or len(os.sched_getaffinity(0)), out, cluster, keep_going)
    outcome = run_campaign(settings, means)
    print(summary(outcome))
    failures = outcome.result.failures
    if not failures:
        return
    if save_to is not None:
        _append(save_to, [failure.case for failure in failures])
    first = failures[0]
    again = replay_command(settings, first)
    raise DifferenceError(f"{len(failures)} found, the first: {first.what}; again with: {again}")


def _append(path: Path, cases: list[str]) -> None:
    """Add cases that are one line of a file of cases; what the processor says is blessed in later."""
    lines = [f"{case.strip()} => ?" for case in cases if "|" in case]
    try:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
