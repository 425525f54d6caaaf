"""Grouping lifted blocks into regions: single-entry, without calls inside.

The heads are the blocks that native code can enter and those where two regions meet: the children of a virtual
root in the dominator tree. Here they are found by asking for each block whether all its predecessors are in
one region, until nothing changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ir.blocks import LiftedBlock

MOST_INSTRUCTIONS: Final = 800
"""A region beyond this size is split: LLVM's register allocation grows faster than linearly."""


SMALL_BLOCK: Final = 6
"""Blocks of up to so many instructions are copied into each region that goes to them."""
MOST_DUPLICATED: Final = 24
"""Instructions that a region may grow by in that way."""


@dataclass(frozen=True, slots=True)
class Region:
    """A single-entry group of lifted blocks without calls: the unit of compilation."""

    head: int
    """Address of the block by which the region is entered."""
    blocks: tuple[LiftedBlock, ...]
    """In reverse post-order from the head, which is the first."""
    offsets: Mapping[int, int]
    """Block address -> program's RSP at its start, relative to RSP at the region's entry."""
    in_memory: bool = False
    """Whether its counters are in memory in loops too: those are left too soon for registers to pay, or there is no
    place for a frame."""

    @property
    def instructions(self) -> int:
        """Number of instructions in it."""
        return sum(len(block.body) + (block.last is not None) for block in self.blocks)


def form_regions(lifted: Mapping[int, LiftedBlock], external: Iterable[int]) -> list[Region]:
    """Partition `lifted` into regions. `external` are the blocks that code outside can enter."""
    predecessors: dict[int, list[int]] = {address: [] for address in lifted}
    for block in lifted.values():
        for successor in block.successors:
            if successor in predecessors:
                predecessors[successor].append(block.address)
    left_to = {address for block in lifted.values() for address in block.left_to}
    entrances = lifted.keys() & (left_to | set(external))
    heads = set(entrances)
    order = _reverse_post_order(lifted, heads)
    reached = set(order)
    for address in lifted:
        # A block that no lifted block leads to can only be entered from outside.
        if address not in reached:
            heads.add(address)
            for found in _reverse_post_order(lifted, {address}):
                if found not in reached:
                    reached.add(found)
                    order.append(found)
    while True:
        owner, offsets, new_heads = _assign(lifted, predecessors, order, heads)
        if not new_heads:
            new_heads = _oversized(lifted, order, owner)
        if not new_heads:
            break
        heads |= new_heads
    members: dict[int, dict[int, int]] = {}
    for address in order:
        members.setdefault(owner[address], {})[address] = offsets[address]
    entered = entrances | (heads & _unreached(lifted, predecessors))
    members = _duplicate_small(lifted, members, entered)
    regions = []
    for head in sorted(members):
        inside = members[head]
        blocks = {address: lifted[address] for address in inside}
        order = _reverse_post_order(blocks, {head}, closed_to={head})
        regions.append(Region(head, tuple(blocks[a] for a in order), {a: inside[a] for a in order}))
    return regions


def _unreached(lifted: Mapping[int, LiftedBlock], predecessors: Mapping[int, list[int]]) -> set[int]:
    return {address for address in lifted if not predecessors[address]}


def _duplicate_small(
    lifted: Mapping[int, LiftedBlock], members: dict[int, dict[int, int]], entered: set[int]
) -> dict[int, dict[int, int]]:
    """Copy small blocks where regions meet into each region that goes there, and drop regions nothing goes to.

    It saves the crossing of a border, and the region of its own. `members` maps heads to their blocks and the
    stack offsets of these; `entered` are the heads that keep their regions.
    """
    small = {
        head
        for head, inside in members.items()
        if len(inside) == 1 and head not in entered and len(lifted[head].body) < SMALL_BLOCK
    }
    grown: dict[int, dict[int, int]] = {}
    pending = sorted(entered & members.keys())
    while pending:
        head = pending.pop()
        if head in grown:
            continue
        inside = grown[head] = dict(members[head])
        room = MOST_DUPLICATED
        queue = list(inside)
        for address in queue:
            block = lifted[address]
            for successor in block.successors:
                if successor not in lifted:
                    continue
                offset = inside[address] + (block.stack_delta or 0)
                if inside.get(successor) == offset:
                    continue
                size = len(lifted[successor].body) + 1
                if successor in small and successor not in inside and size <= room:
                    room -= size
                    inside[successor] = offset
                    queue.append(successor)
                else:
                    pending.append(successor)
    return grown


def _reverse_post_order(lifted: Mapping[int, LiftedBlock], roots: set[int], closed_to: Iterable[int] = ()) -> list[int]:
    seen: set[int] = set(closed_to) - set(roots)
    post: list[int] = []
    for root in sorted(roots, reverse=True):
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(lifted[root].successors))]
        while stack:
            address, successors = stack[-1]
            for successor in successors:
                if successor in lifted and successor not in seen:
                    seen.add(successor)
                    stack.append((successor, iter(lifted[successor].successors)))
                    break
            else:
                post.append(address)
                stack.pop()
    post.reverse()
    return post


def _assign(
    lifted: Mapping[int, LiftedBlock],
    predecessors: Mapping[int, list[int]],
    order: list[int],
    heads: set[int],
) -> tuple[dict[int, int], dict[int, int], set[int]]:
    """Region and stack offset of each block, and the blocks that must become heads before it is right.

    Back edges are not known yet when a loop's first block is met: it is taken to belong where its other
    predecessors do, and the second half checks that.
    """
    owner: dict[int, int] = {}
    offsets: dict[int, int] = {}
    new_heads: set[int] = set()
    for address in order:
        states = {(owner[p], offsets[p] + (lifted[p].stack_delta or 0)) for p in predecessors[address] if p in owner}
        if address in heads:
            states = {(address, 0)}
        elif len(states) != 1:
            new_heads.add(address)
            states = {(address, 0)}
        ((owner[address], offsets[address]),) = states
    for address in order:
        if owner[address] == address:
            continue
        here = (owner[address], offsets[address])
        for p in predecessors[address]:
            if (owner[p], offsets[p] + (lifted[p].stack_delta or 0)) != here:
                new_heads.add(address)
    # A loop back to a head is an edge inside its region only if the stack is as it was at entry.
    return owner, offsets, new_heads - heads


def _oversized(lifted: Mapping[int, LiftedBlock], order: list[int], owner: Mapping[int, int]) -> set[int]:
    """Where to split regions that are too large: at the blocks by which they outgrow the limit."""
    sizes: dict[int, int] = {}
    splits: set[int] = set()
    for address in order:
        head = owner[address]
        size = sizes.get(head, 0) + len(lifted[address].body) + 1
        if size > MOST_INSTRUCTIONS and address != head:
            splits.add(address)
            size = 0
        sizes[head] = size
    return splits
