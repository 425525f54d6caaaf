"""The page: the tables and the picture in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Final

from bench.results import Results

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #0f172a; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 2rem }
caption { text-align: left; font-weight: 600; padding-bottom: .4rem }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #e2e8f0; text-align: right }
td { font-variant-numeric: tabular-nums }
th:first-child, td:first-child, td.what { text-align: left }
td small { color: #64748b }
tr.own td { background: #fff7ed }
img { max-width: 100% }
"""


def page(results: Results, picture: Path | None) -> str:
    """The page's text."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><meta charset="utf-8"><title>probeloom: benchmarks</title>',
        f"<style>{_STYLE}</style><h1>probeloom: benchmarks</h1>",
        f"<p>{escape('; '.join(f'{key} {value}' for key, value in results.machine.items()))}</p>",
        _ratios(results),
    ]
    if picture is not None:
        encoded = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f'<p><img alt="Ratios of every tool on every class" src="data:image/png;base64,{encoded}"></p>')
    if results.costs:
        parts.append(_costs(results))
    if results.sizes:
        parts.append(_sizes(results))
    left_out = [*(f"wrong: {p}" for p in results.problems), *(f"{k}: {v}" for k, v in results.unavailable.items())]
    if left_out:
        parts.append("<h2>Not measured</h2><ul>" + "".join(f"<li>{escape(text)}" for text in left_out) + "</ul>")
    return "\n".join(parts) + "</html>\n"


def _table(caption: str, head: list[str], rows: list[tuple[str, list[str]]]) -> str:
    lines = [f"<table><caption>{escape(caption)}</caption><tr>" + "".join(f"<th>{escape(h)}" for h in head)]
    for name, cells in rows:
        kind = ' class="own"' if name.startswith("probeloom") else ""
        lines.append(f"<tr{kind}><td>{escape(name)}" + "".join(cells))
    return "\n".join([*lines, "</table>"])


def _ratios(results: Results) -> str:
    rows = []
    for tool in results.tools():
        row = results.row(tool)
        cells = [f'<td class="what">{escape(next(iter(row.values())).counts)}']
        for name in results.classes:
            if (measurement := row.get(name)) is None:
                cells.append("<td>-")
            else:
                series = measurement.series
                cells.append(f"<td>{series.ratio:.2f} <small>±{series.spread:.2f}</small>")
        mean = results.mean(tool)
        cells.append(f"<td>{mean:.2f}" if mean is not None else "<td>-")
        rows.append((tool, cells))
    head = ["tool", "counts", *results.classes, "geometric mean"]
    caption = "User time against the uninstrumented program: median of the pairs, half the distance of their quartiles"
    return _table(caption, head, rows)


def _costs(results: Results) -> str:
    rows = [
        (
            cost.tool,
            [
                f'<td class="what">{escape(cost.counts)}',
                f"<td>{cost.nanoseconds:,.2f} <small>±{cost.spread:.2f}</small>",
            ],
        )
        for cost in results.costs
    ]
    return _table("Nanoseconds added to a call of a tiny function", ["tool", "counts", "ns"], rows)


def _sizes(results: Results) -> str:
    rows = [
        (tool, [f"<td>{sizes[name]:.2f}" if name in sizes else "<td>-" for name in results.classes])
        for tool, sizes in results.sizes.items()
    ]
    return _table("Bytes of code in the cache for one of code lifted", ["probes", *results.classes], rows)
