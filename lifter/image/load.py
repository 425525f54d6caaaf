"""From a path to an Image: parse, check, and merge what every part of the file says."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from lifter.errors import Refusal, UsageError
from lifter.image import scan
from lifter.image.elf import ET_EXEC, PT_INTERP, SHF_EXECINSTR, ElfFile, SymbolTable, string_at
from lifter.image.functions import Found, FunctionTable, Gap, find_functions
from lifter.image.gopclntab import GoFunction, read_go
from lifter.image.plt import find_plt, plt_ranges
from lifter.image.relocations import Relocations, read_relocations
from lifter.image.symbols import CodeSymbols
from lifter.image.types import Function, Image, Kind
from lifter.image.unwind import read_frames, read_landing_pads

_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME, _DT_FLAGS_1 = 1, 5, 10, 14, 0x6FFFFFFB
_DT_PLTGOT, _DT_INIT, _DT_FINI = 3, 12, 13
_ARRAYS: Final = ((25, 27), (26, 28), (32, 33))
"""Dynamic tags of address and size of init_array, fini_array and preinit_array."""
_ARRAY_SECTIONS: Final = (".init_array", ".fini_array", ".preinit_array", ".ctors", ".dtors")
_DF_1_PIE: Final = 0x08000000
_SHADOW_STACK_OR_IBT: Final = 3


def open_image(path: Path | str) -> Image:
    """The ELF file at `path`, parsed and checked.

    Raises UsageError if there is no such file or it cannot be read, RefusedError if it is no complete
    executable or shared library of x86-64 Linux.
    """
    path = Path(path)
    elf = ElfFile(_read(path), str(path))
    dynamic = elf.dynamic_symbols()
    relocations = read_relocations(elf, dynamic)
    kind = _kind(elf, dynamic)
    go = read_go(elf, relocations.words)
    frames = read_frames(elf)
    called = _called(elf, relocations)
    branches = scan.direct_branches(elf.segments)
    referred = _referred(elf, kind, relocations)
    stub_names = find_plt(elf, relocations, {**relocations.slots, **dict.fromkeys(relocations.resolvers, "")})
    table = find_functions(
        elf,
        CodeSymbols(elf, elf.static_symbols(), dynamic),
        frames,
        [(function.address, function.size, function.name) for function in go.functions],
        called,
        plt_ranges(elf) or [(stub, stub + 8) for stub in stub_names],
        np.union1d(branches.target[branches.is_call], referred).tolist(),
    )
    slots = {**_resolver_names(relocations, table), **relocations.slots}
    pads, pad_refusals = read_landing_pads(elf, frames)
    pointers = frozenset(referred.tolist()) | table.labels | called.keys()
    image = Image(
        path=path,
        content=elf.content,
        kind=kind,
        is_static=kind is not Kind.LIBRARY and not _has_interpreter(elf),
        is_go=go.present,
        entry=elf.entry,
        build_id=_build_id(elf),
        soname=_strings(elf, _DT_SONAME)[0] if _DT_SONAME in elf.dynamic else "",
        segments=elf.segments,
        sections=elf.sections(),
        functions=_functions(
            table, [*pads, *_go_pads(go.functions)], _address_taken(branches, table, pointers, go.present)
        ),
        plt=dict(sorted(find_plt(elf, relocations, slots).items())),
        got=dict(sorted(slots.items())),
        imports=_imports(dynamic),
        needed=tuple(_strings(elf, _DT_NEEDED)),
        code_pointers=pointers,
        words=relocations.words,
        has_shadow_stack=_is_cet(elf),
        refusals=(*table.refusals, *frames.refusals, *pad_refusals, *go.refusals),
    )
    functions, gaps = _discovered(image, table.gaps)
    refusals = (*image.refusals, *(_not_covered(image, *gap) for gap in gaps), *_missing(image, functions))
    return replace(image, functions=functions, refusals=refusals)


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise UsageError(f"{path}: is a directory, not an executable or shared library")
        if not path.is_file():
            raise UsageError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
        return path.read_bytes()
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UsageError(f"{path}: cannot be read: {reason}") from None


def _has_interpreter(elf: ElfFile) -> bool:
    return any(header.type == PT_INTERP for header in elf.program_headers)


def _kind(elf: ElfFile, dynamic: SymbolTable) -> Kind:
    """Older linkers did not mark position-independent executables, hence the other signs. The C library and
    the loader have an entry, and the former an interpreter, but they have a name as libraries too."""
    if elf.type == ET_EXEC:
        return Kind.FIXED
    if elf.dynamic_value(_DT_FLAGS_1) & _DF_1_PIE:
        return Kind.PIE
    if _DT_SONAME in elf.dynamic:
        return Kind.LIBRARY
    if _has_interpreter(elf):
        return Kind.PIE
    # Without any of that: a static executable needs no other module and gives nothing to one.
    is_alone = elf.entry and _DT_NEEDED not in elf.dynamic and not _exports(dynamic)
    return Kind.PIE if is_alone else Kind.LIBRARY


def _exports(dynamic: SymbolTable) -> bool:
    rows = dynamic.rows
    return bool(((rows["section"] != 0) & (rows["info"] >> 4 != 0)).any())


def _strings(elf: ElfFile, tag: int) -> list[str]:
    table = elf.at(elf.dynamic_value(_DT_STRTAB), elf.dynamic_value(_DT_STRSZ))
    return [string_at(table, offset) for offset in elf.dynamic.get(tag, [])]


def _imports(dynamic: SymbolTable) -> frozenset[str]:
    undefined = dynamic.rows[1:][dynamic.rows[1:]["section"] == 0]
    return frozenset(dynamic.name(offset) for offset in undefined["name"].tolist()) - {""}


def _build_id(elf: ElfFile) -> str:
    return next((data.hex() for name, kind, data in elf.notes() if name == b"GNU" and kind == 3), "")


def _is_cet(elf: ElfFile) -> bool:
    """Whether a GNU property note (x86 feature 1 AND) promises IBT or a shadow stack."""
    for name, kind, data in elf.notes():
        if name != b"GNU" or kind != 5:
            continue
        at = 0
        while at + 12 <= len(data):
            property_type, size, value = struct.unpack_from("<III", data, at)
            if property_type == 0xC0000002 and value & _SHADOW_STACK_OR_IBT:
                return True
            at += 8 + (size + 7 & ~7)
    return False


def _called(elf: ElfFile, relocations: Relocations) -> dict[int, str]:
    """Addresses that the kernel, the loader or the start-up code calls -> source as functions report it."""
    called: dict[int, str] = {}
    arrays = [(elf.dynamic_value(at), elf.dynamic_value(size)) for at, size in _ARRAYS]
    arrays += [(header.address, header.size) for header in elf.section_headers if header.name in _ARRAY_SECTIONS]
    for start, size in arrays:
        data = elf.at(start, size)
        for index, (word,) in enumerate(struct.iter_unpack("<Q", data[: len(data) & ~7])):
            called[relocations.words.get(start + 8 * index, word)] = "init-array"
    for header in elf.section_headers:
        if header.name in (".init", ".fini") and header.flags & SHF_EXECINSTR and header.size:
            called[header.address] = "init-array"
    for tag in (_DT_INIT, _DT_FINI):
        called[elf.dynamic_value(tag)] = "init-array"
    for resolver in relocations.resolvers.values():
        called[resolver] = "init-array"
    called[elf.entry] = "entry"
    return {address: source for address, source in called.items() if address and elf.is_code(address)}


def _resolver_names(relocations: Relocations, table: FunctionTable) -> dict[int, str]:
    """GOT slots that an IFUNC resolver fills -> the function's name."""
    names = {found.address: _name(found) for found in table.functions}
    return {slot: names[resolver] for slot, resolver in relocations.resolvers.items() if resolver in names}


