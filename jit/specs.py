"""Probe specifications: `POINT:FUNCTION[=ACTION]`, files of them, and which functions they mean.

- POINT is what stands before the first `:`.
- ACTION is what follows the last `=`, if that is `count` or `FILE.py:NAME`; so `entry:operator==` and
  `entry:X::operator=` are functions, and `entry:operator===p.py:seen` is `operator==` with a probe.
- MODULE and `!` may come before FUNCTION, where a process with several modules is instrumented: a glob over file names
  (`libc.so.6!malloc`). In a function's name, `!` follows `operator`.
- For `insn`, an offset follows the last `+`: `insn:main+0x1f`; `insn:0x401136` is the instruction there.
- FUNCTION is `0x` and an address inside a function, or a glob (`*`, `?`, `[abc]`, `[!abc]`) over symbol names:
  the raw name, its aliases, the demangled name, and that without its parameters. A name that is equal to
  FUNCTION letter by letter matches whatever characters it has (`operator[]`); inside a glob, `[[]` is a `[`.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import Final

from jit.tracepoints import Point, Spec
from lifter.errors import RefusedError, UsageError
from lifter.image.demangle import demangle
from lifter.image.types import Function

_POINTS: Final = tuple(point.value for point in Point)
_ACTION: Final = re.compile(r"(.*)=(count|[^=]*\.py:[A-Za-z_]\w*)", re.DOTALL)
_MISTAKEN_ACTION: Final = re.compile(r"(?P<function>.*)=(?P<action>[\w./:-]*)", re.DOTALL)
"""An `=` with a word after it to the end: not `Item=u8>`."""
_OPERATOR: Final = re.compile(r"operator[-=!<>+*/%&|^~]{0,2}$")
"""The `=` after it belongs to its name."""
_MODULE: Final = re.compile(r"([\w.+*?/@-]*[\w.+*?@-])(?<!operator)!(.+)", re.DOTALL)
_OFFSET: Final = re.compile(r"(.+)\+(0[xX][0-9a-fA-F]+|\d+)", re.DOTALL)
_ADDRESS: Final = re.compile(r"0[xX][0-9a-fA-F]{1,16}")
_SUGGESTIONS: Final = 3
_SUGGEST_AMONG: Final = 20_000
"""Comparing with more names takes longer than a user waits for an error."""


def parse_spec(text: str) -> Spec:
    """One spec. Raises UsageError that names what is wrong in it."""
    point, colon, rest = text.partition(":")
    if not colon or point not in _POINTS:
        raise UsageError(f"'{text}': expected POINT:FUNCTION[=ACTION] with POINT one of {', '.join(_POINTS)}")
    action = "count"
    if found := _ACTION.fullmatch(rest):
        rest, action = found.groups()
    elif (mistake := _MISTAKEN_ACTION.fullmatch(rest)) and not _OPERATOR.search(mistake["function"]):
        raise UsageError(f"'{text}': the action '{mistake['action']}' is neither 'count' nor FILE.py:NAME")
    return _checked(text, Point(point), rest, None, action)


def _checked(text: str, point: Point, function: str, offset: int | None, action: str) -> Spec:
    module = ""
    if named := _MODULE.fullmatch(function):
        module, function = named.groups()
    found = _OFFSET.fullmatch(function) if offset is None else None
    if point is Point.INSN and found:
        function, offset = found[1], int(found[2], 0) if found[2][:2] in ("0x", "0X") else int(found[2])
    elif found and found[2][:2] in ("0x", "0X"):
        raise UsageError(f"'{text}': only insn takes an offset")
    if not function.strip():
        raise UsageError(f"'{text}': no function given; '*' is every function")
    if point is Point.INSN and offset is None and not _ADDRESS.fullmatch(function):
        raise UsageError(f"'{text}': insn needs an offset or an address: insn:FUNCTION+0xOFF or insn:0xADDRESS")
    if function[:2] in ("0x", "0X") and not _ADDRESS.fullmatch(function):
        raise UsageError(f"'{text}': '{function}' is no address")
    if action != "count" and not _ACTION.fullmatch(f"={action}"):
        raise UsageError(f"'{text}': the action '{action}' is neither 'count' nor FILE.py:NAME")
    return Spec(point, function, offset, action, module)


def load_specs(path: Path) -> tuple[Spec, ...]:
    """The specs of a TOML file: `probes = ["entry:main", {point = "block", function = "parse_*"}]`.

    A table takes `point`, `function`, `offset` and `action`; FILE.py of an action is relative to the TOML file.
    Raises UsageError.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    entries = content.pop("probes", None)
    if content or not isinstance(entries, list) or not entries:
        other = f", found '{next(iter(content))}'" if content else ""
        raise UsageError(f"{path}: expected a list named 'probes' and nothing else{other}")
    try:
        return tuple(_beside(path, _entry(entry)) for entry in entries)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from None


