"""What a run was made on and with."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

from bench.sources import version
from bench.workloads import Workload


def describe(workloads: list[Workload], cache: Path) -> dict[str, str]:
    """Processor, kernel, compilers, versions of the sources."""
    found = {"date": time.strftime("%Y-%m-%d"), "kernel": platform.release(), "cores": str(os.cpu_count())}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            found["processor"] = line.partition(":")[2].strip()
            break
    for compiler in ("gcc", "clang"):
        try:
            done = subprocess.run([compiler, "--version"], capture_output=True, text=True)
        except OSError:
            continue
        found[compiler] = done.stdout.splitlines()[0]
    for package in sorted({package for workload in workloads for package in workload.packages}):
        if (cache / "sources" / package).is_dir():
            found[package] = version(package, cache)
    return found
