"""Where control leaves a function directly."""

from __future__ import annotations

from lifter.graph import FunctionGraph
from lifter.instruction import Flow


def exits(graph: FunctionGraph) -> set[int]:
    """Addresses outside the function where control goes directly: calls, jumps, tables, falling off its end."""
    function = graph.function
    found = set(graph.callees.values())
    for table in graph.tables.values():
        found.update(table.targets)
    found.update(function.landing_pads)
    found = {target for target in found if not function.address <= target < function.end}
    end = falls_out(graph)
    if end is not None:
        found.add(end)
    return found


def falls_out(graph: FunctionGraph) -> int | None:
    """The address after the function, if control can run into it without a jump; else None."""
    if not graph.blocks:
        return None
    block = graph.blocks[max(graph.blocks)]
    if block.end != graph.function.end or (block.successors and block.flow is not Flow.BRANCH):
        return None
    return block.end if block.flow in (Flow.NEXT, Flow.BRANCH) else None
