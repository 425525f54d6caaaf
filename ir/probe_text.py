"""Makes one plain LLVM function of what numba wrote for a probe: inlined, without numba's exceptions, defined
for every input, in registers and program memory only, and with canonical names."""

from __future__ import annotations

import re
from typing import Final

import llvmlite.binding as llvm

from ir.probes import RIP_SLOT, SLOTS, CompiledProbe

ATTRIBUTES: Final = 'alwaysinline nounwind null_pointer_is_valid "no-builtins"'
_LAYOUT: Final = 'target datalayout = "e-m:e-p270:32:32-p271:32:32-p272:64:64-i64:64-i128:128-f80:128-n8:16:32:64-S128"'
ROUNDS: Final = 3
"""How often the passes run: the text of all probes tried no longer changes after two."""

_ALLOWED: Final = (
    "add", "sub", "mul", "sdiv", "udiv", "srem", "urem", "shl", "lshr", "ashr", "and", "or", "xor", "icmp",
    "select", "phi", "br", "switch", "ret", "load", "store", "getelementptr", "zext", "sext", "trunc",
    "inttoptr", "ptrtoint", "freeze", "atomicrmw",
)  # fmt: skip
_INTRINSICS: Final = re.compile(
    r"@llvm\.(smax|smin|umax|umin|abs|ctpop|ctlz|cttz|bswap|bitreverse|fshl|fshr|ucmp|scmp)\.i(8|16|32|64)\("
)
_FLAGS: Final = re.compile(r"(?<== )(\w+)((?: (?:nsw|nuw|nusw|exact|inbounds|nneg|disjoint|samesign))+) ")
_METADATA: Final = re.compile(r", ![\w.]+ !\d+")
_DIVISION: Final = re.compile(r"^(\s*)(\S+|%\"[^\"]+\") = ([su])(div|rem) (i\d+) ([^,]+), (.+)$")
_SHIFT: Final = re.compile(r"^(\s*)(\S+|%\"[^\"]+\") = (shl|lshr|ashr) i(\d+) ([^,]+), (.+)$")
_LOCAL: Final = re.compile(r'%("[^"]+"|[-\w.$]+)')
_LABEL: Final = re.compile(r'^("[^"]+"|[-\w.$]+):')


class ProbeTextError(Exception):
    """The probe needs what a region cannot have; the text continues 'probe NAME ...'."""


def finish(text: str, entry: str, name: str, words: int) -> CompiledProbe:
    """The probe whose numba function is `entry` in the module `text`.

    Raises ProbeTextError if it needs an exception, a library, floats, vectors or memory of its own.
    """
    module = _parse(_defined(text) + _wrapper(text, entry))
    for function in module.functions:
        if not function.is_declaration and function.name != "L_probe":
            function.linkage = "internal"
            function.add_function_attribute("alwaysinline")
    _always_inline(module)
    body = str(module.get_function("L_probe"))
    _refuse_foreign_calls(body)
    module = _parse(_with_slots(body))
    _optimise(module)
    function = module.get_function("L_probe")
    reads, size = _check(function)
    writes = sum(1 << slot for slot in _slots(r"@L_set_(\d+)\(", body))
    return CompiledProbe(name, _canonical(str(function)), reads, writes, words, size)


def _parse(text: str) -> llvm.ModuleRef:
    module = llvm.parse_assembly(text)
    module.verify()
    return module


