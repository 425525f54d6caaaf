"""What `probeloom run`, `attach` and `top` share: options, reports, the ways to end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from jit import console
from jit.commands.selection import read_probes, read_specs
from jit.live.builder import Settings
from jit.live.supervisor import Children, Supervisor
from jit.options import CounterUpdate, LivenessMode
from jit.report import Report, render_text, to_json
from lifter.errors import UsageError

Format = Literal["text", "json", "drcov", "lcov"]
_NOTHING: Final = '{"module": "", "build_id": "", "probes": []}'
"""The report where no module had a function that a spec names."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of all live commands."""

    probes: tuple[str, ...]
    files: tuple[Path, ...]
    form: Format
    sort: str
    top: int | None
    every: bool
    output: Path | None
    children: Children
    jobs: int
    liveness: LivenessMode
    counter_update: CounterUpdate
    use_cache: bool
    exact_faults: bool
    name_code: bool = False


def supervisor(options: Options) -> Supervisor:
    """A supervisor for the probes. Raises UsageError."""
    specs = read_specs(options.probes, options.files, of_process=True)
    if not specs:
        raise UsageError("no probe given: --probe 'entry:*' counts every call")
    settings = Settings(
        options.jobs,
        options.liveness,
        options.counter_update,
        options.use_cache,
        read_probes(specs),
        options.exact_faults,
    )
    return Supervisor(specs, settings, options.children, console.note, name_code=options.name_code)


@contextmanager
def stopped_by_signals(follower: Supervisor) -> Iterator[None]:
    """Inside, SIGINT, SIGTERM and SIGHUP end the following instead of this process."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def stop(_number: int, _frame: object) -> None:
        follower.stopping = True
        os.write(writer, b"s")

    follower.watch(reader, lambda: None)
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        follower.unwatch(reader)
        os.close(reader)
        os.close(writer)


def note_vain(follower: Supervisor) -> None:
    """Say which specs named nothing in all that was loaded."""
    for spec in follower.scope.vain:
        console.note(f"'{spec}' matches no function of any module that was loaded")


def write_reports(options: Options, reports: Sequence[Report], *, to_output: bool = False) -> None:
    """The reports in the format asked for: to the file asked for, else on standard error (`to_output`: on standard
    output, where that is not the program's). Raises UsageError."""
    content = rendered(options, reports)
    if options.output is not None or to_output:
        console.write_output(content, options.output)
    elif isinstance(content, bytes):
        sys.stderr.buffer.write(content)
        sys.stderr.flush()
    else:
        sys.stderr.write(content)
        sys.stderr.flush()


def rendered(options: Options, reports: Sequence[Report]) -> str | bytes:
    """The reports of all modules in one: tables one after the other, or as the format joins them."""
    match options.form:
        case "text":
            return "\n".join(render_text(report, options.sort, options.top, options.every) for report in reports)
        case "json":
            return (to_json(*reports) if reports else _NOTHING) + "\n"
        case "drcov":
            from jit.report_formats import to_drcov

            return to_drcov(*reports)
        case "lcov":
            from jit.report_formats import to_lcov

            return "".join(to_lcov(report) for report in reports)
