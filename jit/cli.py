"""The command line: `probeloom list|lift|rewrite|report|verify|coverage|cache|run`.

Exit codes: 0 done, 2 wrong use, 3 refused, 4 a difference was found, 5 a fault of our own. `run` ends as the program
that it runs does, or with 125.
"""

from __future__ import annotations

import errno
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
import typer.core

from jit import console
from jit.commands.live_cli import add_live_commands
from jit.commands.options import (
    Binary,
    Calls,
    CounterPlacement,
    CounterUpdate,
    Jobs,
    Liveness,
    NoCache,
    Optimise,
    ProbeFiles,
    Probes,
    job_count,
)
from lifter.errors import ProbeloomError, UsageError

_LATE: Final = {"fuzz": "fuzz.commands"}
"""Commands whose module is imported when they are asked for: name -> module with a `typer.Typer` called `app`.

Fuzzing stands above the engine and may use all of it, so nothing here imports `fuzz` but by this name, and an
installation without it lacks this one command and nothing else.
"""
_LATE_HELP: Final = {"fuzz": "Look for differences between original and lifted code, at random."}


class _Commands(typer.core.TyperGroup):
    """The commands of this module, and those of `_LATE`."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *_LATE]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _LATE:
            return super().get_command(ctx, cmd_name)
        command = typer.main.get_command(import_module(_LATE[cmd_name]).app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """As in click, without importing what is only to be listed."""
        names = self.list_commands(ctx)
        rows = []
        for name in names:
            command = None if name in _LATE else self.get_command(ctx, name)
            rows.append((name, _LATE_HELP[name] if command is None else command.get_short_help_str(70)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


app = typer.Typer(
    name="probeloom",
    cls=_Commands,
    help="Puts probes into x86-64 Linux binaries by recompiling the code they are in.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
cache_app = typer.Typer(help="The store of compiled code in the user's cache directory.", rich_markup_mode=None)
app.add_typer(cache_app, name="cache")

def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"probeloom {version('probeloom')}")
        except PackageNotFoundError:
            print("probeloom (not installed)")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Puts probes into x86-64 Linux binaries by recompiling the code they are in."""


