"""What was measured, as a text table and as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bench.measure import Series
from bench.micro import Cost
from bench.workloads import WORKLOADS

WORKLOAD_NAMES: Final = [workload.name for workload in WORKLOADS]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One contender on one class."""

    tool: str
    counts: str
    workload: str
    series: Series
    share: float
    """Of the full work."""

    @property
    def as_json(self) -> dict[str, Any]:
        """Figures and what they come from."""
        return {
            "tool": self.tool,
            "counts": self.counts,
            "class": self.workload,
            "ratio": round(self.series.ratio, 4),
            "spread": round(self.series.spread, 4),
            "share_of_work": self.share,
            "original_user_seconds": [round(t, 4) for t in self.series.original],
            "user_seconds": [round(t, 4) for t in self.series.contender],
        }


@dataclass(slots=True)
class Results:
    """All of one run of the benchmarks."""

    machine: Mapping[str, str]
    classes: Sequence[str]
    measurements: list[Measurement] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Wrong outputs."""
    unavailable: dict[str, str] = field(default_factory=dict)
    """What could not be measured here, and why."""
    costs: list[Cost] = field(default_factory=list)
    """Of one probe."""
    sizes: dict[str, dict[str, float]] = field(default_factory=dict)
    """By contender and class: bytes in the code cache for one byte of lifted code."""

    def tools(self) -> list[str]:
        """Names of the contenders measured, in the order they were first."""
        return list(dict.fromkeys(m.tool for m in self.measurements))

    def add(self, earlier: str) -> None:
        """Take from an earlier run's JSON what this one did not measure. Raises ValueError where it is no such file."""
        content = json.loads(earlier)
        try:
            kept = [_measurement(entry) for entry in content["measurements"]]
            costs = [Cost(**entry) for entry in content["nanoseconds_a_call"]]
            sizes, unavailable = content["code_size"], content["unavailable"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not written by bench: {error}") from None
        measured = {(m.tool, m.workload) for m in self.measurements}
        self.measurements[:0] = [m for m in kept if (m.tool, m.workload) not in measured]
        priced = {cost.tool for cost in self.costs}
        self.costs[:0] = [cost for cost in costs if cost.tool not in priced]
        self.sizes = {tool: {**sizes.get(tool, {}), **self.sizes.get(tool, {})} for tool in {**sizes, **self.sizes}}
        done = {m.tool for m in self.measurements}
        self.unavailable = {**{k: v for k, v in unavailable.items() if k not in done}, **self.unavailable}
        order = list(dict.fromkeys(m.workload for m in self.measurements))
        self.classes = sorted(order, key=WORKLOAD_NAMES.index)

    def row(self, tool: str) -> dict[str, Measurement]:
        """A contender's measurements by class."""
        return {m.workload: m for m in self.measurements if m.tool == tool}

    def mean(self, tool: str) -> float | None:
        """The geometric mean over all classes; None where one is missing."""
        row = self.row(tool)
        if len(row) < len(self.classes):
            return None
        return statistics.geometric_mean([m.series.ratio for m in row.values()])

    def to_json(self) -> str:
        """Everything."""
        means = {tool: mean for tool in self.tools() if (mean := self.mean(tool)) is not None}
        content = {
            "machine": dict(self.machine),
            "measurements": [m.as_json for m in self.measurements],
            "geometric_means": {tool: round(mean, 4) for tool, mean in means.items()},
            "nanoseconds_a_call": [asdict(cost) for cost in self.costs],
            "code_size": self.sizes,
            "problems": self.problems,
            "unavailable": self.unavailable,
        }
        return json.dumps(content, indent=1) + "\n"

    def to_text(self) -> str:
        """The tables."""
        parts = [self._ratios()] if self.measurements else []
        if self.costs:
            parts.append(_costs(self.costs))
        if self.sizes:
            parts.append(self._sizes())
        left_out = [f"wrong: {problem}" for problem in self.problems]
        left_out += [f"not measured: {what}: {why}" for what, why in self.unavailable.items()]
        return "\n\n".join([*parts, "\n".join(left_out)] if left_out else parts) + "\n"

    def _ratios(self) -> str:
        tools = self.tools()
        counts = {m.tool: m.counts for m in self.measurements}
        width = max((len(tool) for tool in tools), default=4)
        kinds = max((len(what) for what in counts.values()), default=6)
        lines = [
            "User time against the uninstrumented program: median of the pairs, half the distance of their quartiles",
            "",
            f"{'tool':{width}}  {'counts':{kinds}}" + "".join(f"  {name:>13}" for name in self.classes) + "     mean",
        ]
        for tool in tools:
            row = self.row(tool)
            cells = [_cell(row.get(name)) for name in self.classes]
            mean = self.mean(tool)
            last = f"{mean:9.3f}" if mean is not None else f"{'-':>9}"
            lines.append(f"{tool:{width}}  {counts[tool]:{kinds}}" + "".join(f"  {cell:>13}" for cell in cells) + last)
        return "\n".join(lines)

    def _sizes(self) -> str:
        width = max(len(tool) for tool in self.sizes)
        lines = ["Bytes of code in the cache for one of code lifted", ""]
        lines.append(f"{'probes':{width}}" + "".join(f"  {name:>11}" for name in self.classes))
        for tool, sizes in self.sizes.items():
            cells = [f"{sizes[name]:.2f}" if name in sizes else "-" for name in self.classes]
            lines.append(f"{tool:{width}}" + "".join(f"  {cell:>11}" for cell in cells))
        return "\n".join(lines)


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    series = Series(tuple(entry["original_user_seconds"]), tuple(entry["user_seconds"]))
    return Measurement(entry["tool"], entry["counts"], entry["class"], series, entry["share_of_work"])


def _costs(costs: Sequence[Cost]) -> str:
    width = max(len(cost.tool) for cost in costs)
    kinds = max(len(cost.counts) for cost in costs)
    lines = ["Nanoseconds added to a call of a tiny function: median of the differences of pairs, half their range", ""]
    lines += [f"{c.tool:{width}}  {c.counts:{kinds}}  {c.nanoseconds:10,.2f} ±{c.spread:.2f}" for c in costs]
    return "\n".join(lines)


def _cell(measurement: Measurement | None) -> str:
    if measurement is None:
        return "-"
    series = measurement.series
    return (
        f"{series.ratio:.2f} ±{series.spread:.2f}" if series.ratio < 10 else f"{series.ratio:.1f} ±{series.spread:.1f}"
    )
