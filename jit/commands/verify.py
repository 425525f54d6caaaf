"""`probeloom verify`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jit import console, engine
from jit.analysis import effective_liveness
from jit.commands.selection import read_probes, read_specs
from jit.options import CounterUpdate, Options
from jit.specs import match, select
from jit.tracepoints import Point, Spec
from jit.verify import Case, render, replay, verify
from lifter.errors import DifferenceError, RefusedError, UsageError
from lifter.image.load import open_image


@dataclass(frozen=True, slots=True)
class Request:
    """The options of the command."""

    binary: Path
    probes: tuple[str, ...]
    files: tuple[Path, ...]
    samples: int
    seed: int
    function: str
    case: Path
    replay: Path | None
    jobs: int
    liveness: Literal["abi", "strict"]
    counter_update: CounterUpdate
    optimise: Literal["loops", "all"]
    counter_placement: Literal["minimal", "every"]
    use_cache: bool


def run(request: Request) -> None:
    """Verify and say what was checked. Raises DifferenceError on the first difference, or ProbeloomError."""
    specs = read_specs(request.probes, request.files) or [Spec(Point.BLOCK, request.function)]
    probes = read_probes(specs)
    case = Case.load(request.replay) if request.replay is not None else None
    image = open_image(request.binary)
    chosen = match(specs, image.functions)
    selected = {function for functions in chosen.values() for function in functions}
    functions = [function for function in select(request.function, image.functions) if function in selected]
    if not functions:
        raise RefusedError(f"--function '{request.function}' matches no function that the probes are in")
    with console.progress() as progress:
        options = Options(
            jobs=request.jobs,
            liveness=request.liveness,
            counter_update=request.counter_update,
            optimise=request.optimise,
            # Functions are entered here without any of their callers having run.
            placement="function" if request.counter_placement == "minimal" else "every",
            use_cache=request.use_cache,
            probes=probes,
            progress=progress,
        )
        built = engine.build(image, specs, options)
    if case is not None:
        again = replay(case, image, built)
        if again is not None:
            print(again)
            raise DifferenceError(f"{again.function} still differs: {again.what}")
        print(f"{request.replay}: no difference any more")
        return
    strict = effective_liveness(image, request.liveness) == "strict"
    report = verify(image, built, functions=functions, samples=request.samples, seed=request.seed, strict=strict)
    print(render(report))
    if not report.cases:
        return
    first = report.cases[0]
    try:
        first.save(request.case)
    except OSError as error:
        raise UsageError(f"cannot write {request.case}: {error.strerror}") from None
    again_with = [f"--probe={spec}" for spec in specs]
    again_with += [f"--liveness={request.liveness}", f"--replay={request.case}"]
    command = shlex.join(["probeloom", "verify", str(request.binary), *again_with])
    raise DifferenceError(f"{first.function} differs: {first.what}; again with: {command}")