@app.command("list")
def list_(
    binary: Binary,
    glob: Annotated[str, typer.Argument(metavar="[GLOB]", help="Only functions with such names.")] = "*",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show functions and whether they can be instrumented."""
    from jit.commands.listing import run

    run(binary, glob, as_json)


@app.command()
def lift(
    binary: Binary,
    function: Annotated[str, typer.Argument(metavar="FUNCTION", help="A name, demangled or not, or 0xADDRESS.")],
    stage: Annotated[
        Literal["cfg", "ir", "probe", "opt", "asm"],
        typer.Option(help="Control-flow graph, IR, IR with probes, the same optimised, machine code."),
    ] = "cfg",
    probe: Probes = None,
    probes: ProbeFiles = None,
    liveness: Liveness = "abi",
    counter_update: CounterUpdate = "auto",
) -> None:
    """Show what the engine makes of a function, at each stage.

    Without --probe, every block is counted.
    """
    from jit.commands.lift import run

    run(binary, function, stage, probe or [], probes or [], liveness, counter_update)


@app.command()
def rewrite(
    binary: Binary,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="The new executable.")] = None,
    probe: Probes = None,
    probes: ProbeFiles = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="What was done, refused, and how long it took.")
    ] = None,
    jobs: Jobs = None,
    liveness: Liveness = "abi",
    counter_update: CounterUpdate = "auto",
    optimise: Optimise = "loops",
    counter_placement: CounterPlacement = "minimal",
    calls: Calls = "auto",
    strict_coverage: Annotated[
        bool, typer.Option("--strict-coverage", help="Exit with 3 if any tracepoint was refused.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Do everything but write OUT.")] = False,
    no_cache: NoCache = False,
) -> None:
    """Write a new executable that behaves the same and counts.

    Run it with PROBELOOM_DATA=FILE to keep the counters in FILE (%p: process id, %m: module's name), and see
    them with `probeloom report FILE`.
    """
    if output is None and not dry_run:
        raise UsageError("missing option -o OUT (or --dry-run)")
    from jit.commands.rewrite import Request, run

    run(
        Request(
            binary=binary,
            output=output,
            probes=tuple(probe or ()),
            files=tuple(probes or ()),
            report=report,
            jobs=job_count(jobs),
            liveness=liveness,
            counter_update=counter_update,
            optimise=optimise,
            counter_placement=counter_placement,
            calls=calls,
            strict_coverage=strict_coverage,
            dry_run=dry_run,
            use_cache=not no_cache,
        )
    )


@app.command("report")
def report_(
    data: Annotated[list[Path], typer.Argument(metavar="DATA", help="Data files of one executable: added up.")],
    form: Annotated[Literal["text", "json", "drcov", "lcov"], typer.Option("--format", help="Output format.")] = "text",
    sort: Annotated[
        Literal["count", "address", "function", "instructions"], typer.Option(help="Order of the table.")
    ] = "count",
    top: Annotated[int | None, typer.Option(metavar="N", min=0, help="Only the first N rows of the table.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Rows that were never hit, too.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Instead of printing.")] = None,
) -> None:
    """Show what was counted."""
    from jit.commands.report import run

    run(data, form, sort, top, every, output)


@app.command()
def verify(
    binary: Binary,
    probe: Probes = None,
    probes: ProbeFiles = None,
    samples: Annotated[int, typer.Option(metavar="N", min=1, help="Random states a function.")] = 100,
    seed: Annotated[int, typer.Option(metavar="S", help="Of the random states.")] = 0,
    function: Annotated[str, typer.Option(metavar="GLOB", help="Only these of the instrumented functions.")] = "*",
    case: Annotated[
        Path, typer.Option(metavar="FILE.json", help="Where a difference is written, for --replay.")
    ] = Path("probeloom-case.json"),
    replay: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Run such a case again.")] = None,
    jobs: Jobs = None,
    liveness: Liveness = "abi",
    counter_update: CounterUpdate = "auto",
    optimise: Optimise = "loops",
    counter_placement: CounterPlacement = "minimal",
    no_cache: NoCache = False,
) -> None:
    """Compare original and instrumented functions, emulated.

    Both run from the same random states; registers, memory and the order of writes must be equal.
    """
    from jit.commands.verify import Request, run

    run(
        Request(
            binary=binary,
            probes=tuple(probe or ()),
            files=tuple(probes or ()),
            samples=samples,
            seed=seed,
            function=function,
            case=case,
            replay=replay,
            jobs=job_count(jobs),
            liveness=liveness,
            counter_update=counter_update,
            optimise=optimise,
            counter_placement=counter_placement,
            use_cache=not no_cache,
        )
    )


@app.command()
def coverage(
    binaries: Annotated[list[Path], typer.Argument(metavar="BINARY", help="Executables and shared libraries.")],
    data: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A data file of a run with its blocks counted.")
    ] = None,
    forms: Annotated[int, typer.Option(metavar="N", min=0, help="How many native forms to show.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how many instructions are lifted, carried and native.

    With --data also how many of those that were executed.
    """
    from jit.commands.coverage import run

    run(binaries, data or [], forms, as_json)


add_live_commands(app)


@cache_app.command("info")
def cache_info() -> None:
    """Show where the store is and what it holds."""
    from jit.commands.cache import info

    info()


@cache_app.command("clear")
def cache_clear() -> None:
    """Empty the store."""
    from jit.commands.cache import clear

    clear()


_RUN_FAILED = 125
"""As env(1) and timeout(1) have it."""
_OUTPUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a write to standard output can end in. (Writing files is handled where it is done.)"""


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run()
        sys.stdout.flush()
    except OSError as problem:
        code = _unwritten(problem)
    sys.exit(code)


def _unwritten(problem: OSError) -> int:
    """The exit code when standard output takes no more; quiet where nobody reads it."""
    # What is still buffered would fail again when the interpreter closes the stream.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(problem, BrokenPipeError):
        return 1
    console.say("error", f"cannot write the output: {problem.strerror}")
    return 2


def _run() -> int:
    try:
        result = app(prog_name="probeloom", standalone_mode=False)
    except ProbeloomError as failure:
        if failure.exit_code == 5:
            console.bug(failure)
        else:
            console.error(failure)
        return _failed(failure.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        print(file=sys.stderr)
        return 130
    except Exception as failure:
        if isinstance(failure, OSError) and failure.errno in _OUTPUT_ERRORS:
            raise
        explain = getattr(failure, "format_message", None)
        if explain is None:
            console.bug(failure)
            return _failed(5)
        console.say("error", f"{explain().rstrip('.')}; see 'probeloom --help'")
        return _failed(2)
    return result if isinstance(result, int) else 0


def _failed(code: int) -> int:
    """The exit code of a failure: `run` ends as the program does, and keeps one code for itself."""
    return _RUN_FAILED if sys.argv[1:2] == ["run"] else code


if __name__ == "__main__":
    main()
