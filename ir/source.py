"""What the compiler gets: a region's IR text and how far the stack pointer is lowered before it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_VARIANT: Final = re.compile(r"<([LN])([^>]*)>")


@dataclass(frozen=True, slots=True)
class RegionSource:
    """A region ready to be compiled."""

    text: str
    """LLVM IR of one `define ghccc void @region()` and what only it needs (declarations, globals, probe
    functions). Offsets from the machine's stack pointer at entry are written `<K+24>`, `<K-8>`: the compiler
    replaces each by the number, with K first `shift`, then, if the region turns out to need a frame,
    `shift_framed`. `<R+d>` in an assembly string becomes `leaq (K+d)(%rsp), %rsp;` (nothing where K+d is 0)
    without a frame, `leaq L_fs+(K+d)(%rsp), %rsp;` with one. `<Ltext>` is there only if the registers of `loose` are
    pinned, `<Ntext>` only if they are not."""
    shift: int
    """K: how many bytes the stub lowers RSP before the region, if the region needs no frame."""
    shift_framed: int
    """K if it does: never meets what the program keeps below its stack pointer."""
    passes: bool
    """Whether LLVM's IR passes pay (probes to inline, loops); otherwise only code generation runs."""
    features: str = ""
    """CPU features beyond the baseline that probe code may use, in LLVM's spelling."""
    loose: int = 0
    """Registers that are live all through but not pinned at first, in the hope that LLVM does not use them: where the
    code writes one, the region is compiled again with all of them pinned. Most pins of a region would be for such
    registers, and each costs LLVM time."""


def readable(text: str) -> str:
    """The text of a region as it is compiled first: no register of `loose` pinned. For people to read."""
    return _VARIANT.sub(lambda match: match[2] if match[1] == "N" else "", text)
