"""Emulated verification: original and instrumented functions from the same random states, compared at every exit."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from jit.disagreement import Listing
from jit.emulated_memory import World
from jit.emulation_limits import limits_of_graph
from jit.random_state import State
from jit.verifier import Built, Outcome, Verifier
from lifter.cfg import build_all
from lifter.errors import Refusal, UsageError
from lifter.graph import FunctionGraph
from lifter.image.types import Function, Image

_FORMAT: Final = 1
"""Of the JSON files of cases."""


@dataclass(frozen=True, slots=True)
class Case:
    """A difference that can be replayed."""

    path: str
    """Of the image."""
    build_id: str
    function: str
    address: int
    """Of the function, in the file."""
    seed: int
    """Of memory."""
    number: int
    """Of the state: `random_state(memory, seed, number)` gives it again."""
    state: State
    strict: bool
    what: str
    """The difference, for people."""
    listing: Listing
    """The code of both sides that ran last before it."""

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        content = {"format": _FORMAT, **asdict(self)}
        content["state"]["world"] = self.state.world.value
        path.write_text(json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read what `save` wrote. Raises UsageError if it is something else."""
        try:
            content: dict[str, Any] = json.loads(path.read_text())
            if content.pop("format") != _FORMAT:
                raise ValueError("another version wrote it")
            state = content.pop("state")
            listing = content.pop("listing")
            return cls(
                **content,
                state=State(
                    tuple(state["registers"]),
                    state["flags"],
                    tuple(state["vectors"]),
                    state["seed"],
                    World(state["world"]),
                ),
                listing=Listing(tuple(listing["original"]), tuple(listing["instrumented"])),
            )
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path}: not a case of `probeloom verify` ({error})") from None

    def __str__(self) -> str:
        lines = [f"{self.function} at {self.address:#x}, seed {self.seed}, state {self.number}: {self.what}"]
        lines += [f"  state: {self.state}", "  original code before it:"]
        lines += [f"    {line}" for line in self.listing.original]
        lines += ["  instrumented code before it:"]
        lines += [f"    {line}" for line in self.listing.instrumented]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class FunctionReport:
    """What was checked of one function."""

    function: str
    address: int
    states: int
    """Runs compared."""
    ends: Mapping[str, int]
    """How the original's runs ended -> how many."""
    blocks: int
    """Of the function."""
    reached: int
    """Of these, by some run."""
    counted: int
    """Runs in which the counters were compared with the blocks executed, too."""
    unchecked: Mapping[str, int]
    """Why something was not checked -> number of blocks (before emulating) or runs (while emulating)."""


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What was checked, what was not and why, and what was found."""

    functions: tuple[FunctionReport, ...]
    cases: tuple[Case, ...]
    """Differences; empty if all is well."""
    refusals: tuple[Refusal, ...]
    """Functions that could not be run at all."""
    strict: bool
    seed: int


@dataclass
class _Tally:
    """A `FunctionReport` in the making."""

    states: int = 0
    counted: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    unchecked: Counter[str] = field(default_factory=Counter)
    reached: set[int] = field(default_factory=set)

    def add(self, outcome: Outcome) -> None:
        """One more state."""
        self.states += 1
        self.counted += outcome.counted
        self.ends[outcome.end] += 1
        self.reached |= outcome.reached
        if outcome.unchecked:
            self.unchecked[f"{outcome.unchecked} (runs)"] += 1


def verify(
    image: Image,
    built: Built,
    *,
    functions: Iterable[Function],
    samples: int = 100,
    seed: int = 0,
    strict: bool = False,
    stop_after: int = 1,
) -> VerifyReport:
    """Run each of `functions` from `samples` random states on both sides, until `stop_after` differences were found.

    `strict` must be how the overlay was built: with `abi` liveness, registers that the ABI calls dead may differ.
    """
    chosen = list(functions)
    graphs = build_all(image, chosen)
    verifier = Verifier(image, built, seed=seed, strict=strict)
    reports: list[FunctionReport] = []
    cases: list[Case] = []
    refusals: list[Refusal] = []
    for function in chosen:
        graph = graphs[function.address]
        limits = limits_of_graph(graph)
        if function.address in limits:
            reason = f"cannot be emulated: {limits[function.address]} in its first block"
            refusals.append(Refusal(function.address, reason, function=function.name))
            continue
        tally = _Tally(unchecked=Counter(f"{reason} (blocks)" for reason in limits.values()))
        for number in range(samples):
            outcome = verifier.check(graph, verifier.state(number))
            tally.add(outcome)
            if outcome.difference is not None:
                cases.append(_case(image, function, seed, number, verifier.state(number), strict, outcome))
                break
        reports.append(_function_report(function, graph, tally))
        if len(cases) >= stop_after:
            break
    return VerifyReport(tuple(reports), tuple(cases), tuple(refusals), strict, seed)


def replay(case: Case, image: Image, built: Built) -> Case | None:
    """Run a case again: what differs now, or None. Raises UsageError if it is about another file."""
    if case.build_id != image.build_id:
        raise UsageError(f"the case is about {case.path} with build id {case.build_id or 'unknown'}, not this file")
    function = image.function_at(case.address)
    if function is None or function.address != case.address:
        raise UsageError(f"the case is about a function at {case.address:#x}, where this file has none")
    graph = build_all(image, [function])[function.address]
    outcome = Verifier(image, built, seed=case.seed, strict=case.strict).check(graph, case.state)
    if outcome.difference is None:
        return None
    return _case(image, function, case.seed, case.number, case.state, case.strict, outcome)


def _case(
    image: Image, function: Function, seed: int, number: int, state: State, strict: bool, outcome: Outcome
) -> Case:
    assert outcome.difference is not None
    assert outcome.listing is not None
    return Case(
        str(image.path),
        image.build_id,
        function.name,
        function.address,
        seed,
        number,
        state,
        strict,
        outcome.difference.what,
        outcome.listing,
    )


def _function_report(function: Function, graph: FunctionGraph, tally: _Tally) -> FunctionReport:
    return FunctionReport(
        function.name,
        function.address,
        tally.states,
        dict(tally.ends),
        len(graph.blocks),
        len(tally.reached),
        tally.counted,
        dict(tally.unchecked),
    )


def render(report: VerifyReport) -> str:
    """The report for people."""
    lines = []
    for row in report.functions:
        ends = ", ".join(f"{number} {end}" for end, number in sorted(row.ends.items(), key=lambda item: -item[1]))
        lines.append(f"{row.function}: {row.states} states, {row.reached} of {row.blocks} blocks; {ends}")
        lines += [f"    not checked: {reason}: {number}" for reason, number in sorted(row.unchecked.items())]
    lines += [f"not run: {refusal}" for refusal in report.refusals]
    lines += [f"DIFFERENCE: {case}" for case in report.cases]
    states = sum(row.states for row in report.functions)
    reached = sum(row.reached for row in report.functions)
    blocks = sum(row.blocks for row in report.functions)
    counted = sum(row.counted for row in report.functions)
    mode = "strict" if report.strict else "abi"
    lines.append(
        f"{len(report.functions)} functions from {states} states (seed {report.seed}, {mode}): "
        f"{reached} of {blocks} blocks reached, counters compared in {counted} runs, "
        f"{len(report.refusals)} functions not run, {len(report.cases)} differences"
    )
    return "\n".join(lines)
