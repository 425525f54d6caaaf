"""The picture: every contender's ratio on every class."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench.results import Results
from bench.sources import UnavailableError

_OWN: Final = "#c2410c"
_COMPILER: Final = "#1d4ed8"
_OTHER: Final = "#64748b"


def draw(results: Results, path: Path) -> None:
    """Write a PNG: a panel a class, a row a contender, dots with spreads on a logarithmic scale.

    Raises UnavailableError without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise UnavailableError("matplotlib is not installed (pip install '.[bench]')") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    tools = list(reversed(results.tools()))
    figure, axes = pyplot.subplots(
        1,
        len(results.classes),
        sharey=True,
        squeeze=False,
        figsize=(2.2 + 2.2 * len(results.classes), 1.2 + 0.28 * len(tools)),
        layout="constrained",
    )
    for axis, name in zip(axes[0], results.classes, strict=True):
        axis.axvline(1, color="#94a3b8", linewidth=1)
        for height, tool in enumerate(tools):
            measurement = results.row(tool).get(name)
            if measurement is None:
                continue
            series = measurement.series
            colour = _colour(tool)
            spread = min(series.spread, series.ratio / 2)
            axis.errorbar(series.ratio, height, xerr=spread, fmt="o", color=colour, markersize=5, capsize=2)
            axis.annotate(
                f"{series.ratio:.2f}" if series.ratio < 10 else f"{series.ratio:.0f}",
                (series.ratio, height),
                xytext=(6, 3),
                textcoords="offset points",
                fontsize=7,
                color=colour,
            )
        axis.set_xscale("log")
        axis.set_xlim(0.7, max(4.0, 2.5 * max((m.series.ratio for m in results.measurements), default=1.0)))
        axis.set_title(name, fontsize=10)
        axis.grid(axis="x", which="both", color="#e2e8f0", linewidth=0.5)
        axis.set_axisbelow(True)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.xaxis.set_minor_formatter(lambda value, _: "")
    axes[0][0].set_yticks(range(len(tools)), tools, fontsize=8)
    figure.suptitle("User time; the original is 1", fontsize=11)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _colour(tool: str) -> str:
    if tool.startswith("probeloom"):
        return _OWN
    return _COMPILER if tool.startswith(("gcc", "clang")) else _OTHER
