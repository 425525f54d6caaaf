"""The library: instrument a binary from Python.

from jit import Binary, count, probe

plan = Binary.open("prog").instrument("block:*", count).instrument("entry:parse_*", my_probe)
result = plan.rewrite("prog.inst")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

from ir.probes import CompiledProbe, Probe
from jit import engine, offline
from jit.options import CounterUpdate, Options
from jit.specs import match, parse_spec, select
from jit.tracepoints import Spec
from lifter.errors import Refusal, UsageError
from lifter.image.load import open_image
from lifter.image.types import Function, Image

count: Final = "count"
"""The action that counts how often the program passes."""

Action = Probe | str
"""A Python probe, `count`, or 'FILE.py:NAME'."""


@dataclass(frozen=True, slots=True)
class Result:
    """A rewritten binary."""

    output: Path
    report: Mapping[str, Any]
    """As `probeloom rewrite --report` writes it."""
    refused: tuple[Refusal, ...]
    """What was left alone, and why."""
    notes: tuple[str, ...]
    """What the user should know about the file that was written."""


@dataclass(frozen=True, slots=True)
class Binary:
    """An executable or shared library."""

    image: Image
    """Its functions and segments."""

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Binary:
        """Read the file at `path`.

        Raises UsageError if it cannot be read, RefusedError if it is no x86-64 ELF executable or library.
        """
        return cls(open_image(Path(path)))

    def functions(self, glob: str = "*") -> tuple[Function, ...]:
        """Its functions whose names match `glob`, in address order."""
        return select(glob, self.image.functions)

    def instrument(self, spec: str, action: Action = count) -> Plan:
        """A plan with one probe. See `Plan.instrument`."""
        return Plan(self).instrument(spec, action)


@dataclass(frozen=True, slots=True)
class Plan:
    """Probes chosen for a binary; nothing is done before `rewrite` or `build`."""

    binary: Binary
    specs: tuple[Spec, ...] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)
    """Probes given as Python objects, by the action that names them in reports."""

    def instrument(self, spec: str, action: Action = count) -> Plan:
        """This plan with one more probe: `spec` is 'POINT:FUNCTION', as on the command line.

        Raises UsageError for a malformed spec or action, RefusedError where it matches nothing.
        """
        parsed = parse_spec(spec)
        probes = dict(self.probes)
        if isinstance(action, Probe):
            action = _name(action, probes)
        if action != count:
            if parsed.action != count:
                raise UsageError(f"'{spec}' has an action already, and another one was given")
            parsed = replace(parsed, action=action)
        match([parsed], self.binary.image.functions)
        return Plan(self.binary, (*self.specs, parsed), probes)

    def build(
        self,
        *,
        jobs: int | None = None,
        liveness: Literal["abi", "strict"] = "abi",
        counter_update: CounterUpdate = "auto",
        optimise: Literal["loops", "all"] = "loops",
        counter_placement: Literal["minimal", "every"] = "minimal",
        calls: Literal["auto", "cache", "place"] = "auto",
        use_cache: bool = True,
        bare: bool = False,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> engine.Built:
        """Make the code without writing it. Raises UsageError or RefusedError.

        `jobs` is the number of processes that compile (all cores if None); `optimise` says what LLVM compiles: `loops`
        are regions with a loop or a probe in Python, the others being their own instructions with counters between;
        `calls` says where calls are made: in the code cache where nothing looks at return addresses, or all of them in
        place, as debuggers like it (`auto`: where the file has debugging information);
        `bare` leaves the probes out: the chosen code is recompiled and nothing else, which is what the engine itself
        costs; `progress` is called with (stage, done, total).
        """
        compiled: dict[str, CompiledProbe] = {name: probe.compile() for name, probe in self.probes.items()}
        options = Options(
            jobs=jobs or len(os.sched_getaffinity(0)),
            liveness=liveness,
            counter_update=counter_update,
            optimise=optimise,
            placement=counter_placement,
            calls=calls,
            use_cache=use_cache,
            probes=compiled,
            progress=progress,
            bare=bare,
        )
        return engine.build(self.binary.image, self.specs, options)

    def rewrite(self, output: str | os.PathLike[str], **options: Any) -> Result:
        """Write the instrumented binary to `output`, in one step. `options` are those of `build`.

        Raises UsageError or RefusedError; then nothing was written.
        """
        built = self.build(**options)
        notes = offline.write(self.binary.image, built.overlay, Path(output))
        return Result(Path(output), built.report, built.refusals, notes)


def _name(probe: Probe, taken: dict[str, Probe]) -> str:
    """The action under which `probe` is known: FILE.py:NAME, with a number where two have the same."""
    file = Path(probe.function.__code__.co_filename).name
    base = name = f"{file}:{probe.name}"
    number = 1
    while taken.get(name, probe) is not probe:
        number += 1
        name = f"{base}_{number}"
    taken[name] = probe
    return name
