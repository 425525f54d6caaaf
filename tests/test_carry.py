"""Regions put together from their own bytes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from codecache import CompiledRegion, Placed, place
from ir.actions import Action, Call, Count
from ir.blocks import LiftedBlock, lift_block
from ir.carry import CarriedRegion, carry
from ir.options import LoweringOptions
from ir.probes import CompiledProbe
from ir.regions import Region
from lifter.decode import decode_run
from lifter.graph import Block
from lifter.instruction import Instruction
from lifter.registers import ARITHMETIC_FLAGS, CF, GPRS
from tests.codecache_samples import CODE, DATA, EXITS, STACK, STACK_POINTER, execute

COUNTER = "48ff05"
PROBE = CompiledProbe("p", "", 0, 0, 0, 1)


def blocks_of(*codes: str, at: int = 0x1000, through: bool = False) -> list[LiftedBlock]:
    """Blocks one after the other, each of these bytes."""
    result = []
    for code in codes:
        raw = bytes.fromhex(code)
        instructions = [found for _, found in decode_run(raw)]
        assert all(isinstance(found, Instruction) for found in instructions)
        result.append(lift_block(Block(at, tuple(instructions), ()), through=through))  # type: ignore[arg-type]
        at += len(raw)
    return result


def carried(
    *codes: str,
    counted: int = 1,
    live: Callable[[int], int] = lambda _: GPRS,
    options: LoweringOptions = LoweringOptions(),  # noqa: B008
    action: Action = Count(7),  # noqa: B008
    through: bool = False,
) -> CarriedRegion | None:
    """A region of blocks, the first `counted` of which have a counter; `through` has it make its calls."""
    blocks = blocks_of(*codes, through=through)
    offsets = {block.address: 0 for block in blocks}
    actions = {block.address: (action,) for block in blocks[:counted]}
    return carry(Region(blocks[0].address, tuple(blocks), offsets), actions, live, options)


def code_of(region: CarriedRegion | None) -> str:
    assert region is not None
    return region.source.code.hex()


def test_a_block_is_its_own_bytes_behind_its_counter() -> None:
    region = carried("4801f7 c3")  # add rdi, rsi; ret
    assert code_of(region) == COUNTER + "00000000" + "4801f7c3"
    assert region is not None and region.symbols == {"L_c0": 7} and region.verbatim == 2
    assert region.source.frame == region.source.shift == 0 and not region.flags_in


def test_counters_are_locked_where_threads_are() -> None:
    assert code_of(carried("c3", options=LoweringOptions(update="atomic"))).startswith("f0" + COUNTER)


BIASED = LoweringOptions(update="biased")


@pytest.mark.parametrize(
    ("owner", "own", "shared"), [(0, 0, 1), (1 << 63 | STACK, 1, 0), (1 << 63 | STACK_POINTER + 8, 0, 1)]
)
def test_the_main_thread_has_counters_of_its_own(owner: int, own: int, shared: int) -> None:
    region = carried("4801f7 7500", "c3", options=BIASED)  # add rdi, rsi; jne to the next; ret
    assert region is not None and region.symbols == {"L_c0": 7, "L_b0": 7, "L_o0": 0}
    places = {"L_c0": DATA, "L_b0": DATA + 8, "L_o0": DATA + 16}
    placed = place(region.source, CODE, places)
    assert isinstance(placed, Placed)
    # The last instruction is ret: to where control ends.
    memory = {DATA + 16: owner.to_bytes(8, "little"), STACK_POINTER: EXITS.to_bytes(8, "little")}
    machine = execute(placed.code, CODE, {"rdi": 1, "rsi": 2}, memory)
    assert machine.registers["rdi"] == 3
    assert (machine.word(DATA), machine.word(DATA + 8)) == (shared, own)


def test_a_biased_counter_waits_until_the_carry_is_dead_too() -> None:
    # setb al; add edi, edi; ret
    code = code_of(carried("0f92c0 01ff c3", options=BIASED))
    assert code.startswith("0f92c0" + "483b25")
    # setb al; dec edi; adc eax, eax: the carry is live, so nothing may be compared.
    code = code_of(carried("0f92c0 ffcf 11c0 c3", live=lambda _: GPRS | CF, options=BIASED))
    assert code == "f0" + COUNTER + "00000000" + "0f92c0ffcf11c0c3"


def test_operands_relative_to_code_are_relocated() -> None:
    region = carried("488b0510000000 c7050400000001000000 c3", counted=0)  # mov rax, [rip+16]; mov dword [rip+4], 1
    assert region is not None
    assert region.symbols == {"L_d0": 0x1017, "L_d1": 0x1015}
    assert [(r.offset, r.symbol, r.addend) for r in region.source.relocations] == [(3, "L_d0", -4), (9, "L_d1", -8)]
    placed = place(region.source, 0x1000, region.symbols)
    assert isinstance(placed, Placed)
    assert placed.code.hex() == "488b0510000000c7050400000001000000c3"


def test_a_counter_waits_until_no_flag_is_live() -> None:
    # seto al reads the overflow of whatever comes before; add overwrites it.
    assert code_of(carried("0f90c0 4801f7 c3")) == "0f90c0" + COUNTER + "00000000" + "4801f7c3"


def test_a_counter_leaves_the_carry_alone() -> None:
    # setb al; dec edi; adc eax, eax: only CF is live before dec
    code = "0f92c0 ffcf 11c0 c3"
    region = carried(code, live=lambda _: GPRS | CF)
    assert code_of(region) == COUNTER + "00000000" + code.replace(" ", "")


def test_flags_live_throughout_are_for_the_compiler() -> None:
    assert carried("0f90c0 c3", live=lambda _: GPRS | ARITHMETIC_FLAGS) is None
    assert carried("0f90c0 c3", counted=0, live=lambda _: GPRS | ARITHMETIC_FLAGS) is not None


def test_flags_of_a_branch_are_live_in_the_block_before_it() -> None:
    # cmp; (falls) je over ret; ret; ret: the second block begins with the jump.
    assert carried("4839f7", "7401", "c3", "c3", counted=2) is None
    assert carried("4839f7", "7401", "c3", "c3", counted=1) is not None


@pytest.mark.parametrize(
    ("codes", "options", "action"),
    [
        (("48ffcf 75fb", "c3"), LoweringOptions(), Count(0)),  # dec rdi; jne to itself
        (("e300", "c3"), LoweringOptions(), Count(0)),  # jrcxz
        (("4801f7 c3",), LoweringOptions(nil_checks=True), Count(0)),
        (("4801f7 c3",), LoweringOptions(), Call(PROBE, 0, 0x1000)),
    ],
)
def test_what_is_left_to_the_compiler(codes: tuple[str, ...], options: LoweringOptions, action: Action) -> None:
    assert carried(*codes, options=options, action=action) is None


def test_branches_inside_are_short_and_exits_are_relocated() -> None:
    # test rdi, rdi; je past the next block; mov eax, 1; ret; jmp away
    region = carried("4885ff 7406", "b801000000 c3", "e900100000", counted=0)
    assert code_of(region) == "4885ff" + "7406" + "b801000000c3" + "e900000000"
    assert region is not None and region.symbols == {"L_x0": 0x1000 + 16 + 0x1000}


def test_branches_out_of_the_region_go_straight_to_original_code() -> None:
    region = carried("4885ff 747f", "c3", counted=0)
    assert code_of(region) == "4885ff" + "0f8400000000" + "c3"
    assert region is not None and region.symbols == {"L_x0": 0x1084}


def test_branches_become_long_where_the_code_between_is() -> None:
    filler = "48b8" + "1122334455667788"
    for count in (12, 13):
        code = code_of(carried(f"4885ff 0f84{10 * count + 1:02x}000000", filler * count + "c3", "c3", counted=0))
        assert code.startswith("4885ff" + ("7479" if count == 12 else "0f8483000000"))


@pytest.mark.parametrize("rdi", [0, 5])
def test_it_computes_what_the_original_does(rdi: int) -> None:
    # test rdi, rdi; jne +5; mov eax, 7; (falls) add rax, rdi; inc rax; jmp out
    codes = ("4885ff 7505", "b807000000", "4801f8 48ffc0 e900000100")
    region = carried(*codes, counted=3)
    assert region is not None
    symbols = {name: DATA + 8 if name[2] == "c" else 0x40_0000 for name in region.symbols}
    placed = place(region.source, CODE, symbols)
    assert isinstance(placed, Placed)
    end = execute(placed.code, CODE, {"rdi": rdi, "rax": 100})
    assert end.registers["rax"] == (7 if rdi == 0 else 100) + rdi + 1
    assert end.word(DATA + 8) == (3 if rdi == 0 else 2)


def test_a_region_that_needs_no_compiler_is_its_own_result() -> None:
    region = carried("4801f7 c3")
    assert region is not None
    assert isinstance(region.source, CompiledRegion)


def test_calls_come_back_into_the_region() -> None:
    # nop; call +0x100; call [rip+0x10]; call rax; inc eax; ret
    region = carried("90 e800010000", "ff1510000000", "ffd0", "ffc0 c3", counted=4, through=True)
    count = COUNTER + "00000000"
    code = "".join((count, "e800000000", count, "ff1510000000", count, "ffd0", count, "ffc0c3"))
    assert code_of(region) == code
    assert region is not None and region.calls
    assert region.symbols == {"L_c0": 7, "L_f0": 0x1106, "L_d0": 0x101C}
    assert [original for _, original in region.origins] == [0x1001, 0x1006, 0x100C, 0x100E, 0x1010]


def test_a_region_with_calls_keeps_flags_that_are_live_throughout_and_counts_in_loops() -> None:
    # seto al; call; dec rdi; jne to the start
    region = carried(
        "0f90c0", "e800010000", "48ffcf 75f3", "c3", counted=1, live=lambda _: GPRS | ARITHMETIC_FLAGS, through=True
    )
    code = code_of(region)
    assert code.startswith("488d6424809c" + COUNTER + "00000000" + "9d488da42480000000" + "0f90c0" + "e800000000")
    assert code.endswith("75dd" + "c3")


def test_flags_that_only_a_loop_hands_round_are_not_live() -> None:
    # aesenc xmm2, xmm1; dec eax; jne to the start; call +0x100; ret: dec keeps a carry that nothing reads
    region = carried("660f38dcd1 ffc8 75f7", "e800010000", "c3", counted=1, through=True)
    assert code_of(region).startswith(COUNTER + "00000000" + "660f38dcd1" + "ffc8" + "75f0")
    # lea eax, [rax + 1]; jne to the start: by a flag that nothing in the loop writes
    region = carried("8d4001 75fb", "e800010000", "c3", counted=1, through=True)
    assert code_of(region).startswith("488d6424809c" + COUNTER)


def test_loops_are_aligned_where_they_were_and_padding_is_left_out() -> None:
    # call; 11 bytes of padding; (aligned) dec rdi; jne to itself; ret
    region = carried("e800010000", "660f1f840000000000 6690", "48ffcf 75fb", "c3", counted=1, through=True)
    assert code_of(region) == COUNTER + "00000000" + "e800000000" + "0f1f4000" + "48ffcf75fb" + "c3"
