"""What the System V ABI leaves undefined at a moment of a run, by what ran before it.

A caller may not count on caller-saved registers after a call through a pointer, nor the callee on those that carry no
argument. A region may therefore leave other garbage in them than the original, which shows where the garbage is
handed on, say as the unused sixth argument of a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lifter.instruction import Flow, Instruction
from lifter.registers import RAX, RCX, RDX, gpr
from lifter.summaries import ARGUMENTS, CLOBBERED

_LOST_BY_RETURN: Final = CLOBBERED & ~(gpr(RAX) | gpr(RDX) | gpr(RCX))
_LOST_BY_CALL: Final = CLOBBERED & ~ARGUMENTS


class AbiHistory:
    """Follows a run, instruction by instruction."""

    def __init__(self, same_function: Callable[[int, int], bool]) -> None:
        """`same_function(a, b)` tells whether two addresses belong to one function of the image."""
        self._same_function = same_function
        self._frames: list[bool] = []
        """Of each call that did not return yet: whether callee and caller only share the ABI."""
        self._pending: tuple[Flow, int] | None = None
        self.lost = 0
        """Registers and flags that hold what nobody may count on."""

    def step(self, address: int, instruction: Instruction) -> None:
        """One instruction runs."""
        self._arrive(address)
        self.lost &= ~instruction.effects.writes
        if instruction.flow in (Flow.CALL, Flow.CALL_INDIRECT, Flow.JUMP_INDIRECT, Flow.RETURN):
            self._pending = (instruction.flow, address)

    def outside(self) -> None:
        """A stub for code of the outside runs and returns: it sets what a callee may change."""
        if self._pending is not None and self._pending[0] in (Flow.CALL, Flow.CALL_INDIRECT):
            self._pending = None
        else:
            self._leave_frame()
        self.lost &= ~CLOBBERED

    def _arrive(self, address: int) -> None:
        """Control went from the last instruction to `address`."""
        if self._pending is None:
            return
        flow, origin = self._pending
        self._pending = None
        if flow is Flow.RETURN:
            self._leave_frame()
        elif flow is Flow.JUMP_INDIRECT:
            if not self._same_function(origin, address):
                self._leave_frame()
                self._enter_frame(through_pointer=True)
        else:
            self._enter_frame(flow is Flow.CALL_INDIRECT)

    def _enter_frame(self, through_pointer: bool) -> None:
        self._frames.append(through_pointer)
        if through_pointer:
            self.lost |= _LOST_BY_CALL

    def _leave_frame(self) -> None:
        if self._frames and self._frames.pop():
            self.lost |= _LOST_BY_RETURN
