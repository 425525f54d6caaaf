"""Grouping of blocks, dominance, and the text of regions."""

from __future__ import annotations

from itertools import pairwise

import pytest

from codecache.module import region_text
from ir.actions import Count
from ir.blocks import LiftedBlock, Terminator, lift_block
from ir.carry import CarriedRegion
from ir.dominance import dominance_frontiers, immediate_dominators, in_loops, phi_masks
from ir.lower import lower
from ir.options import LoweringOptions
from ir.regions import MOST_INSTRUCTIONS, Region, form_regions
from ir.source import readable
from jit.attach import FunctionActions
from jit.planner import FunctionPlan
from jit.regions import lower_function
from lifter.decode import decode, decode_run
from lifter.graph import Block, FunctionGraph
from lifter.image.types import Function
from lifter.instruction import Instruction
from lifter.registers import ARITHMETIC_FLAGS, GPRS


def block(address: int, *, to: tuple[int, ...] = (), delta: int | None = 0, size: int = 1) -> LiftedBlock:
    """A block of `size` nops that goes to one or two addresses, or to native code."""
    from ir.blocks import Step
    from lifter.instruction import Handling

    nop = decode(b"\x90")
    assert isinstance(nop, Instruction)
    steps = tuple(Step(address + i, nop, Handling.LIFTED) for i in range(size))
    end = address + size
    if not to:
        return LiftedBlock(address, steps, Terminator.NATIVE, None, end, None, end, delta)
    jump = decode(b"\x74\x00" if len(to) == 2 else b"\xeb\x00")
    assert isinstance(jump, Instruction)
    kind = Terminator.BRANCH if len(to) == 2 else Terminator.JUMP
    return LiftedBlock(address, steps, kind, jump, end, to[0], to[-1], delta)


def heads(blocks: list[LiftedBlock], external: set[int]) -> dict[int, set[int]]:
    regions = form_regions({b.address: b for b in blocks}, external)
    return {region.head: {b.address for b in region.blocks} for region in regions}


def test_a_loop_is_inside_one_region() -> None:
    found = heads([block(0x10, to=(0x20,)), block(0x20, to=(0x20, 0x30)), block(0x30)], {0x10})
    assert found == {0x10: {0x10, 0x20, 0x30}}


def test_a_block_that_native_code_enters_is_a_head() -> None:
    found = heads([block(0x10, to=(0x20,)), block(0x20, to=(0x30,), size=9), block(0x30, size=9)], {0x10, 0x20})
    assert found == {0x10: {0x10}, 0x20: {0x20, 0x30}}


def test_a_small_block_where_regions_meet_is_copied_and_a_large_one_is_a_head() -> None:
    for size, expected in (
        (2, {0x10: {0x10, 0x40}, 0x20: {0x20, 0x40}}),
        (9, {0x10: {0x10}, 0x20: {0x20}, 0x40: {0x40}}),
    ):
        blocks = [block(0x10, to=(0x40,)), block(0x20, to=(0x40,)), block(0x40, size=size)]
        assert heads(blocks, {0x10, 0x20}) == expected


def test_blocks_that_disagree_on_the_stack_do_not_share_a_region() -> None:
    blocks = [
        block(0x10, to=(0x20, 0x30)),
        block(0x20, to=(0x40,), delta=-8),
        block(0x30, to=(0x40,)),
        block(0x40, size=9),
    ]
    assert 0x40 in heads(blocks, {0x10})


def test_a_loop_that_moves_the_stack_is_left_and_entered_again() -> None:
    regions = form_regions({0x10: block(0x10, to=(0x10, 0x20), delta=-8), 0x20: block(0x20)}, {0x10})
    lowered = lower(regions[0], {}, lambda _: GPRS, LoweringOptions())
    assert 0x10 in lowered.symbols.values()


def test_where_a_stack_pointer_of_unknown_value_leads_begins_a_region() -> None:
    """0x20 is in a loop, and would be in the loop's region; but the block before it leaves its region to go there."""
    blocks = [
        block(0x08, to=(0x30,)),
        block(0x10, to=(0x20,), delta=None),
        block(0x20, to=(0x30,)),
        block(0x30, to=(0x20, 0x40), size=9),
        block(0x40),
    ]
    assert heads(blocks, {0x08, 0x10}).keys() == {0x08, 0x10, 0x20, 0x30}


