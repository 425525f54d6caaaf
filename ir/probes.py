"""Probes written in Python: what the user writes, what the weaver gets, and a twin that runs in plain Python.

    from jit import probe

    @probe(words=4)
    def longest(ctx):
        if ctx.rdi > ctx.data[0]:
            ctx.data[0] = ctx.rdi

All values are 64-bit integers in two's complement: signed in comparisons, `//`, `%` and `>>`, wrapping
around in `+`, `-` and `*`, never a fault and never undefined: dividing by zero gives 0, a shift by 64 or more
shifts everything out. A literal from 2**63 on stands for its two's complement.
"""

from __future__ import annotations

import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, Final, overload

from lifter.errors import UsageError
from lifter.registers import GPR_NAMES, RSP

DEFAULT_WORDS: Final = 8
MAXIMUM_WORDS: Final = 1 << 16
RIP_SLOT: Final = 16
"""Index of `rip` among the slots that a compiled probe gets; the 16 GPRs in hardware order come first."""
SLOTS: Final = 17
_SIGN: Final = 1 << 63
_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class View:
    """A part of a register, as `ctx` names it."""

    slot: int
    """Index of the register among the slots."""
    shift: int
    """Lowest bit."""
    width: int
    """In bits; writing 32 clears the upper half, fewer keep the other bits, as the processor does."""


def _views() -> dict[str, View]:
    views = {name: View(index, 0, 64) for index, name in enumerate(GPR_NAMES)}
    views["rip"] = View(RIP_SLOT, 0, 64)
    for index, name in enumerate(GPR_NAMES):
        if index < 8:
            short = name[1:]
            low = short[0] + "l" if short.endswith("x") else short + "l"
            views |= {"e" + short: View(index, 0, 32), short: View(index, 0, 16), low: View(index, 0, 8)}
            if short.endswith("x"):
                views[short[0] + "h"] = View(index, 8, 8)
        else:
            widths = {"d": 32, "w": 16, "b": 8}
            views |= {name + suffix: View(index, 0, width) for suffix, width in widths.items()}
    return views


VIEWS: Final[Mapping[str, View]] = _views()
"""Every register name that `ctx` knows."""


def writable(view: View) -> bool:
    """Whether a probe may write it: RSP and RIP belong to the stack discipline."""
    return view.slot not in (RSP, RIP_SLOT)


def to_signed(value: int) -> int:
    """`value` modulo 2**64, in two's complement."""
    return ((value + _SIGN) & _MASK) - _SIGN


class Word(int):
    """A 64-bit integer with the arithmetic of compiled probes."""

    def __new__(cls, value: int = 0) -> Word:
        """`value` modulo 2**64."""
        return super().__new__(cls, to_signed(int(value)))

    def __add__(self, other: int) -> Word:
        return Word(int(self) + int(other))

    __radd__ = __add__

    def __sub__(self, other: int) -> Word:
        return Word(int(self) - int(other))

    def __rsub__(self, other: int) -> Word:
        return Word(int(other) - int(self))

    def __mul__(self, other: int) -> Word:
        return Word(int(self) * int(other))

    __rmul__ = __mul__

    def __floordiv__(self, other: int) -> Word:
        return Word(_floor(int(self), int(other))[0])

    def __rfloordiv__(self, other: int) -> Word:
        return Word(_floor(int(other), int(self))[0])

    def __mod__(self, other: int) -> Word:
        return Word(_floor(int(self), int(other))[1])

    def __rmod__(self, other: int) -> Word:
        return Word(_floor(int(other), int(self))[1])

    def __lshift__(self, other: int) -> Word:
        return Word(int(self) << int(other) if 0 <= int(other) < 64 else 0)

    def __rlshift__(self, other: int) -> Word:
        return Word(other) << int(self)

    def __rshift__(self, other: int) -> Word:
        return Word(int(self) >> (int(other) if 0 <= int(other) < 64 else 63))

    def __rrshift__(self, other: int) -> Word:
        return Word(other) >> int(self)

    def __and__(self, other: int) -> Word:
        return Word(int(self) & int(other))

    __rand__ = __and__

    def __or__(self, other: int) -> Word:
        return Word(int(self) | int(other))

    __ror__ = __or__

    def __xor__(self, other: int) -> Word:
        return Word(int(self) ^ int(other))

    __rxor__ = __xor__

    def __neg__(self) -> Word:
        return Word(-int(self))

    def __invert__(self) -> Word:
        return Word(~int(self))

    def __abs__(self) -> Word:
        return Word(abs(int(self)))


def _floor(dividend: int, divisor: int) -> tuple[int, int]:
    if divisor == 0 or (dividend == -_SIGN and divisor == -1):
        return 0, 0
    return divmod(dividend, divisor)


class PythonData:
    """The private words of a probe, outside of a program."""

    def __init__(self, words: int) -> None:
        self.values: list[int] = [0] * words

    def __getitem__(self, index: int) -> Word:
        return Word(self.values[index] if 0 <= index < len(self.values) else 0)

    def __setitem__(self, index: int, value: int) -> None:
        if 0 <= index < len(self.values):
            self.values[index] = to_signed(int(value))

    def add(self, index: int, value: int) -> None:
        """Add `value` to word `index`; in a program, in one step for all threads."""
        self[index] = self[index] + value


