"""Calls that always come back, once: what runs after them ran as often as they did.

A function is taken to return once if nothing that it does, and nothing that it calls, can keep it from doing so: it
and all its callees are understood to the last jump, make no system call, call nothing through a pointer, leave the
stack as they found it and do not look at their return address (as `setjmp` does). What interrupts it from outside (a
fault, a signal whose handler does not return) is not considered, and neither is a loop that never ends.
"""

from __future__ import annotations

from typing import Final

from lifter.graph import Block, FunctionGraph
from lifter.image.types import Image
from lifter.instruction import Flow, Instruction
from lifter.noreturn import import_of
from lifter.packing import Graphs
from lifter.registers import RBP, RSP
from lifter.stackdepth import State, depths_at_starts, step

_IMPORTS: Final = frozenset((
    "memcpy", "memmove", "memset", "memcmp", "memchr", "memrchr", "mempcpy", "rawmemchr", "bcmp", "memmem",
    "__memcpy_chk", "__memmove_chk", "__memset_chk", "__mempcpy_chk", "strlen", "strnlen", "strcmp", "strncmp",
    "strcasecmp", "strncasecmp", "strchr", "strrchr", "strchrnul", "strstr", "strspn", "strcspn", "strpbrk",
    "strcpy", "strncpy", "stpcpy", "stpncpy", "strcat", "strncat", "__strcpy_chk", "__strncpy_chk", "__stpcpy_chk",
    "__strcat_chk", "strtok_r", "wcslen", "wcscmp", "wmemcpy", "wmemset", "wmemcmp", "wcschr", "toupper", "tolower",
    "isalpha", "isdigit", "isspace", "isalnum", "isupper", "islower", "ispunct", "isxdigit", "isprint", "iscntrl",
    "__ctype_b_loc", "__ctype_tolower_loc", "__ctype_toupper_loc", "__errno_location", "__tls_get_addr", "abs",
    "labs", "llabs", "div", "ldiv", "rand", "rand_r", "random", "srand", "sin", "cos", "tan", "asin", "acos",
    "atan", "atan2", "sinh", "cosh", "tanh", "exp", "exp2", "exp10", "expm1", "log", "log2", "log10", "log1p",
    "pow", "sqrt", "cbrt", "hypot", "floor", "ceil", "round", "trunc", "rint", "nearbyint", "lrint", "llrint",
    "lround", "llround", "fmod", "remainder", "fabs", "ldexp", "frexp", "modf", "scalbn", "fmin", "fmax",
    "copysign", "sincos", "logb", "ilogb", "sinf", "cosf", "tanf", "asinf", "acosf", "atanf", "atan2f", "expf",
    "exp2f", "logf", "log2f", "log10f", "powf", "sqrtf", "cbrtf", "hypotf", "floorf", "ceilf", "roundf", "truncf",
    "rintf", "nearbyintf", "fmodf", "fabsf", "ldexpf", "frexpf", "modff", "sincosf", "strtol", "strtoul", "strtoll",
    "strtoull", "strtod", "strtof", "atoi", "atol", "atof", "malloc", "calloc", "realloc", "free", "cfree",
    "malloc_usable_size", "_ZdlPv", "_ZdaPv", "_ZdlPvm", "_ZdaPvm",
))  # fmt: skip
"""Functions of the C library that compute, or manage the heap: they call nothing of the program, wait for nothing, and
end it only where it destroyed its heap."""
_TWICE: Final = frozenset(
    ("setjmp", "_setjmp", "__sigsetjmp", "sigsetjmp", "vfork", "__vfork", "fork", "getcontext", "savectx")
)


def find_returning(image: Image, graphs: Graphs) -> frozenset[int]:
    """Addresses of the functions among `graphs` that return once each time they are called.

    None in Go, where a panic that is recovered from ends functions early.
    """
    if image.is_go:
        return frozenset()
    callers: dict[int, list[int]] = {}
    possible: set[int] = set()
    for address in graphs:
        callees = graphs.outline(address).needed_to_return
        if callees is None:
            continue
        possible.add(address)
        for callee in callees:
            callers.setdefault(callee, []).append(address)
    # Functions that call each other return if nothing else keeps them from it.
    work = [callee for callee in callers if callee not in possible]
    while work:
        for caller in callers.get(work.pop(), ()):
            if caller in possible:
                possible.remove(caller)
                work.append(caller)
    return frozenset(possible)