def test_large_regions_are_split() -> None:
    count = 3 * MOST_INSTRUCTIONS // 100
    blocks = [block(i * 0x100, to=((i + 1) * 0x100,), size=100) for i in range(count)] + [block(count * 0x100)]
    regions = form_regions({b.address: b for b in blocks}, {0})
    assert len(regions) >= 3
    assert all(region.instructions <= MOST_INSTRUCTIONS + 101 for region in regions)
    assert {b.address for region in regions for b in region.blocks} == {b.address for b in blocks}


def test_dominance_of_a_loop_with_two_exits() -> None:
    #        0 -> 1 -> 2 -> 3 -> 1, 2 -> 4, 3 -> 4
    predecessors = [[], [0, 3], [1], [2], [2, 3]]
    idom = immediate_dominators(predecessors)
    assert idom == [0, 0, 1, 2, 2]
    frontiers = dominance_frontiers(predecessors, idom)
    assert frontiers == [set(), {1}, {1}, {1, 4}, set()]
    assert phi_masks(frontiers, [1, 0, 0, 1, 0]) == [0, 1, 0, 0, 1]
    assert in_loops([[1], [2], [3, 4], [1, 4], []]) == {1, 2, 3}


def lifted(code: str, address: int = 0x1000) -> LiftedBlock:
    raw = bytes.fromhex(code)
    instructions = []
    while raw:
        instruction = decode(raw)
        assert isinstance(instruction, Instruction)
        instructions.append(instruction)
        raw = raw[instruction.size :]
    return lift_block(Block(address, tuple(instructions), ()))


@pytest.mark.parametrize(
    ("code", "terminator", "body", "delta"),
    [
        ("4889f8 c3", Terminator.RETURN, 1, 0),  # mov rax, rdi; ret
        ("55 4889e5 e800000000", Terminator.NATIVE, 2, -8),  # push rbp; mov rbp, rsp; call
        ("c9 c3", Terminator.RETURN, 1, None),  # leave; ret
        ("ffe0", Terminator.INDIRECT, 0, 0),  # jmp rax
        ("4829c4", Terminator.FALL, 1, None),  # sub rsp, rax
        ("6689c4", Terminator.NATIVE, 0, 0),  # mov sp, ax
        ("c9 4889 07 c3", Terminator.NATIVE, 1, None),  # leave; mov [rdi], rax; ret: nothing is written after leave
    ],
)
def test_what_of_a_block_is_lifted(code: str, terminator: Terminator, body: int, delta: int | None) -> None:
    found = lifted(code)
    assert (found.terminator, len(found.body), found.stack_delta) == (terminator, body, delta)


def text_of(code: str, live: int, actions: bool = False) -> str:
    found = lifted(code)
    region = Region(found.address, (found,), {found.address: 0})
    at = {found.address: (Count(7),)} if actions else {}
    return lower(region, at, lambda _: live, LoweringOptions()).source.text


def test_only_live_registers_are_pinned() -> None:
    text = text_of("4801f7 c3", 1 << 7)  # add rdi, rsi; ret, with rdi live
    assert '"={rsi},={rdi},~{memory}"' in text
    assert 'ret", "{rdi},~{memory}"' in text


def test_a_register_that_passes_through_is_checked_and_not_pinned() -> None:
    found = lifted("4801f7 c3")
    region = Region(found.address, (found,), {found.address: 0})
    live = (1 << 7) | (1 << 3)
    loose = lower(region, {}, lambda _: live, LoweringOptions())
    firm = lower(region, {}, lambda _: live, LoweringOptions(), firm=True)
    assert loose.source.loose == 1 << 3 and "rbx" not in readable(loose.source.text)
    assert firm.source.loose == 0 and "{rbx}" in firm.source.text
    pinned_after_all = region_text(loose.source.text, 0, 0, framed=False, firm=True)
    assert '"={rbx},={rsi},={rdi},~{memory}"' in pinned_after_all
    assert '"{rdi},{rbx},~{memory}"(i64 %v' in pinned_after_all and ", i64 %r3)" in pinned_after_all