class PythonContext:
    """A `ctx` made of Python objects, with the arithmetic of compiled probes: for unit tests of probes.

    >>> ctx = PythonContext({"rdi": 7})
    >>> longest(ctx)
    >>> ctx.data[0]
    7
    """

    data: PythonData
    """The private words."""
    memory: dict[int, int]
    """Bytes by address; bytes not in it read as 0."""

    def __init__(
        self,
        registers: Mapping[str, int] | None = None,
        words: int = DEFAULT_WORDS,
        memory: Mapping[int, int] | None = None,
    ) -> None:
        object.__setattr__(self, "slots", [0] * SLOTS)
        object.__setattr__(self, "data", PythonData(words))
        object.__setattr__(self, "memory", dict(memory or {}))
        for name, value in (registers or {}).items():
            self.slots[VIEWS[name].slot] = value & _MASK

    slots: list[int]
    """The registers, unsigned: 16 GPRs in hardware order, then rip."""

    def __getattr__(self, name: str) -> Word:
        if name not in VIEWS:
            raise AttributeError(unknown_register(name))
        view = VIEWS[name]
        return Word(self.slots[view.slot] >> view.shift & (1 << view.width) - 1)

    def __setattr__(self, name: str, value: int) -> None:
        if name not in VIEWS:
            raise AttributeError(unknown_register(name))
        view = VIEWS[name]
        if not writable(view):
            raise AttributeError(f"ctx.{name} cannot be written")
        field = (1 << view.width) - 1 << view.shift
        kept = self.slots[view.slot] & ~field if view.width < 32 else 0
        self.slots[view.slot] = kept | int(value) << view.shift & field

    def _load(self, address: int, size: int) -> Word:
        return Word(sum(self.memory.get((address + i) & _MASK, 0) << 8 * i for i in range(size)))

    def _store(self, address: int, size: int, value: int) -> None:
        for i in range(size):
            self.memory[(address + i) & _MASK] = int(value) >> 8 * i & 0xFF

    def load8(self, address: int) -> Word:
        """The byte at `address`, zero-extended."""
        return self._load(address, 1)

    def load16(self, address: int) -> Word:
        """The two bytes at `address`, zero-extended."""
        return self._load(address, 2)

    def load32(self, address: int) -> Word:
        """The four bytes at `address`, zero-extended."""
        return self._load(address, 4)

    def load64(self, address: int) -> Word:
        """The eight bytes at `address`."""
        return self._load(address, 8)

    def store8(self, address: int, value: int) -> None:
        """Write the low byte of `value`."""
        self._store(address, 1, value)

    def store16(self, address: int, value: int) -> None:
        """Write the low two bytes of `value`."""
        self._store(address, 2, value)

    def store32(self, address: int, value: int) -> None:
        """Write the low four bytes of `value`."""
        self._store(address, 4, value)

    def store64(self, address: int, value: int) -> None:
        """Write `value`."""
        self._store(address, 8, value)

    def signed(self, value: int, width: int) -> Word:
        """The low `width` bits (8, 16 or 32), sign-extended: `ctx.signed(ctx.eax, 32)` is a C int."""
        sign = 1 << width - 1
        return Word(((value + sign) & (1 << width) - 1) - sign)

    def below(self, left: int, right: int) -> bool:
        """Whether `left < right` as unsigned numbers."""
        return int(left) & _MASK < int(right) & _MASK


def unknown_register(name: str) -> str:
    """What to say of `ctx.name` when there is no such thing."""
    known = "registers (rax, edi, r8d, rip, ...), data, load8..64, store8..64, signed, below"
    return f"ctx has no '{name}': it has {known}"


@dataclass(frozen=True)
class Probe:
    """A Python function marked as a probe. Calling it runs it in Python, on a `PythonContext`."""

    function: Callable[[Any], Any]
    words: int = DEFAULT_WORDS
    """Number of private 64-bit words; each tracepoint has its own."""

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.function.__name__)

    @property
    def origin(self) -> str:
        """FILE:LINE of its definition, for messages."""
        code = self.function.__code__
        return f"{Path(code.co_filename).name}:{code.co_firstlineno}"

    def __call__(self, ctx: PythonContext) -> None:
        """Run it in Python, with the arithmetic of a compiled probe."""
        wrap_literals(self.function)(ctx)

    def compile(self) -> CompiledProbe:
        """Compile it with numba, once.

        Raises UsageError if it cannot become a probe, naming the line, or if numba is not installed.
        """
        return _compile(self)


def wrap_literals(function: Callable[..., Any]) -> FunctionType:
    """A copy of `function` whose literals and module constants are 64 bits wide, in two's complement."""
    assert isinstance(function, FunctionType)
    scope = {name: _wrap(value) for name, value in function.__globals__.items()}
    code = _wrap(function.__code__)
    return FunctionType(code, scope, function.__name__, function.__defaults__, function.__closure__)


