"""Entering a region: the assembly statement whose constraints take registers in."""

from __future__ import annotations

from functools import lru_cache

from lifter.registers import GPR_NAMES, bits


@lru_cache(1 << 14)
def entry_statement(pinned: int, loose: int) -> tuple[str, ...]:
    """The lines that take registers in: pinned ones as `%r<index>`, loose ones likewise where they are pinned too."""
    if not loose:
        return tuple(_take_in(pinned))
    first = f"<N{chr(10).join(_take_in(pinned))}>" if pinned else ""
    return (first + f"<L{chr(10).join(_take_in(pinned | loose))}>",)


def _take_in(registers: int) -> list[str]:
    names = bits(registers)
    constraints = ",".join(f"={{{GPR_NAMES[i]}}}" for i in names)
    if len(names) == 1:
        return [f'  %r{names[0]} = call i64 asm sideeffect "", "{constraints},~{{memory}}"()']
    if not names:
        return []
    kind = "{" + ", ".join(["i64"] * len(names)) + "}"
    lines = [f"  %r{name} = extractvalue {kind} %in, {position}" for position, name in enumerate(names)]
    return [f'  %in = call {kind} asm sideeffect "", "{constraints},~{{memory}}"()', *lines]