def _entry(entry: object) -> Spec:
    if isinstance(entry, str):
        return parse_spec(entry)
    if not isinstance(entry, dict):
        raise UsageError(f"{entry!r} is neither a spec nor a table")
    if unknown := sorted(entry.keys() - {"point", "function", "offset", "action"}):
        raise UsageError(f"unknown key '{unknown[0]}'; a probe has point, function, offset and action")
    point, function, action = (entry.get(key, "") for key in ("point", "function", "action"))
    offset = entry.get("offset")
    shown = f"{point}:{function}"
    if not all(isinstance(value, str) for value in (point, function, action)):
        raise UsageError(f"'{shown}': point, function and action are strings")
    if point not in _POINTS:
        raise UsageError(f"'{shown}': point is one of {', '.join(_POINTS)}")
    if offset is not None and (not isinstance(offset, int) or offset < 0 or point != "insn"):
        raise UsageError(f"'{shown}': offset is a number of bytes, of insn")
    return _checked(shown, Point(point), function, offset, action or "count")


def _beside(path: Path, spec: Spec) -> Spec:
    if spec.action == "count":
        return spec
    file, _, name = spec.action.rpartition(":")
    return replace(spec, action=f"{path.parent / file}:{name}")


def names_of(function: Function) -> tuple[str, ...]:
    """Every name a pattern is compared with, without repetition, raw name first."""
    names = [function.name, *function.aliases]
    names += [demangle(name) for name in names]
    names += [without_parameters(name) for name in names if "(" in name]
    return tuple(dict.fromkeys(names))


@lru_cache(maxsize=1 << 16)
def without_parameters(demangled: str) -> str:
    """`ns::f(char const*) const` -> `ns::f`; of a template `int f<int>(int)` -> `f<int>`.

    The name itself where it has no parameters. Parts of functions stay what they are: `f [clone .cold]`.
    """
    end = demangled.rfind(")")
    tail = demangled[end + 1 :]
    clone = tail[tail.index(" [clone") :] if " [clone" in tail else ""
    depth = 0
    for index in range(end, 0, -1):
        depth += (demangled[index] == ")") - (demangled[index] == "(")
        if depth == 0:
            if demangled.endswith("operator()", 0, index + 2):
                return demangled
            return _without_result(demangled[:index]) + clone
    return demangled


def _without_result(name: str) -> str:
    """Only templates are demangled with the type of their result in front."""
    if not name.endswith(">"):
        return name
    depth = 0
    for index in range(len(name) - 1, 0, -1):
        depth += (name[index] in ">)") - (name[index] in "<(")
        if depth == 0 and name[index] == " ":
            return name if name.endswith("operator", 0, index) else name[index + 1 :]
    return name


class Names:
    """The functions of a file by all the names that they answer to."""

    def __init__(self, functions: Sequence[Function]) -> None:
        self._functions = functions
        self._known: dict[str, list[int]] | None = None

    def select(self, pattern: str) -> tuple[Function, ...]:
        """The functions that FUNCTION of a spec means, in their order; () for none."""
        if pattern == "*":
            return tuple(self._functions)
        if _ADDRESS.fullmatch(pattern):
            address = int(pattern, 16)
            return tuple(f for f in self._functions if f.address <= address < max(f.end, f.address + 1))
        exact = self._by_name.get(pattern, [])
        found: Iterable[int] = exact
        if any(character in pattern for character in "*?["):
            glob = re.compile(translate(pattern)).match
            matching = {index for name, indices in self._by_name.items() if glob(name) for index in indices}
            found = sorted(matching) if len(matching) > len(exact) else exact
        return tuple(self._functions[index] for index in found)

    @property
    def _by_name(self) -> dict[str, list[int]]:
        if self._known is None:
            self._known = {}
            for index, function in enumerate(self._functions):
                for name in names_of(function):
                    self._known.setdefault(name, []).append(index)
        return self._known


def select(pattern: str, functions: Sequence[Function]) -> tuple[Function, ...]:
    """What `Names.select` finds, for one pattern."""
    return Names(functions).select(pattern)


def match(specs: Sequence[Spec], functions: Sequence[Function]) -> Mapping[Spec, tuple[Function, ...]]:
    """Every spec with its functions; `insn:0xADDRESS` becomes an offset from its function.

    Raises RefusedError for specs that match nothing, naming them and what might have been meant.
    """
    names = Names(functions)
    chosen: dict[Spec, tuple[Function, ...]] = {}
    for spec in specs:
        found = names.select(spec.pattern)
        if not found:
            raise RefusedError(f"'{spec}' matches no function{_suggestion(spec.pattern, functions)}")
        if spec.point is Point.INSN and spec.offset is None:
            address = int(spec.pattern, 16)
            for function in found:
                own = replace(spec, pattern=f"{function.address:#x}", offset=address - function.address)
                chosen[own] = (function,)
        else:
            chosen[spec] = found
    return chosen


def _suggestion(pattern: str, functions: Sequence[Function]) -> str:
    if not functions:
        return ": the file has no functions"
    if _ADDRESS.fullmatch(pattern):
        low, high = functions[0].address, max(function.end for function in functions)
        return f": the functions of this file are between {low:#x} and {high:#x}"
    names: dict[str, None] = {}
    for function in functions:
        names[function.name] = None
        names[without_parameters(function.demangled)] = None
    near = _near(pattern, list(names))
    return f"; did you mean {' or '.join(near)}?" if near else "; 'probeloom list' shows the functions"


def _near(pattern: str, names: Sequence[str]) -> list[str]:
    core = max(re.split(r"[*?\[\]]+", pattern), key=len).lower()
    if not core:
        return []
    holding = sorted((name for name in names if core in name.lower()), key=len)[:_SUGGESTIONS]
    return holding or difflib.get_close_matches(core, names[:_SUGGEST_AMONG], _SUGGESTIONS)
