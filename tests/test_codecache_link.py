"""Addresses: one region, many regions, and out of reach."""

from __future__ import annotations

import codecache_samples as samples
import pytest
from codecache_samples import CODE, DATA, EXITS

from codecache import (
    CompiledRegion,
    Linked,
    LinkFailure,
    Placed,
    Relocation,
    RelocationKind,
    Unit,
    compile_batch,
    link,
    place,
)


def region(*relocations: Relocation, code: bytes = bytes(16), data: bytes = b"") -> CompiledRegion:
    return CompiledRegion(code, relocations, data, (), 0, 0)


@pytest.mark.parametrize(
    ("kind", "target", "expected"),
    [
        (RelocationKind.PC32, 0x1000, (0x1000 + 3 - 0x1006).to_bytes(4, "little", signed=True)),
        (RelocationKind.PC64, 0x1000, (0x1000 + 3 - 0x1006).to_bytes(8, "little", signed=True)),
        (RelocationKind.ABS32, 0xFFFFFFF0, bytes.fromhex("f3ffffff")),
        (RelocationKind.ABS32S, -16, bytes.fromhex("f3ffffff")),
        (RelocationKind.ABS64, 1 << 63, bytes.fromhex("0300000000000080")),
        (RelocationKind.ABS64, -1, bytes.fromhex("0200000000000000")),
    ],
)
def test_each_kind_of_relocation(kind: RelocationKind, target: int, expected: bytes) -> None:
    placed = place(region(Relocation(4, kind, "x0", 3)), 0x1000, {"x0": target}, stub=b"\x90\x90")
    assert isinstance(placed, Placed)
    assert placed.address == 0x1000
    assert placed.code == b"\x90\x90" + bytes(4) + expected + bytes(16 - 4 - len(expected))


@pytest.mark.parametrize(
    ("kind", "target", "distance"),
    [
        (RelocationKind.PC32, 0x1004 + (1 << 31), 1 << 31),
        (RelocationKind.PC32, 0x1004 - (1 << 31) - 1, -(1 << 31) - 1),
        (RelocationKind.ABS32, 1 << 32, 1 << 32),
        (RelocationKind.ABS32, -1, -1),
        (RelocationKind.ABS32S, 1 << 31, 1 << 31),
    ],
)
def test_out_of_reach_names_symbol_and_distance(kind: RelocationKind, target: int, distance: int) -> None:
    failure = place(region(Relocation(4, kind, "d3", 0)), 0x1000, {"d3": target})
    assert isinstance(failure, LinkFailure)
    assert (failure.symbol, failure.distance) == ("d3", distance)
    assert kind.value in failure.reason
    for nearer in (1, -1):
        if isinstance(place(region(Relocation(4, kind, "d3", 0)), 0x1000, {"d3": target + nearer}), Placed):
            break
    else:
        pytest.fail("the next address is out of reach too: the test is not at the border")


def test_a_missing_symbol_is_named() -> None:
    failure = place(region(Relocation(4, RelocationKind.PC32, "d3", 0)), 0x1000, {"x0": 0})
    assert isinstance(failure, LinkFailure)
    assert failure.symbol == "d3"


def bound(regions: list[CompiledRegion]) -> list[Unit]:
    """Each region's x0 is the next one's entry; the last one's, and all other symbols, are the samples'."""
    units = []
    for i, compiled in enumerate(regions):
        addresses = samples.symbols(compiled)
        entries = {}
        if i + 1 < len(regions):
            del addresses["L_x0"]
            entries["L_x0"] = i + 1
        shift = compiled.shift
        stub = b"\x48\x8d\xa4\x24" + (-shift).to_bytes(4, "little", signed=True) if shift else b""
        units.append(Unit(compiled, stub, addresses, entries))
    return units


@pytest.mark.parametrize("alignment", [1, 16])
def test_regions_jump_to_each_other(alignment: int) -> None:
    results = compile_batch([samples.switching(), samples.spilling(), samples.switching(9)])
    regions = [result for result in results if isinstance(result, CompiledRegion)]
    linked = link(bound(regions), CODE + 3 * alignment, alignment)
    assert not linked.failures
    assert all(address % alignment == 0 for address in linked.addresses)
    assert linked.addresses[0] == CODE + 3 * alignment
    text = bytes([0, 0, 3, 255, 6, 1, 255])
    end = samples.execute(linked.code, linked.addresses[0], {"rax": 1, "rsi": DATA, "rbx": 9}, {DATA: text})
    # add 3, add 3, add 9; the second region stops at the same 255
    assert end.registers["rax"] == 16
    assert end.registers["rsi"] == DATA + 3
    assert end.registers["rbx"] == 9
    assert end.stack_pointer == samples.STACK_POINTER - 32
    assert end.exit == 0


def test_a_failed_region_fails_those_that_continue_in_it() -> None:
    def jump(target: str) -> CompiledRegion:
        return region(Relocation(1, RelocationKind.PC32, target, -4), code=b"\xe9\0\0\0\0")

    units = [
        Unit(jump("x0"), b"", {}, {"x0": 1}),
        Unit(jump("x0"), b"", {}, {"x0": 2}),
        Unit(jump("d0"), b"", {"d0": 1 << 40}, {}),
        Unit(jump("x0"), b"", {"x0": EXITS}, {}),
    ]
    linked = link(units, CODE)
    assert isinstance(linked, Linked)
    assert set(linked.failures) == {0, 1, 2}
    assert linked.failures[2].symbol == "d0"
    assert linked.code[:15] == b"\xcc" * 15
    end = samples.execute(linked.code[15:], linked.addresses[3])
    assert end.exit == 0


def test_linking_nothing() -> None:
    assert link([], CODE) == Linked(b"", (), {})
