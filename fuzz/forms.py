"""One text for every form of lifted instruction that differs in kind: what a short deterministic check runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Final, TypeVar

from lifter.flags import CONDITION_FLAGS, NEGATED

_REGISTERS: Final = {
    8: (("al", "bl"), ("ah", "bh"), ("cl", "ch"), ("r9b", "sil")),
    16: (("ax", "bx"), ("r9w", "si")),
    32: (("eax", "ebx"), ("r9d", "esi")),
    64: (("rax", "rbx"), ("r9", "rsi")),
}
"""Pairs of different registers, by width."""
_SIZES: Final = {8: "byte ptr", 16: "word ptr", 32: "dword ptr", 64: "qword ptr"}
_PLACES: Final = ("[rdi]", "[rbp + rcx*4 - 8]", "[rsp + 16]", "[rip + 64]", "[r13 + r12*8 + 256]")
_IMMEDIATES: Final = (0, 1, -1, 127, -128, 0x1234, 0x7FFFFFFF)
_T = TypeVar("_T")
_CONDITIONS: Final = (*CONDITION_FLAGS, *NEGATED)


def lifted_forms() -> list[str]:
    """Texts in Intel syntax, for `fuzz.assembler`."""
    return [*_binary(), *_unary(), *_shifts(), *_moves(), *_conditional(), *_bit_forms(), *_others()]


def _places(width: int) -> list[str]:
    return [f"{_SIZES[width]} {place}" for place in _PLACES]


def _fitting(width: int) -> list[int]:
    """Immediates that an operation of the width can have."""
    return [value for value in _IMMEDIATES if -(2 ** (width - 1)) <= value < 2 ** (width - 1)]


def _some(number: int, items: Sequence[_T], count: int) -> list[_T]:
    """`count` of the items, others for another number: not every operation with every operand."""
    return [items[(number * count + index) % len(items)] for index in range(min(count, len(items)))]


def _binary() -> Iterator[str]:
    operations = ("add", "sub", "cmp", "adc", "sbb", "and", "or", "xor", "test", "mov")
    for number, (name, (width, pairs)) in enumerate(product(operations, _REGISTERS.items())):
        for first, second in pairs:
            yield f"{name} {first}, {second}"
        first, second = pairs[0]
        yield f"{name} {first}, {first}"
        yield from (f"{name} {first}, {value}" for value in (0, -1, *_some(number, _fitting(width)[1:], 1)))
        yield f"{name} {_SIZES[width]} [rdi], {_some(number, _fitting(width), 1)[0]}"
        yield from (f"{name} {place}, {second}" for place in _some(number, _places(width), 2))
        if name != "test":
            yield from (f"{name} {first}, {place}" for place in _some(number + 1, _places(width), 1))
    yield "add dword ptr [rip + 64], -1"
    yield from ("add rsp, 32", "sub rsp, 64", "add rax, rsp", "cmp rsp, rbx", "mov rax, rsp", "test rsp, rsp")
    yield from (
        "movabs rax, 0x123456789abcdef0",
        "movabs rax, qword ptr [0x20000100]",
        "movabs byte ptr [0x20000100], al",
    )
    yield from ("and dword ptr [rdi], 0", "or qword ptr [rdi], -1", "or rbx, -1", "or bl, -1")
    yield from ("mov eax, dword ptr fs:[0x40]", "mov dword ptr gs:[0x40], ebx", "mov eax, dword ptr [edi]", "86c0")
    for pairs in _REGISTERS.values():
        for first, second in pairs:
            yield from (f"xchg {first}, {second}", f"xadd {first}, {second}", f"xadd {first}, {first}")
    for number, (width, pairs) in enumerate(_REGISTERS.items()):
        first, second = pairs[0]
        if width != 32:
            yield from (f"cmpxchg {first}, {second}", f"cmpxchg {second}, {first}", f"cmpxchg {first}, {first}")
        for place, name in product(_some(number, _places(width), 2), ("xadd", "cmpxchg")):
            yield from (f"{name} {place}, {second}", f"{name} {place}, {first}")
    yield from ("xadd qword ptr [rdi], rdi", "cmpxchg qword ptr [rdi], rdi", "cmpxchg qword ptr [rax], rbx")
    yield from ("cmpxchg bl, ah", "cmpxchg ah, al", "cmpxchg dword ptr [rdi], ebx; sete cl")
    yield from ("xchg al, ah", "xadd al, ah", "xadd ah, al", "xchg eax, eax", "4887c0", "87c0")


def _unary() -> Iterator[str]:
    names = ("not", "neg", "inc", "dec", "mul", "imul", "div", "idiv")
    for number, (name, (width, pairs)) in enumerate(product(names, _REGISTERS.items())):
        yield from (f"{name} {register}" for register, _ in pairs)
        yield from (f"{name} {place}" for place in _some(number, _places(width), 1))
    for width in (16, 32, 64):
        first, second = _REGISTERS[width][0]
        yield from (f"imul {first}, {second}", f"imul {first}, {first}", f"imul {first}, {_SIZES[width]} [rdi]")
        yield from (f"imul {first}, {second}, {value}" for value in _fitting(width))
        yield f"imul {first}, {_SIZES[width]} [rip + 64], 1000"


def _shifts() -> Iterator[str]:
    names = ("shl", "shr", "sar", "rol", "ror", "rcl", "rcr")
    for number, (name, (width, pairs)) in enumerate(product(names, _REGISTERS.items())):
        first, second = pairs[0]
        counts = (2, 7, 8, 9, width - 1, width, width + 1, 31, 33)
        yield from (f"{name} {first}, {count}" for count in (0, 1, *_some(number, counts, 4)))
        yield from (f"{name} {register}, cl" for register in (first, second))
        yield f"{name} {_SIZES[width]} [rdi], {_some(number, ('1', '5', 'cl'), 1)[0]}"
    yield from (f"{name} ah, {count}" for name, count in product(names, ("1", "9", "cl")))
    yield from ("d0f0", "d3f0", "48c1f004", "shl cl, cl", "shl ch, cl", "ror ecx, cl", "rcl rcx, cl")
    for name, width in product(("shld", "shrd"), (32, 64)):
        first, second = _REGISTERS[width][0]
        yield from (f"{name} {first}, {second}, {count}" for count in (0, 1, 13, width - 1, width, "cl"))
        yield from (f"{name} {_SIZES[width]} [rdi], {second}, 3", f"{name} {first}, {first}, cl")
    yield from (f"{name} ax, bx, {count}" for name, count in product(("shld", "shrd"), (0, 1, 8, 15)))
    for width in (32, 64):
        (first, second), (third, _) = _REGISTERS[width]
        yield from (f"{name} {first}, {second}, {third}" for name in ("shlx", "shrx", "sarx"))
        yield from (f"rorx {first}, {second}, {count}" for count in (0, 7, width - 1, width + 1))
        yield from (f"shlx {first}, {_SIZES[width]} [rdi], {third}", f"rorx {first}, {_SIZES[width]} [rdi], 5")


def _moves() -> Iterator[str]:
    for name in ("movzx", "movsx"):
        yield from (f"{name} {wide}, {narrow}" for wide in ("ax", "ebx", "r9") for narrow in ("al", "byte ptr [rdi]"))
        yield from (f"{name} {wide}, ah" for wide in ("ax", "ebx"))
        yield from (f"{name} {wide}, {narrow}" for wide in ("eax", "r9") for narrow in ("bx", "word ptr [rsp + 8]"))
    yield from ("movsxd rax, ebx", "movsxd r9, dword ptr [rdi]", "63c3", "6663c3")
    yield from (
        "lea eax, [rbx + rcx*2 - 5]",
        "lea rax, [rbx + rcx*8 + 64]",
        "lea ax, [rbx + rcx]",
        "lea rax, [rip + 64]",
    )
    yield from (
        "lea rax, [ebx + ecx]",
        "lea rax, [rsp + 8]",
        "lea rax, [rbx*4]",
        "lea eax, [rip + 64]",
        "lea rsp, [rsp + 8]",
    )
    yield from ("lea rsp, [rbp - 16]", "mov rsp, rbp", "leave", "lea rbx, [0x1234]")
    yield from ("push rax", "push rsp", "push 5", "push -1", "push 0x12345", "push qword ptr [rdi]")
    yield from ("push qword ptr [rsp + 8]", "pop rax", "pop qword ptr [rdi]", "pop qword ptr [rsp + 8]")
    yield "push qword ptr [rip + 64]"
    yield from ("pop rsp", "pushfq", "pushfq; pop rax", "pop rax; and rax, 0xcd5; push rax; popfq")
    yield from ("enter 16, 0", "enter 0, 0", "enter 0, 1", "enter 8, 3", "enter 0, 34", "enter 32, 33")
    yield from ("sub rsp, rax", "and rsp, -64", "and esp, -16", "mov rsp, rax", "mov esp, eax", "mov rsp, [rdi]")
    yield from ("lea rsp, [rax + rcx*8]", "lea rsp, [rax - 8]", "lea rsp, [rsp + rax]", "add rsp, [rdi]", "inc rsp")
    yield from ("xchg rsp, rax", "xadd rsp, rax", "cmovb rsp, rax", "sbb rsp, rsp", "shl rsp, cl", "xor rsp, rbx")
    yield from ("sub rsp, rax; setc al", "mov rsp, rbx; cmp rsp, rax; sete cl")
    yield "sub rsp, rax; add rsp, 16; mov rbx, rsp"
    yield from (
        "cbw",
        "cwde",
        "cdqe",
        "cwd",
        "cdq",
        "cqo",
        "bswap eax",
        "bswap r9",
        "lahf",
        "sahf",
        "clc",
        "stc",
        "cmc",
    )
    # Loads into a part of the register that addresses them.
    yield from (
        "mov dil, byte ptr [rdi]",
        "mov di, word ptr [rdi]",
        "mov dl, byte ptr [rdi + rdx*8]",
        "mov edi, dword ptr [rdi]",
    )
    yield from ("mov al, byte ptr [rdi]; mov dil, al", "add di, word ptr [rdi]", "cmovb di, word ptr [rdi]")
    for width in (16, 32, 64):
        first, _ = _REGISTERS[width][0]
        yield from (f"movbe {first}, {_SIZES[width]} [rdi]", f"movbe {_SIZES[width]} [rdi], {first}")
    yield from ("xlatb", "nop", "nop dword ptr [rax + rax]", "endbr64", "endbr32")


def _conditional() -> Iterator[str]:
    """Conditions alone, and after what they fuse with."""
    setters = ("cmp eax, ebx", "cmp al, 5", "test rax, rax", "test al, bl", "sub eax, ebx", "add eax, ebx", "dec r9d",
               "neg rax", "shl eax, 1", "and ax, bx", "sbb rax, rbx", "sbb al, bl")  # fmt: skip
    for number, condition in enumerate(_CONDITIONS):
        yield from (f"set{condition} al", f"set{condition} dh", f"set{condition} byte ptr [rdi]")
        yield from (f"cmov{condition} eax, ebx", f"cmov{condition} rax, qword ptr [rdi]", f"cmov{condition} ax, r9w")
        for setter in setters:
            reader = ("set{} cl", "cmov{} ecx, edx")[number % 2].format(condition)
            yield f"{setter}; {reader}"
    jumps = [f"{0x70 + code:02x}10" for code in range(16)]
    for setter, jump in product(setters[:3], jumps):
        yield f"{setter}; .byte 0x{jump[:2]}, 0x{jump[2:]}"
    yield from jumps
    yield from ("e010", "e110", "e210", "e310", "67e010", "67e110", "67e210", "67e310", "eb10", "e910000000")


def _bit_forms() -> Iterator[str]:
    for name, width in product(("bt", "bts", "btr", "btc"), (16, 32, 64)):
        first, second = _REGISTERS[width][0]
        yield from (f"{name} {first}, {second}", f"{name} {first}, {first}")
        yield from (f"{name} {first}, {index}" for index in (0, width - 1, width + 1))
        yield from (f"{name} {_SIZES[width]} [rdi], {second}", f"{name} {_SIZES[width]} [rdi], {width - 1}")
    for name, width in product(("bsf", "bsr", "tzcnt", "lzcnt"), (16, 32, 64)):
        first, second = _REGISTERS[width][0]
        yield from (f"{name} {first}, {second}", f"{name} {first}, {first}", f"{name} {first}, {_SIZES[width]} [rdi]")
    for width in (16, 32, 64):
        first, second = _REGISTERS[width][1]
        yield from (f"popcnt {first}, {second}", f"popcnt {first}, {first}", f"popcnt {first}, {_SIZES[width]} [rdi]")
    for width in (32, 64):
        (first, second), (third, _) = _REGISTERS[width]
        for name in ("pdep", "pext", "bzhi", "bextr"):
            yield from (f"{name} {first}, {second}, {third}", f"{name} {first}, {first}, {first}")
        for name in ("pdep", "pext"):
            yield f"{name} {first}, {second}, {_SIZES[width]} [rdi]"
        for name in ("bzhi", "bextr"):
            yield f"{name} {first}, {_SIZES[width]} [rdi], {third}"
        for source in ("bl", "bh", "r9b", "byte ptr [rdi]"):
            if not (width == 64 and source == "bh"):
                yield f"crc32 {first}, {source}"
    yield from ("crc32 eax, bx", "crc32 eax, ebx", "crc32 eax, dword ptr [rdi]", "crc32 rax, rbx", "crc32 rax, rax")
    for width in (32, 64):
        (first, second), (third, _) = _REGISTERS[width]
        yield from (f"andn {first}, {second}, {third}", f"andn {first}, {second}, {_SIZES[width]} [rdi]")
        for name in ("blsr", "blsi", "blsmsk"):
            yield from (
                f"{name} {first}, {second}",
                f"{name} {first}, {first}",
                f"{name} {first}, {_SIZES[width]} [rdi]",
            )


def _others() -> Iterator[str]:
    for width in (32, 64):
        (first, second), (third, _) = _REGISTERS[width]
        yield from (f"mulx {first}, {second}, {third}", f"mulx {first}, {first}, {third}")
        yield f"mulx {first}, {second}, {_SIZES[width]} [rdi]"
        for name in ("adcx", "adox"):
            yield from (
                f"{name} {first}, {second}",
                f"{name} {first}, {first}",
                f"{name} {first}, {_SIZES[width]} [rdi]",
            )


def verbatim_forms() -> list[str]:
    """The same for instructions carried as bytes: flags in and out, operands relative to RSP and RIP, faults."""
    places = ("[rsp + 16]", "[rip + 64]", "[rsp + rcx*8 + 32]", "[rdi]")
    forms = ["comisd xmm0, xmm1", "ucomiss xmm3, xmm3", "ptest xmm0, xmm1", "vptest ymm0, ymm1", "fcomi st, st(1)"]
    forms += ["fucomip st, st(1)", "fcmovb st, st(1)", "fcmovnu st, st(2)"]
    forms += [f"{prefix} {name}" for prefix in ("rep", "repne") for name in ("cmpsb", "cmpsd", "scasb", "scasq")]
    forms += [f"{prefix} {name}" for prefix in ("", "rep") for name in ("movsb", "movsq", "stosb", "stosd", "lodsb")]
    forms += ["lock xadd byte ptr [rsp + 16], bl", "lock xadd qword ptr [rip + 64], rax"]
    forms += ["cmpxchg ebx, ecx", "lock cmpxchg byte ptr [rsp + 16], dh", "lock add dword ptr [rdi], 1"]
    forms += ["lock cmpxchg qword ptr [rdi], rbx"]
    forms += ["lock adc dword ptr [rdi], ebx", "lock xadd qword ptr [rdi], rbx", "xchg dword ptr [rdi], ebx"]
    forms += ["lock bts dword ptr [rdi], 3", "lock inc byte ptr [rdi]", "cmpxchg8b qword ptr [rdi]", "std", "cld"]
    forms += ["cmpxchg16b xmmword ptr [rdi]", "lock cmpxchg16b xmmword ptr [rsp + 16]"]
    forms += ["movd xmm0, eax", "movq rax, xmm1", "cvttsd2si rax, xmm0", "cvtsi2sd xmm0, rbx", "pmovmskb eax, xmm0"]
    forms += ["shld ax, bx, 16", "shrd ax, bx, cl", "67d7", "64d7", "movnti dword ptr [rsp + 16], ebx"]
    forms += ["67480fab1f", "670fa31f"]
    for place in places:
        forms += [f"movups xmm1, xmmword ptr {place}", f"movups xmmword ptr {place}, xmm1"]
        forms += [f"addsd xmm0, qword ptr {place}", f"pshufd xmm2, xmmword ptr {place.replace('+ 16', '+ 20')}, 27"]
        forms += [
            f"comisd xmm0, qword ptr {place}",
            f"vpaddd ymm0, ymm1, ymmword ptr {place}",
            f"fld qword ptr {place}",
        ]
        forms += [f"fstp tbyte ptr {place}", f"lock inc dword ptr {place}", f"fist dword ptr {place}"]
        forms += [f"lock cmpxchg dword ptr {place}, ebx", f"lock xadd dword ptr {place}, ebx"]
        forms += [f"vinsertf128 ymm0, ymm1, xmmword ptr {place}, 1", f"pinsrw xmm0, word ptr {place}, 3"]
        forms += [f"xchg qword ptr {place}, rbx", f"lock not word ptr {place}", f"prefetcht0 byte ptr {place}"]
    return forms
