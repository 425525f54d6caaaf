"""The first half of the engine for whoever wants functions one by one: the live mode, and `probeloom lift`.

image -> functions -> graphs -> tracepoints -> plans -> IR

All functions are planned together; the code of each is made when it is asked for. `jit.engine` makes all code of an
image instead, and keeps no plans (see `jit.making`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Final

from ir.options import LoweringOptions
from jit.analysis import Analysis, Draft, FunctionTask, Request
from jit.attach import FunctionActions
from jit.options import Clock, Options
from jit.placement import Terms
from jit.planner import FunctionPlan
from jit.regions import FunctionCode, lower_function
from jit.tracepoints import Spec, Tracepoint
from lifter.borders import Borders
from lifter.errors import Refusal, RefusedError
from lifter.image.types import Image

_MAXIMUM_WORDS: Final = 1 << 25
"""Each tracepoint has its own copy of its probe's words, and all of them are in the file that is written."""


@dataclass(frozen=True, slots=True)
class Work:
    """One function on its way through the engine."""

    plan: FunctionPlan
    code: FunctionCode
    tracepoints: tuple[Tracepoint, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """One function whose counters and trampolines are decided, and whose code can be made at any time."""

    plan: FunctionPlan
    actions: FunctionActions
    borders: Callable[[], Borders]
    options: LoweringOptions

    def lower(self, in_haste: bool = False) -> Work:
        """Its regions as IR; `in_haste` has loops put together from their own bytes too."""
        options = replace(self.options, carry_loops=True) if in_haste else self.options
        code = lower_function(self.plan, self.actions, self.borders(), options)
        return Work(self.plan, code, self.actions.tracepoints)


@dataclass(slots=True)
class Prepared:
    """All that is known before lowering."""

    functions: tuple[Planned, ...]
    """In address order."""
    refusals: list[Refusal]
    """What was left out."""
    words: int
    """Number of counters, private words of probes included."""
    guards: Mapping[Spec, int]
    """Guarded specs -> index among the counters of the word that switches their actions."""


def prepare(image: Image, specs: Sequence[Spec], options: Options, clock: Clock) -> Prepared:
    """Plan the instrumentation of `image` that `specs` ask for.

    Raises RefusedError for a spec that matches nothing, UsageError for a probe that cannot be loaded.
    """
    request = Request(image, specs, options)
    analysis = Analysis(request, clock)
    with clock.stage("plan"):
        everything = _plan(analysis)
        drafts = [(task, draft) for task, draft in everything if draft.item.points]
        firsts = list(accumulate((draft.item.counters(draft.plan) for _, draft in drafts), initial=0))
        guards = {spec: firsts[-1] + number for number, spec in enumerate(request.guarded)}
        next_word = firsts[-1] + len(guards)
        counters = {
            block: first + index
            for first, (_, draft) in zip(firsts[:-1], drafts, strict=True)
            for index, block in enumerate(draft.plan.counted)
        }
        planned = []
        refusals: list[Refusal] = []
        for (task, draft), first in zip(drafts, firsts[:-1], strict=True):
            plan = draft.plan
            actions = draft.item.actions(plan, first, counters, next_word, request.probes.__getitem__, guards)
            next_word += actions.words
            refusals.extend(actions.refusals)
            made = actions.bare() if options.bare else actions
            planned.append(Planned(plan, made, partial(task.borders, plan.graph, image), request.lowering))
        check_words(next_word)
    left_out = {address: [refusal] for address, refusal in request.refused.items()}
    left_out.update((task.function, list(draft.item.refusals)) for task, draft in everything)
    return Prepared(tuple(planned), [*in_order(left_out), *refusals], next_word, guards)


def _plan(analysis: Analysis) -> list[tuple[FunctionTask, Draft]]:
    """Plan each function, callers first; in address order."""
    counts: dict[int, Mapping[int, Terms]] = {}
    drafts = {}
    for address in analysis.order:
        task = analysis.task(address, counts)
        draft = analysis.request.plan(task)
        drafts[address] = task, draft
        if draft.placed:
            counts[address] = draft.plan.counts
    return [drafts[address] for address in sorted(drafts)]


def in_order(refusals: Mapping[int, Iterable[Refusal]]) -> list[Refusal]:
    """Refusals of several functions, in the order of those."""
    return [refusal for address in sorted(refusals) for refusal in refusals[address]]


def check_words(words: int) -> None:
    """Raises RefusedError for more counters and words than go into a file."""
    if words > _MAXIMUM_WORDS:
        megabytes = f"{8 * words >> 20} MiB of at most {8 * _MAXIMUM_WORDS >> 20}"
        raise RefusedError(f"counters and words of probes take {megabytes}: choose fewer tracepoints, or fewer words")
