"""The engine's stages one after the other in one process, each with its processor time.

The engine itself lowers while workers compile; here nothing overlaps, and LLVM's part is taken apart.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from codecache import compiler, module, objects
from codecache.types import CompiledRegion
from ir.source import RegionSource
from jit.options import Clock, Options
from jit.prepare import prepare
from jit.specs import parse_spec
from lifter.decode import decode_run
from lifter.image.load import open_image

P = ParamSpec("P")
R = TypeVar("R")

BATCH = 96


def measure(binary: Path, spec: str, optimise: str) -> dict[str, float]:
    """Seconds by stage, and the number of regions that each way of making them takes."""
    seconds: dict[str, float] = {}

    def timed(stage: str, work: Callable[P, R], *arguments: P.args, **keywords: P.kwargs) -> R:
        start = time.process_time()
        result = work(*arguments, **keywords)
        seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - start
        return result

    image = timed("load", open_image, binary)

    def decode() -> None:
        for function in image.functions:
            for _ in decode_run(image.read(function.address, function.size)):
                pass

    timed("decode", decode)
    timed("decode again", decode)
    clock = Clock()
    options = Options(use_cache=False, optimise="all" if optimise == "all" else "loops")
    prepared = prepare(image, [parse_spec(spec)], options, clock)
    seconds.update({stage: clock.seconds[stage] for stage in ("graph", "liveness", "plan")})
    sources: dict[RegionSource, None] = {}
    regions = carried = 0
    for planned in prepared.functions:
        work = timed("lower", planned.lower)
        for region in work.code.all_regions:
            regions += 1
            if isinstance(region.source, CompiledRegion):
                carried += 1
            else:
                sources[region.source] = None
    distinct = list(sources)
    for at in range(0, len(distinct), BATCH):
        batch = distinct[at : at + BATCH]
        texts = timed("text", lambda batch=batch: [_text(i, source) for i, source in enumerate(batch)])  # type: ignore[misc]
        parsed = timed("parse", module.parse, module.module_text(texts))
        machine = module.target_machine("")
        module.set_effort(lean=not batch[0].passes)
        if batch[0].passes:
            timed("optimise", module.optimise, parsed, machine)
        content = timed("generate", machine.emit_object, parsed)
        timed("read", objects.read_regions, content, [source.shift for source in batch])
    again = timed("all of LLVM", _compile, distinct)
    return {**seconds, "regions": regions, "carried": carried, "compiled": again}


def _text(index: int, source: RegionSource) -> str:
    framed = "L_fs" in source.text
    shift = source.shift_framed if framed else source.shift
    return module.region_text(source.text, index, shift, framed, firm=not source.loose)


def _compile(sources: list[RegionSource]) -> int:
    """As workers do it: what needs a frame or a loose register after all is compiled again."""
    return sum(len(compiler.compile_batch(sources[at : at + BATCH])) for at in range(0, len(sources), BATCH))
