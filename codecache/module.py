"""From the texts of many regions to one LLVM module, and LLVM set up to compile it.

A region's text names its symbols `L_<name>`: `@L_region`, `@L_d0`, `@L_c1`, and `L_x0`, `L_fs` in inline assembly.
In a module each region gets a prefix of its own instead (`R17_d0`), so texts need no parsing to be put together.
`declare` lines are collected, each once. What every module has, and every text may use:

| name | meaning |
|---|---|
| `#0` | attributes of a region |
| `#1` | attributes of a probe's function: inlined always |
| `#2` | attributes of a probe's function that is called |
| `!alias.scope !4, !noalias !5` | an access to probe memory |
| `!alias.scope !5, !noalias !4` | an access to program memory |
| `!prof !6` | a branch that is hardly ever taken |
| `!prof !7` | a branch that is nearly always taken |
| `!8` | the empty node (`!invariant.load !8`) |
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from llvmlite import binding as llvm

TRIPLE = "x86_64-unknown-linux-gnu"
CPU = "x86-64"
FEATURES = "-sse,-sse2,-mmx,-x87"
"""LLVM leaves vector and x87 registers alone: they hold the program's values."""

HEADER = f"""\
target triple = "{TRIPLE}"
attributes #0 = {{ noredzone nounwind uwtable(sync) null_pointer_is_valid noimplicitfloat "no-realign-stack" \
"no-builtins" }}
attributes #1 = {{ noredzone nounwind null_pointer_is_valid noimplicitfloat alwaysinline "no-realign-stack" \
"no-builtins" }}
attributes #2 = {{ noredzone nounwind null_pointer_is_valid noimplicitfloat noinline "no-realign-stack" \
"no-builtins" }}
!llvm.module.flags = !{{!0}}
!0 = !{{i32 1, !"override-stack-alignment", i32 8}}
!1 = distinct !{{!1, !"memory"}}
!2 = distinct !{{!2, !1, !"probe"}}
!3 = distinct !{{!3, !1, !"program"}}
!4 = !{{!2}}
!5 = !{{!3}}
!6 = !{{!"branch_weights", i32 1, i32 1000}}
!7 = !{{!"branch_weights", i32 1000, i32 1}}
!8 = !{{}}
"""
"""What stands at the head of every module. `uwtable` makes LLVM state each region's frame size in .eh_frame."""

OPTIONS = ("enable-shrink-wrap=0", "fixup-byte-word-insts=0", "enable-misched=0", "x86-cmov-converter=0")
"""LLVM's own options. Without shrink-wrapping the frame is made at the function's start, for every path. The fixup of
byte and word loads makes `movzbl (%rdi), %edi` of `movb (%rdi), %dil` although the rest of rdi is live: LLVM 22
overlooks that the instruction reads rdi where it is its own address. The scheduler before register allocation moves
what depends on RSP alone in front of the statement that takes the registers in, where every register holds a value.
The converter of cmov makes a branch around a load that a cmov of the program carries out whatever its condition says,
and may fault in."""

_LEAN = (
    *("disable-lsr", "disable-cgp", "disable-constant-hoisting", "disable-partial-libcall-inlining"),
    *("disable-mergeicmps", "disable-expand-reductions", "disable-replace-with-vec-lib"),
    *("disable-early-ifcvt", "disable-machine-sink", "disable-early-taildup", "disable-x86-domain-reassignment"),
    *("no-stack-coloring", "x86-disable-avoid-SFB", "no-x86-call-frame-opt"),
    *("disable-ssc", "disable-copyprop", "disable-postra-machine-licm", "disable-postra-machine-sink"),
    "disable-post-ra",
)
_ACTIVE = ("x86-early-ifcvt",)
"""What code generation leaves out (`_LEAN` set, `_ACTIVE` cleared) for regions that take no IR passes: LLVM's time
goes into passes that have nothing to do, since the program's compiler did that work. Measured over 240 regions of gzip
with counters in every block: code generation executes 22% fewer instructions, the code is 1.6% smaller, and 10 of the
regions need a frame instead of 6. Machine LICM stays on, for loops."""

_PLACEHOLDER = re.compile(r"<([KRLN])([^>]*)>")


@cache
def initialise() -> None:
    """Set LLVM up, once in a process. LLVM's options are global to it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    for option in OPTIONS:
        llvm.set_option("", f"-{option}")


class _Effort:
    """How much code generation does, which in LLVM is a property of the process."""

    lean: bool | None = None


def set_effort(lean: bool) -> None:
    """Choose what code generation does from now on: the least that makes good code of lifted code, or everything."""
    initialise()
    if _Effort.lean is not lean:
        _Effort.lean = lean
        for option in _LEAN:
            llvm.set_option("", f"-{option}={lean:d}")
        for option in _ACTIVE:
            llvm.set_option("", f"-{option}={not lean:d}")


@cache
def target_machine(features: str) -> llvm.TargetMachine:
    """The code generator for the baseline processor plus `features` (LLVM's spelling)."""
    initialise()
    everything = f"{FEATURES},{features}" if features else FEATURES
    target = llvm.Target.from_triple(TRIPLE)
    return target.create_target_machine(cpu=CPU, features=everything, opt=2, reloc="pic", codemodel="small")


def region_text(text: str, index: int, shift: int, framed: bool, firm: bool = True) -> str:
    """A region's text with its symbols prefixed by its index and what stands in `<>` replaced (see `RegionSource`).

    `framed` says whether the region may have a frame; if it has one all the same, the text is wrong for it. `firm`
    says whether its loose registers are pinned; if they are not and the code writes one, it is wrong as well.
    """
    frame = f"R{index}_fs+" if framed else ""

    def replace(match: re.Match[str]) -> str:
        kind = match[1]
        if kind == "L" or kind == "N":
            return match[2] if firm is (kind == "L") else ""
        distance = shift + int(match[2] or 0)
        if kind == "K":
            return str(distance)
        return f"leaq {frame}{distance}(%rsp), %rsp;" if frame or distance else ""

    return _PLACEHOLDER.sub(replace, text.replace("L_", f"R{index}_"))


def module_text(texts: Iterable[str]) -> str:
    """One module of texts made by `region_text`."""
    declarations: dict[str, None] = {}
    parts = []
    for text in texts:
        if "declare " in text:
            lines = text.split("\n")
            declarations.update(dict.fromkeys(line for line in lines if line.startswith("declare ")))
            text = "\n".join(line for line in lines if not line.startswith("declare "))
        parts.append(text)
    return "\n".join([HEADER, *declarations, *parts])


def parse(text: str) -> llvm.ModuleRef:
    """Parse and verify a module in a context of its own.

    Raises RuntimeError with LLVM's message.
    """
    initialise()
    module = llvm.parse_assembly(text, llvm.create_context())
    module.verify()
    return module


def optimise(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    """Run the IR passes that pay for regions: inline probes, simplify, and nothing that calls a library."""
    tuning = llvm.create_pipeline_tuning_options(speed_level=1)
    builder = llvm.create_pass_builder(machine, tuning)
    passes = llvm.create_new_module_pass_manager()
    passes.add_always_inliner_pass()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)
