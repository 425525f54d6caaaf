"""The coverage matrix of a campaign as one HTML page: forms by widths and oracles, states and failures."""

from __future__ import annotations

from collections import defaultdict
from html import escape
from typing import Final

from fuzz.campaign import Result, Settings
from fuzz.insn import DEFAULT_COUNT
from fuzz.reach import reach_of
from fuzz.runner import replay_command

_STYLE: Final = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border: 1px solid #ddd; padding: 1px 7px; text-align: right; font-variant-numeric: tabular-nums }
th { background: #f3f3f3; position: sticky; top: 0 } td:first-child, th:first-child { text-align: left }
td:first-child { font-family: ui-monospace, monospace }
.few { background: #fff2cc } .enough { background: #d9ead3 } .failed { background: #f4cccc; font-weight: bold }
code { background: #f3f3f3; padding: 0 3px; overflow-wrap: anywhere }
"""
_ALL: Final = "all"
"""Widths together: the first columns."""
_ENOUGH: Final = 2000
"""States from which on a cell counts as well covered."""


def render(settings: Settings, result: Result, elapsed: float) -> str:
    """The page: no script, nothing loaded from elsewhere."""
    oracles = sorted({cell[2] for cell in result.cells})
    widths = sorted({cell[1] for cell in result.cells}, key=_width_order)
    used = {(width, oracle) for _, width, oracle in result.cells}
    columns = [(_ALL, oracle) for oracle in oracles]
    columns += [(width, oracle) for width in widths for oracle in oracles if (width, oracle) in used]
    title = f"probeloom fuzz {settings.kind}, seed {settings.seed}"
    return "\n".join((
        "<!DOCTYPE html>", '<html lang="en"><head><meta charset="utf-8">', f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style></head><body>", f"<h1>{escape(title)}</h1>", _facts(settings, result, elapsed),
        _failures(settings, result), _notes(result), "<h2>Coverage</h2>",
        f"<p>States in which original and lifted code were compared; green from {_ENOUGH:,} on.</p>",
        _matrix(result, columns), _rows(settings, result), "</body></html>", "",
    ))  # fmt: skip


def _width_order(width: str) -> tuple[int, str]:
    return (int(width), "") if width.isdigit() else (1 << 20, width)


def _facts(settings: Settings, result: Result, elapsed: float) -> str:
    forms = len({cell[0] for cell in result.cells})
    rate = result.states / elapsed if elapsed else 0.0
    of = f" of {', '.join(settings.binaries)}" if settings.binaries else ""
    return _paragraph(
        f"{result.units:,} units{of}, {forms:,} forms, {result.states:,} states in {elapsed:,.0f} s "
        f"({rate:,.0f} a second, {result.seconds:,.0f} s of work): {len(result.failures)} differences."
    )


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _failures(settings: Settings, result: Result) -> str:
    if not result.failures:
        return ""
    rows = "".join(
        f"<li>{escape(failure.what)}<br><code>{escape(replay_command(settings, failure))}</code></li>"
        for failure in result.failures
    )
    return f"<h2>Differences</h2><ol>{rows}</ol>"


def _notes(result: Result) -> str:
    if not result.notes:
        return ""
    common = result.notes.most_common()
    rows = "".join(f"<tr><td>{escape(note)}</td><td>{number:,}</td></tr>" for note, number in common)
    return f"<h2>How runs ended, and what was not run</h2><table>{rows}</table>"


def _rows(settings: Settings, result: Result) -> str:
    """Of the instruction table's rows, which were run from too few states, and why others were not run."""
    if settings.kind != "insn" or settings.match:
        return ""
    wanted = settings.count or DEFAULT_COUNT
    reach = reach_of(result)
    short = reach.short_of(wanted)
    reasons = "".join(
        f"<tr><td>{escape(reason)}</td><td>{len(names):,}</td><td><code>{escape(', '.join(names))}</code></td></tr>"
        for reason, names in reach.others.items()
    )
    return (
        "<h2>Rows of the instruction table</h2>"
        + _paragraph(
            f"{len(reach.native):,} rows run, {len(reach.emulated):,} of them in unicorn, too; {len(short):,} from "
            f"fewer than {wanted:,} states{': ' if short else ''}{', '.join(short)}. Not run:"
        )
        + f"<table>{reasons}</table>"
    )


def _matrix(result: Result, columns: list[tuple[str, str]]) -> str:
    by_form: defaultdict[str, dict[tuple[str, str], list[int]]] = defaultdict(dict)
    for (form, width, oracle), counts in result.cells.items():
        by_form[form][width, oracle] = counts
        states, failures = by_form[form].get((_ALL, oracle), (0, 0))
        by_form[form][_ALL, oracle] = [states + counts[0], failures + counts[1]]
    head = "".join(f"<th>{escape(width)}<br>{escape(oracle)}</th>" for width, oracle in columns)
    rows = []
    for form in sorted(by_form):
        cells = "".join(_cell(by_form[form].get(column)) for column in columns)
        rows.append(f"<tr><td>{escape(form)}</td>{cells}</tr>")
    return f"<table><tr><th>form</th>{head}</tr>{''.join(rows)}</table>"


def _cell(counts: list[int] | None) -> str:
    if counts is None:
        return "<td></td>"
    states, failures = counts
    if failures:
        return f'<td class="failed">{states:,} ({failures} failed)</td>'
    return f'<td class="{"enough" if states >= _ENOUGH else "few"}">{states:,}</td>'
