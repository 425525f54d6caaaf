"""Where control leaves a function directly, and where one of its instructions reaches out of it."""

from __future__ import annotations

from lifter.decode import decode_run
from lifter.descent import CROSSES_END
from lifter.graph import FunctionGraph
from lifter.image.types import Image
from lifter.instruction import Flow, Undecodable


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


def overrun(image: Image, graph: FunctionGraph) -> int:
    """The end of the instruction that crosses the function's end, as far as one is known; 0 if there is none.

    Sizes in symbol tables are wrong now and then. Whichever function the bytes after the end are said to belong to,
    they run as part of that instruction.
    """
    end = graph.function.end
    ends = [0]
    for refusal in graph.refusals:
        if refusal.reason == CROSSES_END:
            size = end - refusal.address
            for at, line in decode_run(image.read(refusal.address, size + 15), 0, size):
                if not isinstance(line, Undecodable):
                    ends.append(refusal.address + at + len(line.code))
    return max(after if after > end else 0 for after in ends)
