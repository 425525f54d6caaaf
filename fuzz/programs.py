"""`probeloom fuzz program`: programs made by csmith, compiled and rewritten at random, must behave as before.

csmith's programs have no undefined behaviour, and print a checksum of all their variables at the end.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fuzz.campaign import Failure, Job, Result, Settings, jobs
from jit import engine
from jit.options import CounterUpdate, LivenessMode, Options
from jit.tracepoints import Point, Spec
from lifter.errors import ProbeloomError, RefusedError, UsageError
from lifter.image.load import open_image

UNITS: Final = "programs"
DEFAULT_COUNT: Final = 20
LEVELS: Final = ("-O0", "-O1", "-O2", "-O3", "-Os")
_COMPILERS: Final = ("gcc", "clang")
_HEADERS: Final = Path("/usr/include/csmith")
_MORE: Final = (
    "-static", "-no-pie", "-fno-omit-frame-pointer", "-fcf-protection=none", "-march=native", "-fno-inline", "-s",
    "-fno-jump-tables", "-funroll-loops", "-ffunction-sections",
)  # fmt: skip
_CSMITH: Final = ("--max-funcs", "8", "--max-block-depth", "4", "--concise", "--no-packed-struct")
_PATIENCE: Final = 4.0
"""Seconds that an original may run: csmith makes endless programs, too."""
_MORE_PATIENCE: Final = 30.0
"""Seconds that an instrumented program may run."""
_LIVENESS: Final[tuple[LivenessMode, ...]] = ("abi", "strict")
_UPDATES: Final[tuple[CounterUpdate, ...]] = ("plain", "biased", "atomic", "auto")
_POINTS: Final = (("block",), ("block", "entry"), ("block", "entry", "return"), ("entry", "return"))


@dataclass(frozen=True, slots=True)
class Recipe:
    """A program, and what is done to it."""

    seed: int
    """csmith's."""
    compiler: str
    options: tuple[str, ...]
    points: tuple[str, ...]
    liveness: LivenessMode
    update: CounterUpdate

    def __str__(self) -> str:
        options = " ".join(self.options)
        return f"{self.seed}:{self.compiler}:{options}:{'+'.join(self.points)}:{self.liveness}:{self.update}"

    @classmethod
    def parse(cls, text: str) -> Recipe:
        """The recipe that `str` wrote. Raises ValueError."""
        seed, compiler, options, points, liveness, update = text.split(":")
        if compiler not in _COMPILERS or liveness not in _LIVENESS or update not in _UPDATES:
            raise ValueError(text)
        return cls(
            int(seed),
            compiler,
            tuple(options.split()),
            tuple(Point(point).value for point in points.split("+")),
            _LIVENESS[_LIVENESS.index(liveness)],
            _UPDATES[_UPDATES.index(update)],
        )


def plan(settings: Settings) -> Iterator[Job]:
    """See `fuzz.campaign.Kind`."""
    if settings.binaries:
        raise UsageError("fuzz program takes no binaries: csmith makes the programs")
    compilers = [name for name in _COMPILERS if settings.match in name and shutil.which(name)]
    if shutil.which("csmith") is None or not _HEADERS.is_dir():
        raise UsageError("fuzz program needs csmith and its headers: apt-get install csmith libcsmith-dev")
    if not compilers:
        raise UsageError(f"no compiler: install one of {', '.join(_COMPILERS)}")
    return jobs("program", settings.seed, _works(settings, compilers))