def _wrap(value: Any) -> Any:
    if type(value) is int:
        return to_signed(value)
    if isinstance(value, CodeType):
        return value.replace(co_consts=tuple(_wrap(constant) for constant in value.co_consts))
    return value


@lru_cache(maxsize=1024)
def _compile(probe: Probe) -> CompiledProbe:
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"{probe.origin}: probes in Python need numba: pip install 'probeloom[python-probes]' ({error})"
        ) from None
    from ir.numba_probes import compile_probe

    return compile_probe(probe)


@overload
def probe(function: Callable[[Any], Any], /) -> Probe: ...
@overload
def probe(*, words: int = DEFAULT_WORDS) -> Callable[[Callable[[Any], Any]], Probe]: ...
def probe(
    function: Callable[[Any], Any] | None = None, /, *, words: int = DEFAULT_WORDS
) -> Probe | Callable[[Callable[[Any], Any]], Probe]:
    """Mark a function of one argument, the context, as a probe.

    `words` is the number of its private 64-bit words (0 to 65536). Raises UsageError for another number or if
    what is marked is not a plain function of one argument.
    """
    if not isinstance(words, int) or not 0 <= words <= MAXIMUM_WORDS:
        raise UsageError(f"a probe has 0 to {MAXIMUM_WORDS} words, not {words!r}")

    def mark(marked: Callable[[Any], Any]) -> Probe:
        code = getattr(marked, "__code__", None)
        if code is None or code.co_argcount != 1 or code.co_kwonlyargcount or code.co_flags & 0x0C:
            name = getattr(marked, "__name__", marked)
            raise UsageError(f"{name}: a probe is a function of one argument, ctx")
        return Probe(marked, words)

    return mark if function is None else mark(function)


_ATOMIC_ADD: Final = re.compile(r"  %(\w+) = atomicrmw add ptr (%\w+), i64 (\S+) monotonic, align 8")
_PLAIN_ADD: Final = r"""  %\1.old = load i64, ptr \2, align 8
  %\1 = add i64 %\1.old, \3
  store i64 %\1, ptr \2, align 8"""


@dataclass(frozen=True, slots=True)
class CompiledProbe:
    """A probe as LLVM IR."""

    name: str
    """The Python function's name."""
    text: str
    """One `define internal void @L_probe0(ptr %regs, ptr %data)` that needs no other symbol (but intrinsics)
    and touches neither vectors nor floats. `regs` are 17 64-bit slots: the GPRs in hardware order, then the
    address of the tracepoint; `data` are its words. Equal probes have equal text."""
    reads: int
    """Registers whose value it uses: bits 0 to 15 the GPRs, bit 16 (`RIP_SLOT`) the address."""
    writes: int
    """Registers that it may write (bits as in `reads`; never RSP or the address)."""
    words: int
    """Number of private 64-bit words."""
    size: int
    """Number of IR instructions: whether inlining pays."""

    def named(self, index: int, atomic: bool = True) -> str:
        """Its text as `@L_probe<index>`, for regions with several probes.

        Without `atomic`, `ctx.data.add` is an ordinary addition: for programs that start no threads.
        """
        text = self.text if atomic else _ATOMIC_ADD.sub(_PLAIN_ADD, self.text)
        return text.replace("@L_probe0(", f"@L_probe{index}(")


def load_probe(file: Path, name: str) -> CompiledProbe:
    """Compile the probe `name` of the Python file `file` (FILE.py:NAME of a spec).

    Runs the file. Raises UsageError, with the line where there is one: the file is missing, unreadable or
    does not run, it has no such name, the name is no probe, or the probe cannot be compiled.
    """
    if file.is_dir():
        raise UsageError(f"{file}: is a directory, not a Python file")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file}: cannot read the probe file: {error.strerror}") from None
    namespace = _run_file(file.absolute(), str(file), content)
    if name not in namespace:
        known = sorted(key for key, value in namespace.items() if isinstance(value, Probe))
        hint = f"its probes are {', '.join(known)}" if known else "it has no probes; mark one with @probe"
        raise UsageError(f"{file}: no probe named '{name}': {hint}")
    found = namespace[name]
    if not isinstance(found, Probe):
        kind = type(found).__name__
        raise UsageError(f"{file}: '{name}' is a {kind}, not a probe; mark the function with @probe")
    return found.compile()


@lru_cache(maxsize=256)
def _run_file(path: Path, shown: str, content: bytes) -> Mapping[str, object]:
    """What the file defines; run once as long as it has this content."""
    sys.path.insert(0, str(path.parent))
    try:
        return runpy.run_path(str(path), run_name=re.sub(r"\W", "_", path.stem))
    except SyntaxError as error:
        raise UsageError(f"{shown}:{error.lineno}: {error.msg}") from None
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from None
    except (Exception, SystemExit) as error:
        line = _last_line(traceback.extract_tb(error.__traceback__), path)
        text = " ".join(str(error).split())
        raise UsageError(f"{shown}{line}: {type(error).__name__}: {text}") from None
    finally:
        sys.path.remove(str(path.parent))


def _last_line(frames: Iterable[traceback.FrameSummary], path: Path) -> str:
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    return f":{lines[-1]}" if lines else ""
