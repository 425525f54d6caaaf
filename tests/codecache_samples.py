"""Region texts as the lifter makes them, and a machine to run placed ones on."""

from __future__ import annotations

from dataclasses import dataclass, field

import unicorn
from unicorn import x86_const as x86

from codecache import CompiledRegion, Placed, RegionSource, place

REGISTERS = (
    *("rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
CODE, DATA, STACK, EXITS = 0x10_0000, 0x20_0000, 0x30_0000, 0x40_0000
SIZE = 0x1_0000
STACK_POINTER = STACK + 0x8008


def pins(registers: tuple[str, ...], mark: str = "") -> str:
    """Constraints that pin values to registers."""
    return ",".join(f"{mark}{{{register}}}" for register in registers)


def leave(exit_symbol: str, values: dict[str, str], moved: str = "<R>") -> str:
    """The statement by which a region leaves, with IR values in registers."""
    operands = ", ".join(f"i64 {value}" for value in values.values())
    return (
        f'  call void asm sideeffect "{moved}jmp L_{exit_symbol}", "{pins(tuple(values))}"({operands})\n  unreachable\n'
    )


def region(body: str, inputs: tuple[str, ...], extra: str = "") -> str:
    """A region with the registers `inputs` as `%rax` and so on."""
    shape = "{" + ",".join(["i64"] * len(inputs)) + "}"
    lines = [
        extra + "declare ptr @llvm.addressofreturnaddress.p0()",
        "define ghccc void @L_region() #0 {",
    ]
    if len(inputs) == 1:
        lines.append(f'  %{inputs[0]} = call i64 asm sideeffect "", "={{{inputs[0]}}}"()')
    elif inputs:
        lines.append(f'  %in = call {shape} asm sideeffect "", "{pins(inputs, "=")}"()')
        lines += [f"  %{name} = extractvalue {shape} %in, {i}" for i, name in enumerate(inputs)]
    lines.append("  %sp = call ptr @llvm.addressofreturnaddress.p0()")
    return "\n".join(lines) + "\n" + body + "}\n"


def source(text: str, shift: int = 0, framed: int = 192, passes: bool = False) -> RegionSource:
    return RegionSource(text, shift, framed, passes)


def branch() -> RegionSource:
    """add rax, [rsp+16]; inc counter; cmp rax, rdi; je x0; jmp x1"""
    return source(
        region(
            """\
  %p = getelementptr i8, ptr %sp, i64 <K+16>
  %v = load volatile i64, ptr %p, align 1
  %n = load i64, ptr @L_c0
  %n1 = add i64 %n, 1
  store i64 %n1, ptr @L_c0
  %s = add i64 %rax, %v
  %t = icmp eq i64 %s, %rdi
  br i1 %t, label %equal, label %other
equal:
"""
            + leave("x0", {"rax": "%s", "rdi": "%rdi"})
            + "other:\n"
            + leave("x1", {"rax": "%s", "rdi": "%rdi"}),
            ("rax", "rdi"),
            "@L_c0 = external hidden global i64\n",
        )
    )


def spilling() -> RegionSource:
    """Fifteen live registers and five values more: needs a frame; writes to the program's red zone."""
    body = "  %q = getelementptr i8, ptr %sp, i64 <K-8>\n  store volatile i64 %rax, ptr %q, align 1\n"
    for i in range(5):
        body += (
            f"  %p{i} = getelementptr i8, ptr %sp, i64 <K+{8 * i + 8}>\n"
            f"  %m{i} = load volatile i64, ptr %p{i}, align 1\n"
        )
    body += '  call void asm sideeffect "nop", "~{rax},~{rcx},~{rdx},~{rbx}"()\n'
    total = "%m0"
    for i in range(1, 5):
        body += f"  %t{i} = add i64 {total}, %m{i}\n"
        total = f"%t{i}"
    values = {name: f"%{name}" for name in REGISTERS}
    body += f"  %sum = add i64 %r15, {total}\n"
    return source(region(body + leave("x0", {**values, "r15": "%sum"}), REGISTERS))


def passing_through(clobbered: str) -> RegionSource:
    """inc rax, with rbx left loose and a register clobbered in between."""
    text = f"""\
define ghccc void @L_region() #0 {{
<N  %rax = call i64 asm sideeffect "", "={{rax}}"()><L  %in = call {{i64, i64}} asm sideeffect "", "={{rax}},={{rbx}}"()
  %rax = extractvalue {{i64, i64}} %in, 0
  %rbx = extractvalue {{i64, i64}} %in, 1>
  call void asm sideeffect "xorl %{clobbered.replace("r", "e")}, %{clobbered.replace("r", "e")}", "~{{{clobbered}}}"()
  %sum = add i64 %rax, 1
  call void asm sideeffect "<R>jmp L_x0", "{{rax}},<L{{rbx}},>~{{memory}}"(i64 %sum<L, i64 %rbx>)
  unreachable
}}
"""
    return RegionSource(text, 0, 192, False, loose=1 << 3)


def switching(cases: int = 8) -> RegionSource:
    """A loop over a byte string (rsi, ends with 255) whose bytes select what happens to rax: a jump table."""
    body = """\
  br label %loop
loop:
  %acc = phi i64 [ %rax, %0 ], [ %next, %join ]
  %at = phi i64 [ %rsi, %0 ], [ %after, %join ]
  %p = inttoptr i64 %at to ptr
  %b = load volatile i8, ptr %p, align 1
  %after = add i64 %at, 1
  switch i8 %b, label %done [
"""
    body += "".join(f"    i8 {i}, label %case{i}\n" for i in range(cases)) + "  ]\n"
    for i in range(cases):
        body += f"case{i}:\n  %v{i} = {('add', 'mul', 'xor')[i % 3]} i64 %acc, {i * 2 + 3}\n  br label %join\n"
    body += "join:\n  %next = phi i64 " + ", ".join(f"[ %v{i}, %case{i} ]" for i in range(cases))
    body += "\n  br label %loop\ndone:\n" + leave("x0", {"rax": "%acc", "rsi": "%at"}, "<R-16>")
    return source(region(body, ("rax", "rsi")))


def addressing() -> RegionSource:
    """Program data by its symbol: in the IR, and in a verbatim `mov rcx, [rip+...]` (rbx survives around it)."""
    return source(
        region(
            """\
  %a = load volatile i64, ptr @L_d0, align 1
  %b = call i64 asm sideeffect ".byte 0x48,0x8b,0x0d\\0A\\09.long L_d1-.-4", "={rcx}"()
  %s = add i64 %a, %b
"""
            + leave("x0", {"rax": "%s", "rdx": "ptrtoint (ptr @L_d1 to i64)"}),
            (),
            "@L_d0 = external hidden global {}\n@L_d1 = external hidden global {}\n",
        )
    )


def hopeless() -> RegionSource:
    """Sixteen values pinned or needed in registers at once: LLVM gives up and ends the process."""
    values = {name: f"%{name}" for name in REGISTERS}
    operands = ", ".join(f"i64 {value}" for value in values.values())
    body = f'  call void asm sideeffect "movq ($0), %rsp", "r,{pins(REGISTERS)}"(ptr %sp, {operands})\n' + leave(
        "x0", values
    )
    return source(region(body, REGISTERS))


@dataclass
class Machine:
    """Registers and memory at a region's exit."""

    registers: dict[str, int]
    stack_pointer: int
    exit: int
    """Index of the exit symbol that was jumped to."""
    memory: unicorn.Uc = field(repr=False)

    def word(self, address: int) -> int:
        return int.from_bytes(self.memory.mem_read(address, 8), "little")


def symbols(region: CompiledRegion) -> dict[str, int]:
    """Addresses for the samples' symbols: exits 16 bytes apart, data and counters in the data pages."""
    result = {}
    for relocation in region.relocations:
        _, _, name = relocation.symbol.partition("_")
        if name:
            where = {"x": EXITS, "d": DATA, "c": DATA + 0x800}[name[0]]
            result[relocation.symbol] = where + 16 * int(name[1:])
    return result


def run(
    region: CompiledRegion,
    registers: dict[str, int] | None = None,
    memory: dict[int, bytes] | None = None,
    address: int = CODE + 5,
) -> Machine:
    """Place a region behind a stub, run it until it leaves, and look."""
    stub = b"\x48\x8d\xa4\x24" + (-region.shift).to_bytes(4, "little", signed=True) if region.shift else b""
    placed = place(region, address, symbols(region), stub=stub)
    assert isinstance(placed, Placed), placed
    return execute(placed.code, placed.address, registers, memory)


def execute(
    code: bytes, address: int, registers: dict[str, int] | None = None, memory: dict[int, bytes] | None = None
) -> Machine:
    """Run code until it reaches the exits."""
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    for base in (CODE, DATA, STACK, EXITS):
        uc.mem_map(base, SIZE)
    uc.mem_write(EXITS, b"\xf4" * SIZE)
    uc.mem_write(address, code)
    for where, content in (memory or {}).items():
        uc.mem_write(where, content)
    uc.reg_write(x86.UC_X86_REG_RSP, STACK_POINTER)
    for name, value in (registers or {}).items():
        uc.reg_write(getattr(x86, f"UC_X86_REG_{name.upper()}"), value)
    uc.emu_start(address, 0, count=100_000)
    counter = uc.reg_read(x86.UC_X86_REG_RIP)
    assert EXITS < counter < EXITS + SIZE, f"stopped at {counter:#x}"
    values = {name: uc.reg_read(getattr(x86, f"UC_X86_REG_{name.upper()}")) for name in REGISTERS}
    return Machine(values, uc.reg_read(x86.UC_X86_REG_RSP), (counter - EXITS) // 16, uc)
