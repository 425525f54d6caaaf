"""Reports for other tools: drcov for Lighthouse and its like, lcov for coverage viewers."""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from elftools.common.exceptions import DWARFError, ELFError
from elftools.dwarf.compileunit import CompileUnit
from elftools.dwarf.dwarfinfo import DWARFInfo
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import NoteSection

from jit.report import Report, Row
from jit.tracepoints import Point
from lifter.errors import RefusedError, UsageError

_DRCOV_BLOCK = struct.Struct("<IHH")
"""Offset from the module's base, size, module id."""

_MAX_BLOCK = 0xFFFF


def to_drcov(*reports: Report) -> bytes:
    """The executed blocks of one or more modules as drcov version 2 (module table version 2, binary block table), as
    Lighthouse reads it."""
    modules = ""
    blocks = bytearray()
    for number, report in enumerate(reports):
        module = report.module
        path = module.path.replace("\n", "?")
        extent = f"{module.base:#018x}, {module.end:#018x}, {module.entry:#018x}"
        modules += f" {number}, {extent}, 0x00000000, 0x00000000, {path}\n"
        for row in report.ranges:
            if not row.count:
                continue
            start, left = row.tracepoint.address - module.base, row.tracepoint.size
            while left > 0:
                size = min(left, _MAX_BLOCK)
                blocks += _DRCOV_BLOCK.pack(start, size, number)
                start, left = start + size, left - size
    header = (
        "DRCOV VERSION: 2\n"
        "DRCOV FLAVOR: drcov\n"
        f"Module Table: version 2, count {len(reports)}\n"
        "Columns: id, base, end, entry, checksum, timestamp, path\n"
        f"{modules}"
        f"BB Table: {len(blocks) // _DRCOV_BLOCK.size} bbs\n"
    )
    return header.encode(errors="replace") + bytes(blocks)


def to_lcov(report: Report) -> str:
    """Line counts as an lcov tracefile. A line counts as often as the most executed block that it starts in.

    The line table is read from the module itself, which must be there as it was when it was rewritten. Raises
    UsageError when it cannot be read, RefusedError when it is another file now or has no line information.
    """
    path = Path(report.module.path)
    try:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            if report.module.build_id and report.module.build_id != _build_id(elf):
                raise RefusedError(f"{path}: another file than the one that was instrumented (build id differs)")
            lines = list(_line_ranges(elf.get_dwarf_info())) if elf.has_dwarf_info() else []
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; lcov needs the module's line information") from None
    except (ELFError, DWARFError, struct.error, KeyError, IndexError, ValueError, UnicodeError) as error:
        raise RefusedError(f"{path}: unreadable line information ({error})") from None
    if not lines:
        raise RefusedError(f"{path}: no line information: build it with -g, or choose another format")
    return _tracefile(report, lines)


_Line = tuple[int, int, str, int]
"""First address, address after, file, line."""


def _build_id(elf: ELFFile) -> str:
    for section in elf.iter_sections():
        if isinstance(section, NoteSection):
            for note in section.iter_notes():
                if note["n_type"] == "NT_GNU_BUILD_ID":
                    return str(note["n_desc"])
    return ""


def _line_ranges(dwarf: DWARFInfo) -> Iterator[_Line]:
    """All statements of all units, with the addresses that belong to each.

    Several lines may begin at one address, where the code of all but the last was optimised away: all of them are
    executed with it.
    """
    for unit in dwarf.iter_CUs():
        program = dwarf.line_program_for_CU(unit)
        if program is None:
            continue
        names = _file_names(unit, program.header)
        here: dict[tuple[int, int], None] = {}  # in the order of the table: a function's own line comes first
        address = 0
        for entry in program.get_entries():
            state = entry.state
            if state is None:
                continue
            if state.address != address:
                if state.address > address:
                    for file, line in here:
                        yield address, state.address, names.get(file, "?"), line
                here.clear()
                address = state.address
            if state.end_sequence:
                here.clear()
            elif state.is_stmt and state.line:
                here[state.file, state.line] = None


def _file_names(unit: CompileUnit, header: Mapping[str, Any]) -> dict[int, str]:
    """Absolute path of each file by its number in the line program: from 1 on in DWARF 4, from 0 on in DWARF
    5."""
    attribute = unit.get_top_DIE().attributes.get("DW_AT_comp_dir")
    root = PurePosixPath(_text(attribute.value) if attribute else "/")
    modern = header["version"] >= 5
    directories = [root / _text(entry) for entry in header["include_directory"]]
    if not modern:
        directories.insert(0, root)
    names = {}
    for index, entry in enumerate(header["file_entry"]):
        number = entry.dir_index
        directory = directories[number] if number < len(directories) else root
        names[index if modern else index + 1] = str(directory / _text(entry.name))
    return names


def _text(value: object) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _tracefile(report: Report, lines: Sequence[_Line]) -> str:
    rows = sorted(report.ranges, key=lambda row: row.tracepoint.address)
    starts = [row.tracepoint.address for row in rows]
    counts: dict[str, dict[int, int]] = defaultdict(dict)
    for first, end, file, line in lines:
        # A line may start in the middle of one block and go on over others: all of them are its blocks.
        index = max(bisect_right(starts, first) - 1, 0)
        covering = [row.count for row in _overlapping(rows, index, first, end)]
        if covering:
            known = counts[file]
            known[line] = max(known.get(line, 0), *covering)
    functions = _functions(report, lines)
    text = ["TN:"]
    for file in sorted(counts):
        found = functions.get(file, [])
        text.append(f"SF:{file}")
        text += [f"FN:{line},{name}" for line, name, _ in found]
        text += [f"FNDA:{count},{name}" for _, name, count in found]
        text += [f"FNF:{len(found)}", f"FNH:{sum(count > 0 for _, _, count in found)}"]
        text += [f"DA:{line},{count}" for line, count in sorted(counts[file].items())]
        text += [f"LF:{len(counts[file])}", f"LH:{sum(count > 0 for count in counts[file].values())}"]
        text.append("end_of_record")
    return "\n".join(text) + "\n"


def _overlapping(rows: Sequence[Row], index: int, first: int, end: int) -> Iterator[Row]:
    for row in rows[index:]:
        if row.tracepoint.address >= end:
            return
        if row.tracepoint.address + row.tracepoint.size > first:
            yield row


def _functions(report: Report, lines: Sequence[_Line]) -> dict[str, list[tuple[int, str, int]]]:
    """By file: line, name and count of each function, from its entry tracepoint or else its first block."""
    entries: dict[str, Row] = {}
    for row in report.rows:
        point = row.tracepoint
        if point.action != "count" or point.point not in (Point.ENTRY, Point.BLOCK):
            continue
        known = entries.get(point.function)
        if known is None or (point.address, point.point is Point.BLOCK) < (
            known.tracepoint.address,
            known.tracepoint.point is Point.BLOCK,
        ):
            entries[point.function] = row
    places = sorted(lines, key=lambda place: place[0])
    starts = [place[0] for place in places]
    functions: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for name, row in entries.items():
        after = bisect_right(starts, row.tracepoint.address)
        index = bisect_left(starts, starts[after - 1]) if after else 0
        if after and row.tracepoint.address < places[index][1]:
            functions[places[index][2]].append((places[index][3], name, row.count))
    return {file: sorted(found) for file, found in functions.items()}
