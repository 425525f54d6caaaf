"""`probeloom report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jit import console
from jit.report import load_report, print_text, render_text, to_json
from lifter.errors import UsageError


def run(data: Sequence[Path], form: str, sort: str, top: int | None, every: bool, output: Path | None) -> None:
    """Print what the data files hold. Raises ProbeloomError."""
    report = load_report(*data)
    if output is not None and output.exists() and any(output.samefile(file) for file in data):
        raise UsageError(f"cannot write {output}: it is the data")
    if form == "json":
        console.write_output(to_json(report) + "\n", output)
    elif form == "drcov":
        from jit.report_formats import to_drcov

        console.write_output(to_drcov(report), output)
    elif form == "lcov":
        from jit.report_formats import to_lcov

        console.write_output(to_lcov(report), output)
    elif output is not None:
        console.write_output(render_text(report, sort, top, every), output)
    else:
        from rich.console import Console

        print_text(report, Console(), sort, top, every)
