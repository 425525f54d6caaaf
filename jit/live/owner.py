"""The owner word of biased counters in a live target (see `ir.carry`): which stack is its main thread's."""

from __future__ import annotations

import resource
from typing import Final

from jit import datafile
from jit.live.errors import TargetGoneError
from jit.live.target import Target

_AT_RANDOM: Final = 25
_HIGH: Final = 0x7FF0_0000_0000
"""Linux has the main thread's stack above, at the top of what there is for programs; an emulator may not."""
_USUAL: Final = 8 << 20
"""Usual limit of a stack. A higher one is not believed: the limit may have been raised since the program began."""


def owner_word(target: Target) -> int:
    """What the word has to be: 0 where it is not known what lies above and below the main thread's stack.

    As start-up code does it for a rewritten file (`own` in jit/startup/startup.c). Raises TargetGoneError.
    """
    inside = target.auxiliary_vector().get(_AT_RANDOM, 0)
    try:
        limit, _ = resource.prlimit(target.pid, resource.RLIMIT_STACK)
    except ProcessLookupError:
        raise TargetGoneError(f"process {target.pid} has ended") from None
    except OSError:
        return 0
    if inside < _HIGH:
        return 0
    most = _USUAL if limit == resource.RLIM_INFINITY else min(limit, _USUAL)
    return datafile.owner_word(inside - most // 4 * 3)