def test_live_flags_are_taken_in_and_handed_over() -> None:
    found = lifted("c3")
    region = Region(found.address, (found,), {found.address: 0})
    lowered = lower(region, {}, lambda _: ARITHMETIC_FLAGS, LoweringOptions())
    assert lowered.flags_in and "popfq" in lowered.source.text
    assert lowered.source.shift == lowered.source.shift_framed


def test_equal_code_at_other_addresses_has_equal_text() -> None:
    texts = set()
    for address in (0x1000, 0x55_0000):
        found = lifted("488d0510000000 7402", address)  # lea rax, [rip+16]; je
        region = Region(address, (found,), {address: 0})
        texts.add(lower(region, {address: (Count(address),)}, lambda _: GPRS, LoweringOptions()).source.text)
    assert len(texts) == 1


def test_counters_in_loops_are_added_when_the_region_leaves() -> None:
    blocks = {0x10: block(0x10, to=(0x10, 0x20)), 0x20: block(0x20)}
    (region,) = form_regions(blocks, {0x10})
    text = lower(region, {0x10: (Count(0),)}, lambda _: GPRS, LoweringOptions()).source.text
    lines = text.splitlines()
    store = next(i for i, line in enumerate(lines) if "store i64" in line and "@L_c0" in line)
    loop = next(i for i, line in enumerate(lines) if line.startswith("n1:"))
    back = next(i for i, line in enumerate(lines) if "br i1" in line)
    assert loop < back < store
    assert all(a != b for a, b in pairwise(lines))


@pytest.mark.parametrize(
    ("body", "atomic", "in_memory"),
    [
        ("ffc0" * 20, False, False),
        ("ffc0" * 40, False, True),
        ("ffc0" * 40, True, False),  # a lock costs as much as all of the loop
        ("ffc0" * 250, True, True),
        ("f3480f38f6c1 66480f38f6d3 ffc9", True, True),  # adox rax, rcx; adcx rdx, rbx; dec ecx
    ],
)
def test_loops_that_are_best_as_they_are(body: str, atomic: bool, in_memory: bool) -> None:
    code = bytes.fromhex(body)
    code += b"\x0f\x85" + (-len(code) - 6).to_bytes(4, "little", signed=True)  # jne to the start
    instructions = tuple(found for _, found in decode_run(code) if isinstance(found, Instruction))
    looping = Block(0x1000, instructions, (0x1000, 0x1000 + len(code)))
    entries, none = frozenset((0x1000,)), frozenset[int]()
    function = Function(0x1000, len(code), "f", "f")
    graph = FunctionGraph(function, {0x1000: looping}, entries, entries, {}, none, (), {}, none, ())
    regions = form_regions({0x1000: lift_block(looping)}, {0x1000})
    plan = FunctionPlan(graph, tuple(regions), (), (), False, (0x1000,), {0x1000: ((0x1000, 1),)}, {})
    actions = FunctionActions({0x1000: (Count(0),)}, (), {}, (), 0, ())
    made = lower_function(plan, actions, lambda _: GPRS, LoweringOptions(update="atomic" if atomic else "plain"))
    assert [isinstance(region, CarriedRegion) for region in made.regions] == [in_memory]


@pytest.mark.parametrize(
    ("code", "leaves"),
    [
        ("8a4b08 c3", False),  # mov cl, [rbx+8]: the jump to the region stands there, so nobody can go back
        ("0f1f4000 90 8a4b08 c3", True),
        ("0f1f4000 90 8a0c03 c3", True),  # mov cl, [rbx+rax]: either may be the pointer
        ("0f1f4000 90 8a8b00100000 c3", False),  # mov cl, [rbx+4096]: nil does not lead to the first page
        ("0f1f4000 90 8a4bf8 c3", False),  # mov cl, [rbx-8]
        ("0f1f4000 90 8a4c2408 c3", False),  # mov cl, [rsp+8]
    ],
)
def test_where_a_nil_pointer_leaves_the_region(code: str, leaves: bool) -> None:
    found = lifted(code)
    region = Region(found.address, (found,), {found.address: 0})
    lowered = lower(region, {}, lambda _: GPRS, LoweringOptions(nil_checks=True))
    assert (0x1005 in lowered.symbols.values()) == leaves
    assert 0x1000 not in lowered.symbols.values()
    if "8a0c03" in code:
        assert "icmp ult i64" in lowered.source.text and "add i64" in lowered.source.text
