"""Makes startup.ll from startup.c: `python -m jit.startup.generate [CLANG]`. Any clang from 14 on will do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("startup.c")
OUTPUT = Path(__file__).with_name("startup.ll")

FLAGS = (
    "--target=x86_64-unknown-linux-gnu",
    "-std=gnu11",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fPIC",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-stack-protector",
    "-fno-strict-aliasing",
    "-fno-jump-tables",
    "-fno-asynchronous-unwind-tables",
    "-mno-red-zone",
    "-mgeneral-regs-only",
)
"""Freestanding, position-independent code that touches general registers only."""

_FEATURES = '"target-features"="-sse,-sse2,-mmx,-x87"'
"""Instead of clang's list of all features it leaves out, of which a newer LLVM may not know some."""


def generate(clang: str = "clang") -> str:
    """LLVM IR of startup.c, without what depends on the machine or on nothing but clang's own version.

    Raises subprocess.CalledProcessError when clang does not compile it.
    """
    command = [clang, *FLAGS, "-S", "-emit-llvm", "-o", "-", SOURCE.name]
    text = subprocess.run(command, cwd=SOURCE.parent, check=True, stdout=subprocess.PIPE, text=True).stdout
    text = re.sub(r"^(; ModuleID|!llvm\.ident).*\n", "", text, flags=re.MULTILINE)
    noise = r', !srcloc !\d+|^!\d+ = !\{(!"[^"]*clang version[^"]*"|i64 \d+)\}\n'
    text = re.sub(noise, "", text, flags=re.MULTILINE)
    return re.sub(r'"target-features"="[^"]*"', _FEATURES, text)


def clang_major(clang: str = "clang") -> int:
    """The major version of a clang."""
    shown = subprocess.run([clang, "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.search(r"version (\d+)", shown)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "clang"
    OUTPUT.write_text(
        f"; startup.c as LLVM IR, made by clang {clang_major(chosen)}: python -m jit.startup.generate\n"
        + generate(chosen)
    )