def _defined(text: str) -> str:
    """`text` with every operation defined for every operand, and without attributes and metadata."""
    lines = []
    fresh = 0
    for line in text.splitlines():
        if line.startswith(("attributes #", "!", "target ", "source_filename")):
            continue
        if "@llvm.assume(" in line and not line.startswith("declare"):
            continue
        line = _METADATA.sub("", line)
        line = _FLAGS.sub(r"\1 ", line)
        line = re.sub(r"\b(undef|poison)\b", "zeroinitializer", line)
        line = re.sub(r" #\d+(?=$| \{$)", "", line).replace(" noalias", "")
        if match := _DIVISION.match(line):
            indent, result, sign, operation, kind, dividend, divisor = match.groups()
            fresh += 1
            bad = f"%L_d{fresh}"
            lines.append(f"{indent}{bad}z = icmp eq {kind} {divisor}, 0")
            if sign == "s":
                lowest = -(1 << int(kind[1:]) - 1)
                lines += [
                    f"{indent}{bad}m = icmp eq {kind} {divisor}, -1",
                    f"{indent}{bad}l = icmp eq {kind} {dividend}, {lowest}",
                    f"{indent}{bad}o = and i1 {bad}m, {bad}l",
                    f"{indent}{bad} = or i1 {bad}z, {bad}o",
                ]
            else:
                lines.append(f"{indent}{bad} = or i1 {bad}z, false")
            lines += [
                f"{indent}{bad}s = select i1 {bad}, {kind} 1, {kind} {divisor}",
                f"{indent}{bad}r = {sign}{operation} {kind} {dividend}, {bad}s",
                f"{indent}{result} = select i1 {bad}, {kind} 0, {kind} {bad}r",
            ]
        elif match := _SHIFT.match(line):
            indent, result, operation, width, value, amount = match.groups()
            fresh += 1
            safe = f"%L_s{fresh}"
            rest = int(width) - 1 if operation == "ashr" else 0
            lines += [
                f"{indent}{safe}i = icmp ult i{width} {amount}, {width}",
                f"{indent}{safe}a = select i1 {safe}i, i{width} {amount}, i{width} {rest}",
            ]
            if operation == "ashr":
                lines.append(f"{indent}{result} = ashr i{width} {value}, {safe}a")
            else:
                lines.append(f"{indent}{safe}r = {operation} i{width} {value}, {safe}a")
                lines.append(f"{indent}{result} = select i1 {safe}i, i{width} {safe}r, i{width} 0")
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def _wrapper(text: str, entry: str) -> str:
    """`L_probe`: calls numba's function and `L_raise` if that reports an exception (0 and -2 are success)."""
    return f"""
declare void @L_raise()
define void @L_probe() null_pointer_is_valid {{
entry:
  %result = alloca [16 x i64]
  %exception = alloca ptr
  %status = call i32 @{entry}(ptr %result, ptr %exception, ptr null)
  switch i32 %status, label %bad [ i32 0, label %done
                                   i32 -2, label %done ]
bad:
  call void @L_raise()
  br label %done
done:
  ret void
}}
"""


def _always_inline(module: llvm.ModuleRef) -> None:
    builder = _pass_builder()
    manager = llvm.create_new_module_pass_manager()
    manager.add_always_inliner_pass()
    manager.run(module, builder)


def _pass_builder() -> llvm.PassBuilder:
    llvm.initialize_native_target()
    machine = llvm.Target.from_triple("x86_64-unknown-linux-gnu").create_target_machine()
    return llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))


def _optimise(module: llvm.ModuleRef) -> None:
    builder = _pass_builder()
    function = module.get_function("L_probe")
    for _ in range(ROUNDS):
        manager = llvm.create_new_function_pass_manager()
        manager.add_sroa_pass()
        manager.add_instruction_combine_pass()
        manager.add_simplify_cfg_pass()
        manager.add_sccp_pass()
        manager.add_jump_threading_pass()
        manager.add_instruction_combine_pass()
        manager.add_dead_store_elimination_pass()
        manager.add_aggressive_dce_pass()
        manager.add_simplify_cfg_pass()
        manager.run(function, builder)


_GLOBAL: Final = re.compile(r"ptr @(\"[^\"]+\"|(?!llvm\.)[-\w.$]+)")
_CALL: Final = re.compile(r"call [^@\n]*(@\"[^\"]+\"|@[-\w.$]+)\(")


def _refuse_foreign_calls(body: str) -> None:
    """Name what is called besides markers, while its name still says what the probe wanted."""
    for callee in _CALL.findall(body):
        symbol = callee[1:].strip('"')
        if re.fullmatch(r"L_([a-z]+_\d+|data|raise)|llvm\..*", symbol):
            continue
        if symbol.startswith(("NRT_", "numba_")) or "NRT" in symbol:
            raise ProbeTextError("needs memory of its own (a list, an array, text): use ctx.data")
        if symbol.startswith("_ZN"):
            raise ProbeTextError("calls itself, directly or through others")
        raise ProbeTextError(f"needs the library function {symbol}")


def _slots(pattern: str, body: str) -> list[int]:
    return sorted({int(slot) for slot in re.findall(pattern, body)})


