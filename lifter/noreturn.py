"""Calls that never come back: by name, and by proof over the graphs.

Taking a call for one that returns is harmless unless data follows it; taking it for one that does not return costs
the coverage of what follows. Neither makes the instrumented program wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lifter.graph import FunctionGraph
from lifter.image.types import Image
from lifter.instruction import Flow, Instruction

_IMPORTS: Final = frozenset(
    [
        "exit",
        "_exit",
        "_Exit",
        "quick_exit",
        "abort",
        "__stack_chk_fail",
        "__stack_chk_fail_local",
        "__chk_fail",
        "__fortify_fail",
        "__assert",
        "__assert_fail",
        "__assert_perror_fail",
        "__assert_rtn",
        "__cxa_throw",
        "__cxa_rethrow",
        "__cxa_bad_cast",
        "__cxa_bad_typeid",
        "__cxa_pure_virtual",
        "__cxa_deleted_virtual",
        "__cxa_throw_bad_array_new_length",
        "__cxa_throw_bad_array_length",
        "__cxa_call_unexpected",
        "__cxa_call_terminate",
        "__clang_call_terminate",
        "_Unwind_Resume",
        "longjmp",
        "_longjmp",
        "siglongjmp",
        "__longjmp",
        "__longjmp_chk",
        "____longjmp_chk",
        "__libc_siglongjmp",
        "__libc_longjmp",
        "pthread_exit",
        "thrd_exit",
        "err",
        "errx",
        "verr",
        "verrx",
        "__libc_start_main",
        "__libc_fatal",
        "__libc_start_call_main",
        "_ZSt9terminatev",
        "_ZSt10unexpectedv",
        "_ZN10__cxxabiv111__terminateEPFvvE",
        "__rust_start_panic",
        "rust_panic",
        "rust_begin_unwind",
        "setcontext",
        "_dl_fatal_printf",
        "_dl_signal_error",
        "_dl_signal_exception",
        "xalloc_die",
    ]
)
"""Names that mean the same in every program: in imports, and in what a static executable has of its own."""
_PREFIXES: Final = ("_ZSt17__throw_", "_ZSt16__throw_", "_ZSt15__throw_", "_ZSt18__throw_", "_ZSt19__throw_")
_RUST: Final = ("core::panicking::", "core::result::unwrap_failed", "core::option::expect_failed",
                "core::option::unwrap_failed", "core::slice::index::slice_", "core::str::slice_error_fail",
                "core::cell::panic_already_", "std::panicking::begin_panic", "std::panicking::rust_panic",
                "std::process::exit", "std::process::abort", "alloc::alloc::handle_alloc_error",
                "alloc::raw_vec::capacity_overflow", "alloc::raw_vec::handle_error", "std::rt::begin_panic",
                )  # fmt: skip
_GO: Final = frozenset(
    [
        "runtime.gopanic",
        "runtime.throw",
        "runtime.fatal",
        "runtime.fatalthrow",
        "runtime.fatalpanic",
        "runtime.goexit1",
        "runtime.goexit0",
        "runtime.exit",
        "runtime.abort",
        "runtime.badmcall",
        "runtime.badmcall2",
        "runtime.badmorestackg0",
        "runtime.badmorestackgsignal",
        "runtime.badsystemstack",
        "runtime.goPanicValue",
        "runtime.unreachableMethod",
        "runtime.sigpanic",
        "runtime.dieFromSignal",
        "runtime.crash",
        "runtime.exitThread",
        "runtime.gosched_m",
        "runtime.badctxt",
    ]
)
_GO_PREFIXES: Final = ("runtime.panic", "runtime.goPanic")
_LOCAL_DOUBTFUL: Final = frozenset(("exit", "err", "errx", "verr", "verrx", "abort", "__assert"))
"""Names that a program may give to something else: for functions of the image itself the proof decides."""


def names_noreturn(name: str) -> bool:
    """Whether an imported function of this name never returns."""
    if name in _IMPORTS:
        return True
    return name.startswith("_ZSt") and (name.startswith(_PREFIXES) or "__throw_" in name[:16])


def never_returns(image: Image, target: int, proved: frozenset[int] | set[int]) -> bool:
    """Whether a direct call to `target` never comes back, by name or because it is in `proved`."""
    if target in proved:
        return True
    imported = image.plt.get(target)
    if imported is not None:
        return names_noreturn(imported)
    function = image.function_at(target)
    if function is None or function.address != target:
        return False
    if image.is_go:
        return function.name in _GO or function.name.startswith(_GO_PREFIXES)
    names = (function.name, *function.aliases)
    if any(name not in _LOCAL_DOUBTFUL and names_noreturn(name) for name in names):
        return True
    return function.demangled.startswith(_RUST)


def import_of(image: Image, instruction: Instruction, end: int) -> str | None:
    """Name of the import that an indirect call or jump through the GOT reaches; None for all others."""
    operand = instruction.memory_operand
    if operand is None or not operand.rip or operand.index is not None:
        return None
    return image.got.get(end + operand.disp)


def find_noreturn(graphs: Mapping[int, FunctionGraph], image: Image) -> frozenset[int]:
    """Addresses of the functions among `graphs` that provably never return.

    A function returns if a path from an entry reaches a return instruction, an indirect or unanalysed tail call, or
    code that was left out, passing only calls that return. None in Go: its runtime switches stacks and comes back
    where no path leads.
    """
    if image.is_go:
        return frozenset()
    returning: set[int] = set()
    waiting: dict[int, list[tuple[int, int | None]]] = {}
    visited: dict[int, set[int]] = {}
    for address, graph in graphs.items():
        after_calls = {
            successor
            for block in graph.blocks.values()
            if block.flow is Flow.CALL
            for successor in block.successors
        }
        visited[address] = set()
        roots = [entry for entry in graph.entries if entry not in after_calls]
        roots.extend(pad for pad in graph.function.landing_pads if pad in graph.blocks)
        work = [(address, root) for root in (*roots, address)]
        while work:
            owner, start = work.pop()
            if owner in returning:
                continue
            if _walk(graphs[owner], start, graphs, image, returning, waiting, visited[owner]):
                newly = [owner]
                while newly:
                    done = newly.pop()
                    if done in returning:
                        continue
                    returning.add(done)
                    for waiter, successor in waiting.pop(done, ()):
                        if successor is None:
                            newly.append(waiter)
                        elif waiter not in returning:
                            work.append((waiter, successor))
    return frozenset(graphs.keys() - returning)


def _walk(
    graph: FunctionGraph,
    start: int,
    graphs: Mapping[int, FunctionGraph],
    image: Image,
    returning: set[int],
    waiting: dict[int, list[tuple[int, int | None]]],
    visited: set[int],
) -> bool:
    """Follow a function from `start`: True once a way out is found; notes which callees decide what is left."""
    work = [start]
    blocks, owner = graph.blocks, graph.function.address
    while work:
        address = work.pop()
        if address in visited:
            continue
        visited.add(address)
        block = blocks.get(address)
        if block is None:
            return True
        flow = block.flow
        if flow is Flow.RETURN:
            return True
        if flow is Flow.CALL:
            target = graph.callees[block.last_address]
            if target in graphs and target not in returning:
                waiting.setdefault(target, []).extend((owner, successor) for successor in block.successors)
                continue
        elif flow is Flow.JUMP or flow is Flow.BRANCH or flow is Flow.JUMP_INDIRECT:
            where = block.last_address
            if flow is Flow.JUMP_INDIRECT:
                if where in graph.unresolved:
                    return True
                if where in graph.tail_calls:
                    imported = import_of(image, block.last, block.end)
                    if imported is None or not names_noreturn(imported):
                        return True
            elif where in graph.tail_calls:
                target = graph.callees[where]
                if target in graphs and target not in returning:
                    waiting.setdefault(target, []).append((owner, None))
                elif target in graphs or not never_returns(image, target, frozenset()):
                    return True
        falls = flow is not Flow.JUMP and flow is not Flow.JUMP_INDIRECT and flow is not Flow.HALT
        if falls and not block.successors and flow is not Flow.CALL and flow is not Flow.CALL_INDIRECT:
            return True
        work.extend(block.successors)
    return False