def comes_back(image: Image, graph: FunctionGraph, block: Block, returning: frozenset[int]) -> bool:
    """Whether the call that ends `block` comes back, once."""
    if not block.successors:
        return False
    target = graph.callees.get(block.last_address)
    if target is not None and target in returning:
        return True
    return calls_library(image, graph, block)


def calls_library(image: Image, graph: FunctionGraph, block: Block) -> bool:
    """Whether `block` ends by calling, or jumping to, one of the imports that are taken to come back."""
    return _import(image, graph, block) in _IMPORTS


def _import(image: Image, graph: FunctionGraph, block: Block) -> str | None:
    """Name of the import that a call or jump reaches."""
    target = graph.callees.get(block.last_address)
    return import_of(image, block.last, block.end) if target is None else image.plt.get(target)


def needed_to_return(image: Image, graph: FunctionGraph) -> set[int] | None:
    """Functions that all have to return for this one to do so, or None if something else can keep it from it."""
    function = graph.function
    names = (function.name, *function.aliases)
    if not graph.complete or graph.refusals or function.address not in graph.blocks:
        return None
    if any(name in _TWICE for name in names):
        return None
    needed: set[int] = set()
    for block in graph.blocks.values():
        last, where = block.last, block.last_address
        match last.flow:
            case Flow.SYSCALL | Flow.HALT:
                return None
            case Flow.CALL | Flow.CALL_INDIRECT:
                leaves = True
                if not block.successors:
                    return None
            case Flow.RETURN:
                leaves = False
            case Flow.NEXT:
                leaves = False
                if not block.successors:
                    return None
            case _:
                leaves = where in graph.tail_calls
        if any(successor not in graph.blocks for successor in block.successors):
            return None
        if leaves and not calls_library(image, graph, block):
            target = graph.callees.get(where)
            if target is None or target == block.end:
                return None
            needed.add(target)
    return needed if _keeps_to_its_frame(graph) else None


def _keeps_to_its_frame(graph: FunctionGraph) -> bool:
    """Whether the stack pointer is known all through and back at every way out, and the return address left alone."""
    blocks = {start: block.addressed() for start, block in graph.blocks.items()}
    successors = {start: block.successors for start, block in graph.blocks.items()}
    known = depths_at_starts((graph.function.address,), blocks, successors)
    for start, block in graph.blocks.items():
        state = known.get(start, (None, None))
        for instruction in block.instructions:
            if state[0] is None or _touches_return_address(state, instruction):
                return False
            before, state = state, step(state, instruction)
        last = block.last
        leaves = last.flow is Flow.RETURN or (block.last_address in graph.tail_calls)
        if leaves and (before[0] != 0 or last.operands):
            return False
    return True


def looks_at_return_address(graph: FunctionGraph) -> bool:
    """Whether a function reads or writes its return address, or may: where its stack pointer is not known, through
    that alone. A frame pointer finds it as well."""
    blocks = {start: block.addressed() for start, block in graph.blocks.items()}
    successors = {start: block.successors for start, block in graph.blocks.items()}
    known = depths_at_starts((graph.function.address,), blocks, successors)
    for start, state in known.items():  # not landing pads, which find the frame as it was
        for instruction in graph.blocks[start].instructions:
            if _touches_return_address(state, instruction) or (
                state[0] == 0 and instruction.mnemonic == "pop" and instruction.flow is Flow.NEXT
            ):
                return True
            state = step(state, instruction)
    return False


def _touches_return_address(state: State, instruction: Instruction) -> bool:
    """Whether an instruction reads, writes or takes the address of the word at the function's return address."""
    if instruction.flow is Flow.RETURN:
        return False
    mem = instruction.memory_operand
    if mem is None or mem.base not in (RSP, RBP):
        return False
    origin = state[0] if mem.base == RSP else state[1]
    if origin is None:
        return mem.base == RSP
    # With an index it is an array of the frame below, or of the arguments above.
    return mem.index is None and -8 < origin + mem.disp < 8