def _with_slots(body: str) -> str:
    """The markers replaced: registers are loaded into locals first and stored back last, in one place."""
    read = _slots(r"@L_get_(\d+)\(", body)
    written = _slots(r"@L_set_(\d+)\(", body)
    label, _, rest = body.partition("{\n")[2].partition("\n")
    lines = [_LAYOUT, "define void @L_probe(ptr %L_regs, ptr %L_words) null_pointer_is_valid {", "L_entry:"]
    for slot in sorted({*read, *written}):
        lines += [
            f"  %L_slot{slot} = getelementptr i8, ptr %L_regs, i64 {8 * slot}",
            f"  %L_in{slot} = load i64, ptr %L_slot{slot}, align 8",
            f"  %L_reg{slot} = alloca i64",
            f"  store i64 %L_in{slot}, ptr %L_reg{slot}",
        ]
    lines += [f"  br label %{label.partition(':')[0]}", label]
    rest = re.sub(r"call i64 @L_get_(\d+)\(\)", r"load i64, ptr %L_reg\1", rest)
    rest = re.sub(r"call void @L_set_(\d+)\(i64 (.+)\)", r"store i64 \2, ptr %L_reg\1", rest)
    # Volatile: the program's memory is read and written as often as the probe says, in that order.
    rest = re.sub(r"call i(\d+) @L_load_\d+\(ptr (.+)\)", r"load volatile i\1, ptr \2, align 1", rest)
    store = r"call void @L_store_\d+\(ptr (.+?), (i\d+ .+)\)"
    rest = re.sub(store, r"store volatile \2, ptr \1, align 1", rest)
    rest = re.sub(r"call ptr @L_data\(\)", "getelementptr i8, ptr %L_words, i64 0", rest)
    rest = re.sub(r"^(\s*)ret void", r"\1br label %L_exit", rest, flags=re.MULTILINE)
    lines.append(rest.rpartition("}")[0])
    lines.append("L_exit:")
    for slot in written:
        lines += [
            f"  %L_out{slot} = load i64, ptr %L_reg{slot}",
            f"  store i64 %L_out{slot}, ptr %L_slot{slot}, align 8",
        ]
    lines += ["  ret void", "}", "declare void @L_raise()"]
    # What numba keeps for exceptions and callees: never used in the end, or refused by `_check`.
    lines += [f"@{name} = external global i8" for name in sorted(set(_GLOBAL.findall(rest)))]
    return "\n".join(lines)


def _check(function: llvm.ValueRef) -> tuple[int, int]:
    """Mask of the slots read, and number of instructions. Raises ProbeTextError for what cannot be had."""
    reads = 0
    size = 0
    for block in function.blocks:
        for instruction in block.instructions:
            size += 1
            text = str(instruction)
            if instruction.opcode == "call":
                if "@L_raise(" in text:
                    raise ProbeTextError(
                        "can raise an exception: guard what may fail (a range's step, a tuple's index)"
                    )
                if not _INTRINSICS.search(text):
                    raise ProbeTextError(f"needs what a region cannot have: {text.strip()}")
            elif instruction.opcode == "alloca":
                raise ProbeTextError("needs memory of its own: use ctx.data")
            elif instruction.opcode not in _ALLOWED:
                is_float = re.fullmatch(r"f\w+|[su]itofp", instruction.opcode)
                kind = "floating-point numbers" if is_float else instruction.opcode
                raise ProbeTextError(f"needs {kind}, which a region cannot have")
            if re.search(r"\b(float|double|half|x86_fp80|fp128)\b|<\d+ x ", text):
                raise ProbeTextError("needs floating-point or vector registers, which a region cannot have")
            widest = max(map(int, re.findall(r"\bi(\d+)\b", text)), default=0)
            if widest > 128 or (widest > 64 and instruction.opcode.endswith(("div", "rem"))):
                raise ProbeTextError("divides integers wider than 64 bits")
            if "@" in text and instruction.opcode != "call":
                raise ProbeTextError(f"needs data of its own: {text.strip()}")
            if instruction.opcode == "load":
                source = next(iter(instruction.operands)).name
                if source == "L_regs":
                    reads |= 1
                elif re.fullmatch(r"L_slot\d+", source):
                    reads |= 1 << int(source[6:])
    assert reads < 1 << SLOTS and RIP_SLOT < SLOTS
    return reads, size


def _canonical(text: str) -> str:
    """Names in order of first appearance, so that equal probes have equal text."""
    names: dict[str, str] = {"L_regs": "regs", "L_words": "data"}
    lines = []
    for line in text.splitlines():
        line = re.sub(r"\s*; preds = .*$", "", _METADATA.sub("", line))
        if line.startswith(";"):
            continue
        if line.startswith("define"):
            lines.append(f"define internal void @L_probe0(ptr %regs, ptr %data) {ATTRIBUTES} {{")
            continue
        line = re.sub(r" #\d+$", "", line)
        if label := _LABEL.match(line):
            line = f"{names.setdefault(label.group(1), f'v{len(names)}')}:"
        lines.append(_LOCAL.sub(lambda match: f"%{names.setdefault(match.group(1), f'v{len(names)}')}", line))
    return "\n".join(line for line in lines if line.strip()) + "\n"
