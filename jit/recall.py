"""Instrumentations that were made before, found again without what it takes to make one: no LLVM, no decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from codecache.store import Store
from codecache.types import Overlay
from ir.probes import CompiledProbe
from jit.builtcache import decode, plan_key
from jit.options import Clock, Options
from jit.tracepoints import Spec, Tracepoint
from lifter.errors import Refusal

if TYPE_CHECKING:
    from lifter.image.types import Image


@dataclass(frozen=True)
class Built:
    """Everything that a mode (offline, live, emulated) needs."""

    overlay: Overlay
    refusals: tuple[Refusal, ...]
    report: Mapping[str, Any]
    """As `probeloom rewrite --report` writes it."""

    @cached_property
    def tracepoints(self) -> tuple[Tracepoint, ...]:
        """What is counted where, as the overlay's data describe it."""
        from jit import datafile

        return tuple(datafile.decode(self.overlay.data, "the overlay").tracepoints)


def key_of(image: Image, specs: Sequence[Spec], options: Options, probes: Mapping[str, CompiledProbe]) -> str:
    """The key of an instrumentation in the store. `probes` are those that the specs' actions name."""
    how = (options.liveness, options.counter_update, options.placement, options.optimise, options.calls)
    return plan_key(image, specs, probes, (*how, str(options.bare)))


def recall(store: Store, key: str, clock: Clock) -> Built | None:
    """What was made with this key before, if the store has it."""
    with clock.stage("cache"):
        content = store.get_plan(key)
        if content is None:
            return None
        try:
            known = Built(*decode(content))
        except ValueError:
            return None
    regions = known.report["cache"]["hits"] + known.report["cache"]["misses"]
    report = {**known.report, "seconds": clock.seconds, "cache": {"hits": regions, "misses": 0}}
    return replace(known, report=report)
