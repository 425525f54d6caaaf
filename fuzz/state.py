"""Machine states for the oracles: one at a time as `State` and `Outcome`, many at once as numpy arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fuzz.processor import HEADER_AT, YMM_AT, xsave_image

FIXED_FLAGS: Final = 0x202
"""Bits of RFLAGS that are set in any user program: reserved bit 1 and the interrupt flag."""
DEFAULT_MXCSR: Final = 0x1F80
"""All exceptions masked, round to nearest."""

_IMAGE: Final = xsave_image()
XSAVE_SIZE: Final = _IMAGE.size
"""FXSAVE area, XSAVE header, upper halves of ymm0..ymm15; with AVX-512 its registers, too."""
AVX512: Final = slice(YMM_AT + 256, XSAVE_SIZE)
"""What only AVX-512 has."""
_ZMM: Final = 16 if _IMAGE.upper.start < _IMAGE.upper.stop else 0
"""Registers in each half of AVX-512's."""
_XMM_AT: Final = 160
_MXCSR_AT: Final = 24
_X87_PARTS: Final = (slice(0, 24), slice(32, 160))
"""Control, status and tag words, opcode and pointers; the eight registers."""
X87_SIZE: Final = 152
DEFAULT_X87: Final = (0x37F).to_bytes(2, "little") + bytes(X87_SIZE - 2)
"""As after fninit: empty stack, 64-bit precision, exceptions masked."""

GREGS: Final = (8, 9, 10, 11, 12, 13, 14, 15, 7, 6, 5, 3, 2, 0, 1, 4)
"""Hardware register number of each of the kernel's first sixteen entries of a signal frame (sigcontext_64)."""
RIP_AT, FLAGS_AT = 16, 17
"""Entries of the instruction pointer and of RFLAGS in a signal frame."""
_ORDER: Final = np.argsort(np.array(GREGS))


@dataclass(frozen=True, slots=True)
class Region:
    """A piece of the address space of the code under test. Around it nothing is mapped."""

    address: int
    """A multiple of the page size."""
    size: int
    """In bytes, a multiple of the page size."""
    writable: bool = True
    executable: bool = False
    content: bytes | None = None
    """Given once and the same for every state; None where each state brings its own and takes it away."""

    @property
    def end(self) -> int:
        """First address after it."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class State:
    """Everything that a piece of code may depend on."""

    gprs: tuple[int, ...]
    """Sixteen unsigned 64-bit integers in hardware order (rax, rcx, rdx, rbx, rsp, ...)."""
    flags: int = FIXED_FLAGS
    """RFLAGS."""
    rip: int = 0
    """Where to begin; 0 for the first byte of the code."""
    vectors: bytes = bytes(512)
    """ymm0..ymm15, 32 bytes each."""
    mxcsr: int = DEFAULT_MXCSR
    x87: bytes = DEFAULT_X87
    """Bytes 0..23 and 32..159 of an FXSAVE image."""
    memory: Mapping[int, bytes] = field(default_factory=dict)
    """Address of a region -> its first bytes; the rest is zero."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the code ended, and the state that it left."""

    state: State
    """`rip` is where it ended: the address after the code's last byte if it ran through."""
    signal: int
    """0 where it reached the end (any byte of the code's region that is not code), else the signal's number:
    SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP; SIGPROF for a loop that did not end; negative if the process died."""
    code: int = 0
    """si_code of the signal."""
    fault_address: int = 0
    """For SIGSEGV and SIGBUS: the address accessed."""
    fault_write: bool = False
    """For page faults: the access was a write."""


