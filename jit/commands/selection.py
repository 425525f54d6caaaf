"""From the options that several commands share to specs and probes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ir.probes import CompiledProbe, load_probe
from jit.specs import load_specs, parse_spec
from jit.tracepoints import Spec
from lifter.errors import UsageError


def read_specs(probes: Iterable[str], files: Iterable[Path], *, of_process: bool = False) -> list[Spec]:
    """The specs of --probe and --probes, each once; only those `of_process` may name a module. Raises UsageError."""
    specs = [parse_spec(text) for text in probes]
    for file in files:
        specs += load_specs(file)
    for spec in specs:
        if spec.module and not of_process:
            raise UsageError(f"'{spec}': only 'run', 'attach' and 'top' take a module; here there is but one")
    return list(dict.fromkeys(specs))


def read_probes(specs: Sequence[Spec]) -> dict[str, CompiledProbe]:
    """The Python probes that `specs` name, compiled, by action: before any work on the binary. Raises UsageError."""
    probes = {}
    for action in dict.fromkeys(spec.action for spec in specs if spec.action != "count"):
        file, _, name = action.rpartition(":")
        probes[action] = load_probe(Path(file), name)
    return probes
