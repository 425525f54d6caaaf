"""Dominators and dominance frontiers of a region's graph, nodes numbered in reverse post-order."""

from __future__ import annotations

from collections.abc import Sequence


def immediate_dominators(predecessors: Sequence[Sequence[int]]) -> list[int]:
    """For each node its immediate dominator; node 0 is the root and its own.

    Nodes are numbered in reverse post-order (Cooper, Harvey and Kennedy, 'A Simple, Fast Dominance Algorithm').
    """
    unknown = -1
    idom = [unknown] * len(predecessors)
    idom[0] = 0
    changed = True
    while changed:
        changed = False
        for node in range(1, len(predecessors)):
            new = unknown
            for predecessor in predecessors[node]:
                if idom[predecessor] == unknown:
                    continue
                if new == unknown:
                    new = predecessor
                    continue
                other = predecessor
                while new != other:
                    while new > other:
                        new = idom[new]
                    while other > new:
                        other = idom[other]
            if new != idom[node]:
                idom[node] = new
                changed = True
    return idom


def dominance_frontiers(predecessors: Sequence[Sequence[int]], idom: Sequence[int]) -> list[set[int]]:
    """For each node the nodes where its dominance ends."""
    frontiers: list[set[int]] = [set() for _ in predecessors]
    for node, sources in enumerate(predecessors):
        if len(sources) < 2:
            continue
        for source in sources:
            runner = source
            while runner != idom[node]:
                frontiers[runner].add(node)
                runner = idom[runner]
    return frontiers


def phi_masks(frontiers: Sequence[set[int]], definitions: Sequence[int]) -> list[int]:
    """For each node the mask of variables that need a phi there, given the mask that each node defines."""
    phis = [0] * len(frontiers)
    defined = list(definitions)
    work = [node for node, mask in enumerate(defined) if mask]
    while work:
        node = work.pop()
        for join in frontiers[node]:
            new = defined[node] & ~phis[join]
            if new:
                phis[join] |= new
                defined[join] |= new
                work.append(join)
    return phis


def in_loops(successors: Sequence[Sequence[int]]) -> set[int]:
    """Nodes that lie on a cycle (Tarjan's strongly connected components, without recursion)."""
    index: dict[int, int] = {}
    low: dict[int, int] = {}
    on_stack: set[int] = set()
    stack: list[int] = []
    result: set[int] = set()
    for root in range(len(successors)):
        if root in index:
            continue
        work = [(root, iter(successors[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(successors[target])))
                    break
                if target in on_stack:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = set()
                    while True:
                        member = stack.pop()
                        on_stack.discard(member)
                        component.add(member)
                        if member == node:
                            break
                    if len(component) > 1 or node in successors[node]:
                        result |= component
    return result
