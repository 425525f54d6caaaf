"""Which module of a process a spec means.

A spec with a module (`libc.so.6!malloc`) means every module whose file name matches, whenever it is loaded, in every
process that is followed. One without means the executable that was started or attached to; where it names no function
of that, every library, those that are loaded later too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import PurePath

from jit.tracepoints import Spec


def _bare(spec: Spec) -> Spec:
    return replace(spec, module="")


@dataclass(slots=True)
class Scope:
    """The specs of a run, and which of them the executable left to libraries."""

    specs: Sequence[Spec]
    """Those that are in force: they may change."""
    elsewhere: set[Spec] = field(default_factory=set)
    """Specs without a module that name no function of the executable."""
    found: set[Spec] = field(default_factory=set)
    """Specs that name a function of some module, modules left out."""

    def of_executable(self, path: str) -> tuple[Spec, ...]:
        """The specs that may mean functions of the executable."""
        return tuple(_bare(s) for s in self.specs if not s.module or _matches(s, path))

    def of_other(self, path: str, is_own: bool) -> tuple[Spec, ...]:
        """The specs that may mean functions of another module. `is_own`: of a process that runs the executable."""
        chosen = [s for s in self.specs if (_matches(s, path) if s.module else is_own and s in self.elsewhere)]
        return tuple(dict.fromkeys(map(_bare, chosen)))

    def left(self, unmatched: Iterable[Spec]) -> None:
        """The executable has no function that `unmatched` of its specs name."""
        bare = set(unmatched)
        self.elsewhere.update(s for s in self.specs if not s.module and s in bare)

    def matched(self, specs: Iterable[Spec]) -> None:
        """A module has functions that these of its specs name."""
        self.found.update(specs)

    @property
    def vain(self) -> list[Spec]:
        """The specs that name nothing so far."""
        return [spec for spec in self.specs if _bare(spec) not in self.found]

    @property
    def names_modules(self) -> bool:
        """Whether modules other than the executable have to be looked at."""
        return bool(self.elsewhere) or any(s.module for s in self.specs)


def _matches(spec: Spec, path: str) -> bool:
    return fnmatchcase(PurePath(path).name, spec.module) or fnmatchcase(path, spec.module)
