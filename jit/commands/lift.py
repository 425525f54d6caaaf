"""`probeloom lift`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jit import inspect
from jit.commands.selection import read_probes, read_specs
from jit.options import CounterUpdate, Options
from jit.specs import match, select
from jit.tracepoints import Point, Spec
from lifter.errors import UsageError
from lifter.image.load import open_image
from lifter.image.types import Function, Image

_SHOWN = 5


def run(
    binary: Path,
    name: str,
    stage: inspect.Stage,
    probes: Sequence[str],
    files: Sequence[Path],
    liveness: Literal["abi", "strict"],
    counter_update: CounterUpdate,
) -> None:
    """Print one stage of one function. Raises ProbeloomError."""
    specs = read_specs(probes, files)
    options = Options(liveness=liveness, counter_update=counter_update, placement="every", probes=read_probes(specs))
    image = open_image(binary)
    function = find_function(image, name)
    matching = [spec for spec in specs if function in select(spec.pattern, image.functions)]
    if specs and not matching:
        raise UsageError(f"no --probe is about {function.demangled}")
    print(inspect.stage(image, function, stage, matching, options), end="")


def find_function(image: Image, name: str) -> Function:
    """The one function that `name` means. Raises UsageError for several, RefusedError for none."""
    (found,) = match([Spec(Point.BLOCK, name)], image.functions).values()
    if len(found) > 1:
        shown = ", ".join(f"{function.demangled} at {function.address:#x}" for function in found[:_SHOWN])
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise UsageError(f"'{name}' means {len(found)} functions: {shown}{more}; give an address")
    return found[0]