def _referred(elf: ElfFile, kind: Kind, relocations: Relocations) -> npt.NDArray[np.int64]:
    """Code addresses that relocations, instructions and (in images at fixed addresses) data refer to, sorted."""
    fixed = kind is Kind.FIXED
    parts = [relocations.pointers, scan.computed_addresses(elf.segments, fixed, elf.dynamic_value(_DT_PLTGOT))]
    if fixed:
        parts.append(scan.data_pointers(elf.segments))
    found = np.unique(np.concatenate(parts)).astype(np.int64)
    inside = np.zeros(len(found), np.bool_)
    for segment in elf.segments:
        if segment.executable:
            inside |= (found >= segment.address) & (found < segment.address + len(segment.data))
    return found[inside]


def _name(found: Found) -> str:
    return found.names[0] if found.names else f"fn_{found.address:x}"


def _address_taken(
    branches: scan.BranchTargets, table: FunctionTable, pointers: frozenset[int], is_go: bool
) -> frozenset[int]:
    """Addresses of the functions that code may reach through a pointer (see `Function.address_taken`)."""
    starts = frozenset(found.address for found in table.functions)
    if is_go:
        return starts
    reached = frozenset(np.unique(branches.target).tolist())
    exported = frozenset(found.address for found in table.functions if found.exported)
    return (starts & pointers) | (starts - reached) | exported


def _functions(table: FunctionTable, pads: Sequence[int], address_taken: frozenset[int]) -> tuple[Function, ...]:
    """The finished functions, each with the landing pads that lie in its bytes."""
    remaining = sorted(set(pads), reverse=True)
    functions = []
    for found in table.functions:
        while remaining and remaining[-1] < found.address:
            remaining.pop()
        own = []
        while remaining and remaining[-1] < found.end:
            own.append(remaining.pop())
        name = _name(found)
        functions.append(
            Function(
                address=found.address,
                size=found.size,
                name=name,
                aliases=tuple(found.names[1:]),
                exported=found.exported,
                address_taken=found.address in address_taken,
                landing_pads=tuple(own),
                source=found.source,
            )
        )
    return tuple(functions)


def _go_pads(functions: Sequence[GoFunction]) -> list[int]:
    return [function.recovery for function in functions if function.recovery]


def _discovered(image: Image, gaps: Sequence[Gap]) -> tuple[tuple[Function, ...], Sequence[Gap]]:
    """See `lifter.discovery.discover`. Go's tables name all functions: what they do not cover is data."""
    if not gaps or image.is_go:
        return image.functions, gaps
    from lifter.discovery import discover  # the decoder comes with it, which few images need yet

    return discover(image, gaps)


def _not_covered(image: Image, start: int, end: int) -> Refusal:
    return Refusal(
        start,
        "code or data that no symbol and no unwind information covers",
        image.read(start, min(end - start, 16)),
        "keep symbols or unwind tables to have it instrumented",
    )


def _missing(image: Image, functions: Sequence[Function]) -> list[Refusal]:
    if functions:
        return []
    return [
        Refusal(
            image.segments[0].address,
            "no symbols and no unwind information: no function was found",
            hint="name functions by address (0x...), or keep symbols",
        )
    ]
