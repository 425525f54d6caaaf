"""Calls that regions make themselves: which ones, so that nobody can tell.

A call runs in place otherwise: out of the cache to the original instruction, and back in behind it. Two jumps each,
and most of what instrumentation costs. A call made from the cache has a return address there. Four kinds of code look
at return addresses:

- Unwinders: exceptions, cancellation, backtraces. They are told of the cache (`jit.frames`), where it is known what to
  tell them, and where nothing but going on to the caller would happen: a call that has a landing pad stays in place.
- Functions that look at their own: setjmp, dlsym, profilers. A callee in the image is asked for that, an import goes
  by its name.
- Programs that print or walk the stack themselves. All calls of one that asks for backtraces stay in place, and so do
  those of a runtime with tables of its own.
- Collectors that find roots by a table of return addresses, as OCaml's does. A call that data points behind stays in
  place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from jit.options import Options
from lifter.graph import Block, FunctionGraph
from lifter.image.callframes import CallFrames
from lifter.image.elf import ElfFile
from lifter.image.types import Image
from lifter.instruction import Flow
from lifter.noreturn import import_of

_WALKERS: Final = frozenset((
    "backtrace", "_Unwind_Backtrace", "_ULx86_64_init_local", "unw_getcontext", "_Ux86_64_getcontext", "mcount",
    "_mcount", "__fentry__", "__cyg_profile_func_enter",
))  # fmt: skip
"""Imports of programs that look at the stack above them."""
_WALKING_PREFIXES: Final = ("__asan_", "__tsan_", "__msan_", "__hwasan_", "__ubsan_", "__xray_", "__sanitizer_")
_LOOKERS: Final = frozenset((
    "dlopen", "dlmopen", "dlsym", "dlvsym", "dlclose", "setjmp", "_setjmp", "sigsetjmp", "__sigsetjmp", "savectx",
    "vfork", "__vfork", "getcontext", "swapcontext", "makecontext", "setcontext", "pthread_exit", "thrd_exit",
    "_Unwind_Resume", "_Unwind_RaiseException", "_Unwind_Resume_or_Rethrow", "_Unwind_ForcedUnwind",
    "__cxa_throw", "__cxa_rethrow", "moncontrol", "monstartup", "__register_frame", "__register_frame_info",
    "__gmon_start__", "mtrace", "obstack_free",
))  # fmt: skip
"""Imports that look at their return address, or come back in another way than by it."""
_OWN_TABLES: Final = (".llvm_stackmaps", "__managedcode", ".svm_heap")
"""Sections of runtimes that walk the stack by tables of offsets: LLVM's stack maps, .NET's and GraalVM's programs."""
_NEAR: Final = ("loop", "loope", "loopne", "jrcxz", "jecxz")
"""Jumps that only have a short form."""


class ThroughCalls:
    """Chooses the calls of an image."""

    def __init__(self, image: Image, options: Options) -> None:
        self._image = image
        self.frames = _frames(image, options)
        """The image's frame descriptions; None where all calls stay in place."""

    def of(self, graph: FunctionGraph, blind: Collection[int]) -> frozenset[int] | None:
        """Addresses of the calls that regions of a function may make; None where it has to stay as it is. `blind` are
        those of its callees that do not look at their return address."""
        if self.frames is None or not _can_be_carried(graph):
            return None
        frames = self.frames
        return frozenset(
            block.last_address for block in graph.blocks.values() if self._may(frames, graph, block, blind)
        )

    def _may(self, frames: CallFrames, graph: FunctionGraph, block: Block, blind: Collection[int]) -> bool:
        where, flow = block.last_address, block.last.flow
        if flow not in (Flow.CALL, Flow.CALL_INDIRECT) or block.end not in block.successors:
            return False
        if block.end in self._image.code_pointers:
            return False
        frame = frames.at(where)
        if frame is None or not frame.passes_exceptions(where):
            return False
        target = graph.callees.get(where)
        if target is None:
            name = import_of(self._image, block.last, block.end)
            return flow is Flow.CALL_INDIRECT and name not in _LOOKERS
        if target in self._image.plt:
            return self._image.plt[target] not in _LOOKERS
        return target != block.end and target in blind and not self._is_looker(target)

    def _is_looker(self, target: int) -> bool:
        function = self._image.function_at(target)
        return function is None or not _LOOKERS.isdisjoint((function.name, *function.aliases))


def _frames(image: Image, options: Options) -> CallFrames | None:
    walks = image.imports & _WALKERS or any(name.startswith(_WALKING_PREFIXES) for name in image.imports)
    in_place = options.calls == "place" or options.optimise == "all"
    if in_place or image.is_go or walks:
        return None
    elf = ElfFile(image.content, str(image.path))
    if options.calls == "auto" and elf.section(".debug_info") is not None:
        return None
    if any(elf.section(name) is not None for name in _OWN_TABLES):
        return None
    return CallFrames.of(elf)


def _can_be_carried(graph: FunctionGraph) -> bool:
    """Whether all instructions can be put elsewhere, whatever region they are in."""
    for block in graph.blocks.values():
        if block.last.mnemonic in _NEAR:
            return False
        for instruction in block.instructions:
            mem = instruction.memory_operand
            if mem is not None and mem.rip and mem.address_width != 64:
                return False
    return True
