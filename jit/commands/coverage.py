"""`probeloom coverage`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from jit.coverage import Coverage, measure, measure_run, render, to_dict
from jit.report import Report, load_report
from lifter.errors import RefusedError
from lifter.image.load import open_image
from lifter.image.types import Image


def run(binaries: Sequence[Path], data: Sequence[Path], forms: int, as_json: bool) -> None:
    """Print the figures of all `binaries`. Raises ProbeloomError."""
    images = [open_image(binary) for binary in binaries]
    reports = {image.path: found for image, found in _matched(images, [load_report(path) for path in data])}
    coverages = []
    for image in images:
        report = reports.get(image.path)
        executed = measure_run(image, report) if report is not None else None
        coverages.append(Coverage(str(image.path), image.build_id, measure(image), executed))
    if as_json:
        print(json.dumps([to_dict(coverage, forms) for coverage in coverages], indent=1))
    else:
        sys.stdout.write(render(coverages, forms))


def _matched(images: Sequence[Image], reports: Sequence[Report]) -> list[tuple[Image, Report]]:
    """Each report with its binary: that of its build, or of its path where builds are not named."""
    found = []
    for report in reports:
        module = report.module
        image = next((i for i in images if module.build_id and i.build_id == module.build_id), None)
        image = image or next((i for i in images if str(i.path.resolve()) == module.path), None)
        if image is None:
            raise RefusedError(f"a data file is of {module.path}, which is none of the binaries")
        found.append((image, report))
    return found
