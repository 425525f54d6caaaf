"""`probeloom rewrite`."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from codecache.store import Store
from jit import console, offline
from jit.commands.selection import read_probes, read_specs
from jit.options import Clock, CounterUpdate, Options
from jit.recall import key_of, recall
from lifter.errors import Refusal, RefusedError, UsageError
from lifter.image.load import open_image

_REASONS = 3
"""How many reasons the last line names."""


@dataclass(frozen=True, slots=True)
class Request:
    """The options of the command."""

    binary: Path
    output: Path | None
    """None only for a dry run."""
    probes: tuple[str, ...]
    files: tuple[Path, ...]
    report: Path | None
    jobs: int
    liveness: Literal["abi", "strict"]
    counter_update: CounterUpdate
    optimise: Literal["loops", "all"]
    counter_placement: Literal["minimal", "every"]
    calls: Literal["auto", "cache", "place"]
    strict_coverage: bool
    dry_run: bool
    use_cache: bool


def run(request: Request) -> None:
    """Instrument, write, and say what was done. Raises ProbeloomError."""
    specs = read_specs(request.probes, request.files)
    if not specs:
        raise UsageError("no probe given: --probe 'block:*' counts every block")
    for file in (request.output, request.report):
        _check_place(file)
    if request.report is not None:
        for other in (request.binary, request.output):
            if other is not None and _is_same(request.report, other):
                raise UsageError(f"cannot write the report to {request.report}: it is {other}")
    probes = read_probes(specs)
    image = open_image(request.binary)
    options = Options(
        jobs=request.jobs,
        liveness=request.liveness,
        counter_update=request.counter_update,
        optimise=request.optimise,
        placement=request.counter_placement,
        calls=request.calls,
        use_cache=request.use_cache,
        probes=probes,
    )
    store = Store.open() if request.use_cache else None
    built = None
    if store is not None:
        built = recall(store, key_of(image, specs, options, probes), Clock())
    if built is None:
        # LLVM takes a second to load: not for a file that is refused, or known.
        from jit import engine

        with console.progress() as progress:
            built = engine.build(image, specs, replace(options, progress=progress))
    report: dict[str, Any] = dict(built.report)
    if request.output is not None and not request.dry_run:
        for text in offline.write(image, built.overlay, request.output, store):
            console.note(text)
    if store is not None:
        store.close()
    if request.report is not None:
        console.write_output(json.dumps(report, indent=1) + "\n", request.report)
    line = summary(request, report, built.refusals)
    print(line)
    if request.strict_coverage and _is_incomplete(report):
        raise RefusedError(f"--strict-coverage: {_refused(built.refusals)}")


def _check_place(file: Path | None) -> None:
    """Say early what would go wrong after a minute of work."""
    if file is None or str(file) == "-":
        return
    try:
        if file.is_dir():
            raise UsageError(f"cannot write {file}: is a directory")
        if not file.absolute().parent.is_dir():
            raise UsageError(f"cannot write {file}: no such directory")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from None


def _is_same(left: Path, right: Path) -> bool:
    """Whether two names are one file, or will be."""
    try:
        return left.samefile(right)
    except OSError:
        return os.path.realpath(left) == os.path.realpath(right)


def _is_incomplete(report: dict[str, Any]) -> bool:
    """Whether a tracepoint or a whole function is missing. (Code that nothing reaches is no tracepoint.)"""
    return any(report[key]["instrumented"] < report[key]["selected"] for key in ("tracepoints", "functions"))


def summary(request: Request, report: dict[str, Any], refusals: Iterable[Refusal]) -> str:
    """The last line: what was instrumented, what was refused and why."""
    functions, tracepoints = report["functions"], report["tracepoints"]
    target = "dry run" if request.dry_run or request.output is None else str(request.output)
    return (
        f"{target}: {tracepoints['instrumented']} of {tracepoints['selected']} tracepoints in "
        f"{functions['instrumented']} of {functions['selected']} functions; {_refused(tuple(refusals))}"
    )


def _refused(refusals: tuple[Refusal, ...]) -> str:
    if not refusals:
        return "nothing refused"
    reasons = Counter(refusal.reason for refusal in refusals).most_common()
    named = [f"{number} {reason}" for reason, number in reasons[:_REASONS]]
    rest = sum(number for _, number in reasons[_REASONS:])
    return f"{len(refusals)} refused: {'; '.join([*named, *([f'{rest} for other reasons'] if rest else [])])}"
