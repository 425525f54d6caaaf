"""Machine code of instructions written in Intel syntax, by LLVM's assembler."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Final

import llvmlite.binding as llvm
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from codecache.module import initialise

_TRIPLE: Final = "x86_64-unknown-linux-gnu"


def assemble(texts: Sequence[str]) -> list[bytes]:
    """The code of each text (instructions separated by `;`), all in one go.

    A text in hexadecimal digits is taken as the bytes themselves. Where a text is no instruction, LLVM says so on
    standard error and ends the process: this is for texts of our own.
    """
    initialise()
    lines = [".intel_syntax noprefix"]
    for index, text in enumerate(texts):
        lines += [f"at{index}:", _hexadecimal(text) or text.replace(";", "\n")]
    lines.append(f"at{len(texts)}:")
    source = "\n".join(f'module asm "{line}"' for part in lines for line in part.split("\n"))
    machine = llvm.Target.from_triple(_TRIPLE).create_target_machine(features="+avx2,+bmi,+bmi2,+adx,+lzcnt,+movbe")
    found = ELFFile(BytesIO(machine.emit_object(llvm.parse_assembly(source))))
    symbols, section = found.get_section_by_name(".symtab"), found.get_section_by_name(".text")
    assert isinstance(symbols, SymbolTableSection) and section is not None
    places = {symbol.name: symbol["st_value"] for symbol in symbols.iter_symbols()}
    code = section.data()
    return [code[places[f"at{i}"] : places[f"at{i + 1}"]] for i in range(len(texts))]


def _hexadecimal(text: str) -> str:
    digits = text.replace(" ", "")
    if len(digits) % 2 or not digits or any(digit not in "0123456789abcdef" for digit in digits):
        return ""
    return ".byte " + ",".join(f"0x{byte:02x}" for byte in bytes.fromhex(digits))