@dataclass(slots=True)
class Batch:
    """Many states as arrays, one row each."""

    gregs: NDArray[np.uint64]
    """[n, 18]: as in a signal frame, see `GREGS`."""
    xsave: NDArray[np.uint8]
    """[n, XSAVE_SIZE]."""
    memory: NDArray[np.uint8]
    """[n, bytes of all regions without fixed content, in the order of the regions]."""

    @classmethod
    def zeros(cls, count: int, memory_size: int) -> Batch:
        """`count` states with everything zero but the control words and the fixed flags."""
        batch = cls(
            np.zeros((count, 18), np.uint64),
            np.zeros((count, XSAVE_SIZE), np.uint8),
            np.zeros((count, memory_size), np.uint8),
        )
        batch.gregs[:, FLAGS_AT] = FIXED_FLAGS
        batch.xsave[:, 0:2] = np.frombuffer(DEFAULT_X87[:2], np.uint8)
        batch.xsave[:, _MXCSR_AT : _MXCSR_AT + 4] = np.frombuffer(DEFAULT_MXCSR.to_bytes(4, "little"), np.uint8)
        batch.xsave[:, HEADER_AT] = _IMAGE.present
        return batch

    @classmethod
    def of(cls, states: Sequence[State], regions: Iterable[Region]) -> Batch:
        """The arrays of `states`."""
        places, size = memory_places(regions)
        batch = cls.zeros(len(states), size)
        for row, state in enumerate(states):
            batch.gregs[row, :16] = [state.gprs[index] for index in GREGS]
            batch.gregs[row, RIP_AT] = state.rip
            batch.gregs[row, FLAGS_AT] = state.flags
            vectors = np.frombuffer(state.vectors, np.uint8).reshape(16, 32)
            batch.xmm[row] = vectors[:, :16]
            batch.ymm_high[row] = vectors[:, 16:]
            batch.xsave[row, _MXCSR_AT : _MXCSR_AT + 4] = np.frombuffer(state.mxcsr.to_bytes(4, "little"), np.uint8)
            x87 = np.frombuffer(state.x87, np.uint8)
            batch.xsave[row, _X87_PARTS[0]] = x87[:24]
            batch.xsave[row, _X87_PARTS[1]] = x87[24:]
            for address, content in state.memory.items():
                start = places[address]
                batch.memory[row, start : start + len(content)] = np.frombuffer(content, np.uint8)
        return batch

    @property
    def gprs(self) -> NDArray[np.uint64]:
        """[n, 16] in hardware order (a copy)."""
        return self.gregs[:, _ORDER]

    def set_gprs(self, values: NDArray[np.uint64]) -> None:
        """Set all general-purpose registers from [n, 16] in hardware order."""
        self.gregs[:, :16] = values[:, list(GREGS)]

    @property
    def flags(self) -> NDArray[np.uint64]:
        """[n] RFLAGS (a view)."""
        return self.gregs[:, FLAGS_AT]

    @property
    def rip(self) -> NDArray[np.uint64]:
        """[n] instruction pointers (a view)."""
        return self.gregs[:, RIP_AT]

    @property
    def mxcsr(self) -> NDArray[np.uint32]:
        """[n] (a view)."""
        return self.xsave[:, _MXCSR_AT : _MXCSR_AT + 4].view(np.uint32)[:, 0]

    @property
    def xmm(self) -> NDArray[np.uint8]:
        """[n, 16, 16]: low halves of the vector registers (a view)."""
        return self.xsave[:, _XMM_AT : _XMM_AT + 256].reshape(-1, 16, 16)

    @property
    def ymm_high(self) -> NDArray[np.uint8]:
        """[n, 16, 16]: high halves (a view)."""
        return self.xsave[:, YMM_AT : YMM_AT + 256].reshape(-1, 16, 16)

    @property
    def masks(self) -> NDArray[np.uint64]:
        """[n, 8]: k0..k7 (a view); [n, 0] without AVX-512."""
        return self.xsave[:, _IMAGE.masks].view(np.uint64)

    @property
    def zmm_high(self) -> NDArray[np.uint8]:
        """[n, 16, 32]: upper halves of zmm0..zmm15 (a view); [n, 0, 32] without AVX-512."""
        return self.xsave[:, _IMAGE.upper].reshape(len(self.xsave), _ZMM, 32)

    @property
    def zmm_more(self) -> NDArray[np.uint8]:
        """[n, 16, 64]: zmm16..zmm31 (a view); [n, 0, 64] without AVX-512."""
        return self.xsave[:, _IMAGE.more].reshape(len(self.xsave), _ZMM, 64)

    @property
    def x87(self) -> NDArray[np.uint8]:
        """[n, X87_SIZE] (a copy)."""
        return np.concatenate([self.xsave[:, part] for part in _X87_PARTS], axis=1)


    def set_x87(self, values: NDArray[np.uint8]) -> None:
        """Set the x87 state of all from [n, X87_SIZE]."""
        self.xsave[:, _X87_PARTS[0]] = values[:, :24]
        self.xsave[:, _X87_PARTS[1]] = values[:, 24:]


@dataclass(slots=True)
class Results:
    """What became of a batch, one row each."""

    final: Batch
    signal: NDArray[np.int64]
    """As in `Outcome`."""
    code: NDArray[np.int64]
    fault_address: NDArray[np.uint64]
    fault_write: NDArray[np.bool_]

    def outcome(self, row: int, regions: Iterable[Region]) -> Outcome:
        """One row as an `Outcome`."""
        final = self.final
        vectors = np.concatenate([final.xmm[row], final.ymm_high[row]], axis=1)
        regions = list(regions)
        places, _ = memory_places(regions)
        memory = {
            region.address: final.memory[row, places[region.address] :][: region.size].tobytes()
            for region in regions
            if region.content is None
        }
        state = State(
            tuple(int(value) for value in final.gregs[row, _ORDER]),
            int(final.flags[row]),
            int(final.rip[row]),
            vectors.tobytes(),
            int(final.mxcsr[row]),
            final.x87[row].tobytes(),
            memory,
        )
        return Outcome(
            state, int(self.signal[row]), int(self.code[row]), int(self.fault_address[row]), bool(self.fault_write[row])
        )


def memory_places(regions: Iterable[Region]) -> tuple[dict[int, int], int]:
    """Where the regions of the states stand in a row of `Batch.memory`, by address, and the size of a row."""
    places: dict[int, int] = {}
    size = 0
    for region in regions:
        if region.content is None:
            places[region.address] = size
            size += region.size
    return places, size
