"""Scans of code bytes at every offset, instruction borders unknown: supersets, never exact answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lifter.image.elf import ADDRESS_LIMIT
from lifter.image.types import Image, Segment

Bytes = npt.NDArray[np.uint8]
Addresses = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class BranchTargets:
    """Everything that looks like a direct call or a jump with a 32-bit displacement, sorted by target."""

    target: npt.NDArray[np.int64]
    site: npt.NDArray[np.int64]
    """Address of the (first opcode byte of the) instruction."""
    is_call: npt.NDArray[np.bool_]

    def sites(self, start: int, end: int) -> BranchTargets:
        """Those whose target lies in [start, end)."""
        first, last = np.searchsorted(self.target, [start, end])
        chosen = slice(int(first), int(last))
        return BranchTargets(self.target[chosen], self.site[chosen], self.is_call[chosen])


def branch_targets(image: Image) -> BranchTargets:
    """A superset of the direct calls and jumps with 32-bit displacements inside the image."""
    return direct_branches(image.segments)


def direct_branches(segments: Sequence[Segment]) -> BranchTargets:
    """A superset of the direct calls (E8) and jumps (E9, 0F 8x) with 32-bit displacements into the code.

    Two-byte jumps are left out: as a pattern they are noise, and they reach no further than 128 bytes.
    """
    targets, sites, calls = [], [], []
    for segment, code in _code(segments):
        words = _words(code)
        if not len(words):
            continue
        opcode = code[: len(words)]
        jcc = np.flatnonzero((code[1 : len(words)] & 0xF0 == 0x80) & (code[: len(words) - 1] == 0x0F)) + 1
        for at, is_call, back in (
            (np.flatnonzero(opcode == 0xE8), True, 0),
            (np.flatnonzero(opcode == 0xE9), False, 0),
            (jcc, False, 1),
        ):
            at = at[at + 1 < len(words)]
            target = words[at + 1].astype(np.int64) + (at + 5 + segment.address)
            inside = _in_code(segments, target)
            targets.append(target[inside])
            sites.append(at[inside] + segment.address - back)
            calls.append(np.full(int(inside.sum()), is_call))
    if not targets:
        nothing = np.zeros(0, np.int64)
        return BranchTargets(nothing, nothing, np.zeros(0, np.bool_))
    target, site = np.concatenate(targets), np.concatenate(sites)
    order = np.lexsort((site, target))
    return BranchTargets(target[order], site[order], np.concatenate(calls)[order])


def computed_addresses(segments: Sequence[Segment], fixed: bool, got: int = 0) -> Addresses:
    """Code addresses that instructions may compute: targets of `lea reg, [rip + d]`, and where the image is
    `fixed` at its addresses also 32-bit and 64-bit immediates of mov and push that point into code.

    In the large code model they are 64-bit immediates relative to `got`, the global offset table (0: there is none).
    """
    found = [np.zeros(0, np.int64)]
    for segment, code in _code(segments):
        words = _words(code)
        if not len(words):
            continue
        # REX.W, with or without R; ModRM with mod 0 and rm 5; 0x8d. Without REX.W only the low half is kept,
        # which makes a pointer in the lowest 4 GiB.
        modrm = np.flatnonzero((code[1 : len(words)] & 0xC7 == 0x05) & (code[: len(words) - 1] == 0x8D)) + 1
        modrm = modrm[modrm + 1 < len(words)]
        found.append(words[modrm + 1].astype(np.int64) + (modrm + 5 + segment.address))
        starts = len(words) - 6  # of `movabs`, both words of its immediate inside
        if 0 < got < ADDRESS_LIMIT and starts > 0:
            far = np.flatnonzero((code[1 : starts + 1] & 0xF8 == 0xB8) & (code[:starts] & 0xFE == 0x48)) + 2
            low, high = words[far].astype(np.int64), words[far + 4]
            found.append(low[high == low >> 63] + got)
        if fixed:
            found.append(words[_immediates(code[: len(words)])].astype(np.int64) & 0xFFFFFFFF)
    target = np.concatenate(found)
    return np.unique(target[_in_code(segments, target)]).astype(np.uint64)


def _immediates(code: Bytes) -> npt.NDArray[np.int64]:
    """Offsets where the 32-bit immediate of a mov or push may stand; of `movabs` the lower half."""
    limit = len(code)
    after = [np.flatnonzero((code & 0xF8 == 0xB8) | (code == 0x68)) + 1]
    move = np.flatnonzero(code == 0xC7)
    move = move[move + 3 < limit]
    modrm = code[move + 1]
    move, modrm = move[modrm & 0x38 == 0], modrm[modrm & 0x38 == 0]
    mode, rm = modrm >> 6, modrm & 7
    sib = (mode != 3) & (rm == 4)
    size = 2 + sib.astype(np.int64) + np.where(mode == 1, 1, np.where(mode == 2, 4, 0))
    size += np.where((mode == 0) & ((rm == 5) | (sib & (code[move + 2] & 7 == 5))), 4, 0)
    after.append(move + size)
    result = np.concatenate(after)
    return result[result < limit]


def data_pointers(segments: Sequence[Segment]) -> Addresses:
    """8-byte words of the image that point into its code (for images at fixed addresses): at every offset of
    data, since packed structures hold pointers too, at aligned ones of code."""
    found = [np.zeros(0, np.uint64)]
    for segment in segments:
        for skip in (-segment.address % 8,) if segment.executable else range(8):
            words = quadwords(segment, skip)
            words = words[words < ADDRESS_LIMIT]
            found.append(words[_in_code(segments, words.astype(np.int64))])
    return np.unique(np.concatenate(found))


def quadwords(segment: Segment, skip: int) -> Addresses:
    """The 8-byte words of a segment behind its first `skip` bytes, as far as the file has them."""
    data = memoryview(segment.data)[skip:]
    return np.frombuffer(data[: len(data) // 8 * 8], np.dtype("<u8"))


def _code(segments: Sequence[Segment]) -> Iterator[tuple[Segment, Bytes]]:
    for segment in segments:
        if segment.executable:
            yield segment, np.frombuffer(segment.data, np.uint8)


def _words(code: Bytes) -> npt.NDArray[np.int32]:
    """The signed 32-bit word at every offset (a view, unaligned)."""
    return np.ndarray((max(len(code) - 3, 0),), "<i4", code.data if len(code) else b"", 0, (1,))


def _in_code(segments: Sequence[Segment], addresses: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    inside = np.zeros(len(addresses), np.bool_)
    for segment in segments:
        if segment.executable:
            inside |= (addresses >= segment.address) & (addresses < segment.address + len(segment.data))
    return inside