def _works(settings: Settings, compilers: Sequence[str]) -> Iterator[dict[str, Any]]:
    number = 0
    count = None if settings.seconds is not None else settings.count or DEFAULT_COUNT
    while count is None or number < count:
        # Every level with every compiler in turn.
        level = LEVELS[number % len(LEVELS)]
        yield {"level": level, "compiler": compilers[number // len(LEVELS) % len(compilers)]}
        number += 1


def run(job: Job) -> Result:
    """See `fuzz.campaign.Kind`."""
    started = time.monotonic()
    source = random.Random(job.seed)
    more = [option for option in _MORE if source.random() < 0.2]
    if "-static" in more:
        more = [option for option in more if option not in ("-no-pie", "-s")]
    recipe = Recipe(
        job.seed, job.work["compiler"], (job.work["level"], *more), source.choice(_POINTS), source.choice(_LIVENESS),
        source.choice(_UPDATES),
    )  # fmt: skip
    result = Result()
    what = check(recipe)
    if what.startswith("not run: "):
        result.notes[what] += 1
    else:
        result.units += 1
        form = f"{recipe.compiler} {job.work['level']}"
        result.cover(form, f"{recipe.liveness}, {recipe.update}", "program", 1, bool(what))
    if what and not what.startswith("not run: "):
        result.failures.append(Failure(str(recipe), what))
    result.seconds = time.monotonic() - started
    return result


def check(recipe: Recipe) -> str:
    """What the instrumented program does otherwise, '' if nothing; or why it was not run."""
    with tempfile.TemporaryDirectory(prefix="probeloom-fuzz-") as name:
        return _check_in(Path(name), recipe)


def _check_in(directory: Path, recipe: Recipe) -> str:
    text, program = directory / "program.c", directory / "program"
    made = _run(["csmith", "--seed", str(recipe.seed), *_CSMITH, "-o", str(text)], directory, _MORE_PATIENCE)
    if made is None or made.returncode:
        return "not run: csmith makes no program of the seed"
    command = [recipe.compiler, "-w", f"-I{_HEADERS}", *recipe.options, "-o", str(program), str(text)]
    compiled = _run(command, directory, 10 * _MORE_PATIENCE)
    if compiled is None or compiled.returncode:
        return "not run: the compiler fails"
    expected = _run([str(program)], directory, _PATIENCE)
    if expected is None:
        return "not run: the program does not end"
    instrumented = directory / "instrumented"
    try:
        image = open_image(program)
        # Of a static program only what csmith made: the C library is there each time.
        own = [function.name for function in image.functions if function.name.startswith("func_")]
        patterns = [*own, "main"] if "-static" in recipe.options else ["*"]
        specs = [Spec(Point(point), pattern) for point in recipe.points for pattern in patterns]
        built = engine.build(image, specs, Options(1, recipe.liveness, recipe.update, use_cache=False, calls="auto"))
        engine.write(image, built, instrumented)
    except RefusedError as refusal:
        return f"not run: {refusal}"
    except ProbeloomError as error:
        return f"rewriting fails: {error}"
    data = directory / "counters"
    found = _run([str(instrumented)], directory, _MORE_PATIENCE, {"PROBELOOM_DATA": str(data)})
    if found is None:
        return f"the instrumented program does not end in {_MORE_PATIENCE:.0f} seconds"
    if found.returncode != expected.returncode:
        return f"ends with {expected.returncode}, instrumented {found.returncode}"
    for stream, first, second in (("output", expected.stdout, found.stdout), ("errors", expected.stderr, found.stderr)):
        if first != second:
            return f"{stream} {first[-80:]!r}, instrumented {second[-80:]!r}"
    return "" if data.is_file() else "no counters were written"


def _run(
    command: list[str], directory: Path, seconds: float, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes] | None:
    """Run a command; None if it takes longer."""
    try:
        return subprocess.run(
            command, cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **(variables or {})},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return None


def replay(case: str) -> Failure | None:
    """See `fuzz.campaign.Kind`."""
    try:
        recipe = Recipe.parse(case)
    except ValueError:
        raise UsageError(f"'{case}' is not SEED:COMPILER:OPTIONS:POINTS:LIVENESS:UPDATE") from None
    what = check(recipe)
    if what.startswith("not run: "):
        raise UsageError(what)
    return Failure(case, what) if what else None
