"""How often each block of a function is thought to run, by the shape of its graph alone.

Loops repeat eight times a level, branches go both ways alike but for those that leave a loop or end where nothing
returns. Only the order of the figures matters: they say where counters and jumps cost least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from lifter.graph import FunctionGraph
from lifter.instruction import Flow

REPEATS: Final = 8.0
"""Times that a loop is thought to go round."""
_COLD: Final = 0.01
"""Share of a branch's runs that go where the function never returns from."""
_SELDOM: Final = 0.001
"""Times that a block runs which nothing leads to: a landing pad."""
_DEEPEST: Final = 6
"""Levels of loops that are looked at."""


def components(successors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Strongly connected components that hold a cycle (Tarjan's algorithm without recursion)."""
    index = [0] * len(successors)
    low = [0] * len(successors)
    on_stack = bytearray(len(successors))
    stack: list[int] = []
    found: list[list[int]] = []
    counter = 0
    for root in range(len(successors)):
        if index[root]:
            continue
        counter += 1
        index[root] = low[root] = counter
        stack.append(root)
        on_stack[root] = 1
        work = [(root, iter(successors[root]))]
        while work:
            node, targets = work[-1]
            for target in targets:
                if not index[target]:
                    counter += 1
                    index[target] = low[target] = counter
                    stack.append(target)
                    on_stack[target] = 1
                    work.append((target, iter(successors[target])))
                    break
                if on_stack[target] and index[target] < low[node]:
                    low[node] = index[target]
            else:
                work.pop()
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
                if low[node] == index[node]:
                    component = []
                    while True:
                        member = stack.pop()
                        on_stack[member] = 0
                        component.append(member)
                        if member == node:
                            break
                    if len(component) > 1 or node in successors[node]:
                        found.append(component)
    return found


class Frequencies:
    """Estimates for one function, its blocks numbered in address order."""

    def __init__(self, graph: FunctionGraph) -> None:
        self.addresses = list(graph.blocks)
        self.index = {address: number for number, address in enumerate(self.addresses)}
        index = self.index
        self.successors = [
            list(dict.fromkeys(index[s] for s in block.successors if s in index)) for block in graph.blocks.values()
        ]
        entry = index.get(graph.function.address, 0)
        self.order = self._reverse_post_order([entry, *sorted(index[entry] for entry in graph.entries)])
        self.place = {node: place for place, node in enumerate(self.order)}
        self.depth = self._depths()
        self.cold = self._cold(graph)
        self.blocks = [0.0] * len(self.addresses)
        """Block -> times that it runs, the function being entered once."""
        self.edges: dict[tuple[int, int], float] = {}
        """(Block, successor) -> times that control goes that way."""
        self._spread(entry)

    def by_address(self) -> Mapping[int, float]:
        """Address of each block -> times that it runs."""
        return dict(zip(self.addresses, self.blocks, strict=True))

    def _reverse_post_order(self, entries: Sequence[int]) -> list[int]:
        """All blocks, each after its predecessors but for those that lead back to it."""
        seen = bytearray(len(self.successors))
        post: list[int] = []
        for root in (*entries, *range(len(seen))):
            if seen[root]:
                continue
            seen[root] = 1
            work = [(root, iter(self.successors[root]))]
            while work:
                node, targets = work[-1]
                for target in targets:
                    if not seen[target]:
                        seen[target] = 1
                        work.append((target, iter(self.successors[target])))
                        break
                else:
                    work.pop()
                    post.append(node)
        post.reverse()
        return post

    def _depths(self) -> list[int]:
        """Number of loops around each block."""
        depths = [0] * len(self.successors)
        work = [(1, loop) for loop in components(self.successors)]
        while work:
            level, loop = work.pop()
            for node in loop:
                depths[node] = level
            if len(loop) == 1 or level == _DEEPEST:
                continue
            header = min(loop, key=self.place.__getitem__)
            number = {node: position for position, node in enumerate(loop)}
            inside = [[number[s] for s in self.successors[node] if s in number and s != header] for node in loop]
            work.extend((level + 1, [loop[position] for position in inner]) for inner in components(inside))
        return depths

    def _cold(self, graph: FunctionGraph) -> bytearray:
        """1 for each block from which control only gets to where nothing returns from."""
        cold = bytearray(len(self.successors))
        blocks = list(graph.blocks.values())
        for node in reversed(self.order):
            block = blocks[node]
            if self.successors[node]:
                cold[node] = all(cold[s] for s in self.successors[node])
            else:
                cold[node] = block.last.flow is Flow.HALT or block.last_address in graph.noreturn
        return cold

    def _spread(self, entry: int) -> None:
        flow = self.blocks
        flow[entry] += REPEATS ** self.depth[entry]
        for node in self.order:
            runs = flow[node] = max(flow[node], _SELDOM)
            depth = self.depth[node]
            ways: list[list[int]] = [[], [], []]
            for s in self.successors[node]:
                ways[2 if self.cold[s] and not self.cold[node] else int(self.depth[s] < depth)].append(s)
            for targets, share in zip(ways, (1.0, 1.0, _COLD), strict=True):
                for s in targets:
                    along = runs * share / len(targets) * REPEATS ** (self.depth[s] - depth)
                    if self.place[s] <= self.place[node]:
                        along = runs * share / len(targets)
                    else:
                        flow[s] += along
                    self.edges[node, s] = along
