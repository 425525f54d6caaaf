"""The stubs through which a module calls imported functions, found by their jump through a GOT slot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from lifter.image.elf import SHF_EXECINSTR, ElfFile
from lifter.image.relocations import Relocations

ENDBR64: Final = b"\xf3\x0f\x1e\xfa"
_SECTIONS: Final = (".plt", ".plt.sec", ".plt.got", ".plt.bnd", ".iplt")

_AFTER_JUMP: Final = (b"\x66\x90", b"\x0f\x1f\x44\0\0", b"\x66\x0f\x1f\x44\0\0", b"\xcc\xcc")
"""What linkers fill a stub with."""


def plt_ranges(elf: ElfFile) -> list[tuple[int, int]]:
    """Address ranges of the PLT's sections; none where the file has no section headers."""
    return [
        (header.address, header.address + header.size)
        for header in elf.section_headers
        if header.name in _SECTIONS and header.flags & SHF_EXECINSTR
    ]


def find_plt(elf: ElfFile, relocations: Relocations, slots: Mapping[int, str]) -> dict[int, str]:
    """Start of each PLT stub -> name, from `slots` (address of a GOT slot -> name).

    With section headers, every `jmp *slot(%rip)` inside the PLT's sections counts, whichever linker wrote it;
    without, only the exact shapes that linkers write (a function of that shape would behave the same).
    """
    if not slots:
        return {}
    ranges = plt_ranges(elf)
    stubs: dict[int, str] = {}
    for segment in elf.segments:
        if not segment.executable:
            continue
        data = segment.data
        code = np.frombuffer(data, np.uint8)
        if len(code) < 6:
            continue
        words = np.ndarray((len(code) - 3,), "<i4", data, 0, (1,))
        at = np.flatnonzero((code[:-5] == 0xFF) & (code[1:-4] == 0x25))
        target = words[at + 2].astype(np.int64) + at + 6 + segment.address
        known = np.isin(target, np.fromiter(slots, np.int64, len(slots)))
        for jump, slot in zip(at[known].tolist(), target[known].tolist(), strict=True):
            start = _stub_start(data, jump)
            address = segment.address + start
            if any(low <= address < high for low, high in ranges) or (
                not elf.section_headers and _has_plt_shape(data, start, jump)
            ):
                stubs[address] = slots[slot]
        stubs.update(_lazy_stubs(data, segment.address, ranges, elf, relocations))
    return stubs


def _stub_start(data: bytes, jump: int) -> int:
    """Offset of the first instruction of the stub whose jump is at `jump`."""
    start = jump
    if data[start - 1 : start] == b"\xf2":
        start -= 1
    if data[start - 6 : start - 4] == b"\x41\xbb":
        # mold: mov $index, %r11d
        start -= 6
    if data[start - 4 : start] == ENDBR64:
        start -= 4
    return start


def _has_plt_shape(data: bytes, start: int, jump: int) -> bool:
    after = data[jump + 6 : jump + 16]
    if start == jump and after[:1] == b"\x68" and after[5:6] == b"\xe9":
        return True
    padding = after[: -(jump + 6) % 8]
    return start % 8 == 0 and padding in _AFTER_JUMP


def _lazy_stubs(
    data: bytes, address: int, ranges: list[tuple[int, int]], elf: ElfFile, relocations: Relocations
) -> dict[int, str]:
    """The stubs of an IBT PLT that only push their relocation's index (`endbr64; push; jmp`): lazily bound
    slots point to them at first."""
    stubs: dict[int, str] = {}
    at = data.find(ENDBR64 + b"\x68")
    while at >= 0:
        index = int.from_bytes(data[at + 5 : at + 9], "little")
        is_jump = data[at + 9 : at + 10] == b"\xe9" or data[at + 9 : at + 11] == b"\xf2\xe9"
        where = address + at
        inside = any(low <= where < high for low, high in ranges) if elf.section_headers else at % 16 == 0
        if is_jump and inside and index < len(relocations.jump_slots) and relocations.jump_slots[index]:
            stubs[where] = relocations.jump_slots[index]
        at = data.find(ENDBR64 + b"\x68", at + 1)
    return stubs
