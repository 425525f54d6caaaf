"""Each fault of unicorn that `jit.emulation_limits` works around, shown against the processor that runs the tests.

A test that fails after an upgrade of unicorn means that the fault is gone, and that the limit can go, too.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from unicorn import (
    UC_ARCH_X86,
    UC_ERR_INSN_INVALID,
    UC_HOOK_CODE,
    UC_HOOK_INTR,
    UC_HOOK_MEM_WRITE,
    UC_MODE_64,
    Uc,
    UcError,
)
from unicorn import x86_const as x86

from jit.emulate import CPU
from jit.emulation_limits import limit_of, unsure_flags
from lifter.decode import decode
from lifter.instruction import Instruction
from lifter.registers import AF, OF, SF

CODE, DATA, STACK = 0x400000, 0x600000, 0x700000
NOWHERE = 0x1000
GENERAL = ("rax", "rbx", "rcx", "rdx", "rsi")
FLAGS = 0x8D5
SNIPPETS = {
    "vaddps": "vaddps xmm0, xmm1, xmm2",
    "vmovdqa": "vmovdqa xmm0, xmm1",
    "vaddps256": "vaddps ymm0, ymm1, ymm2",
    "vzeroupper": "vzeroupper",
    "adcx": "adcx rax, rbx",
    "sha1msg1": "sha1msg1 xmm0, xmm1",
    "bzhi": "bzhi rax, rbx, rcx",
    "pcmpestrm": "pcmpestrm xmm0, xmm1, 2",
    "blsi": "blsi rax, rbx",
    "andn": "andn rax, rbx, rcx",
    "bextr": "bextr rax, rbx, rcx",
    "bextr32": "bextr eax, ebx, ecx",
    "blsmsk": "blsmsk rax, rbx",
    "blsr": "blsr rax, rbx",
    "mulx": "mulx rax, rbx, rcx",
    "pdep": "pdep rax, rbx, rcx",
    "pext": "pext rax, rbx, rcx",
    "rorx": "rorx rax, rbx, 7",
    "sarx": "sarx rax, rbx, rcx",
    "shlx": "shlx rax, rbx, rcx",
    "shrx": "shrx rax, rbx, rcx",
    "cmpxchg32": "cmpxchg ebx, ecx",
    "cmpxchg64": "cmpxchg rbx, rcx",
    "divss": "divss xmm0, xmm1",
    "rcpps": "rcpps xmm0, xmm1",
    "rsqrtps": "rsqrtps xmm0, xmm1",
    "shl": "shl rax, 5",
    "popcnt": "popcnt rax, rbx",
    "lzcnt": "lzcnt rax, rbx",
    "tzcnt": "tzcnt rax, rbx",
}
NEEDS = {
    "adcx": "adx",
    "sha1msg1": "sha_ni",
    "vaddps": "avx",
    "vmovdqa": "avx",
    "vaddps256": "avx",
    "vzeroupper": "avx",
}
NEEDS |= dict.fromkeys(("bzhi", "mulx", "pdep", "pext", "rorx", "sarx", "shlx", "shrx"), "bmi2")
NEEDS |= dict.fromkeys(("blsi", "andn", "bextr", "bextr32", "blsmsk", "blsr", "tzcnt"), "bmi1")


@dataclass(frozen=True)
class Outcome:
    general: tuple[int, ...]
    flags: int
    vector: bytes
    mxcsr: int


class State(ctypes.Structure):
    _fields_ = (
        ("general", ctypes.c_uint64 * 5),
        ("flags", ctypes.c_uint64),
        ("mxcsr", ctypes.c_uint32),
        ("unused", ctypes.c_uint32 * 3),
        ("vectors", ctypes.c_ubyte * 32 * 3),
    )


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ctypes.CDLL]:
    """All snippets as functions that load a `State`, run, and store it; the bytes of each between two symbols."""
    folder = tmp_path_factory.mktemp("facts")
    registers = ("rax", "rbx", "rcx", "rdx", "rsi")
    save = "\n".join(f"mov [rdi+{8 * i}], {name}" for i, name in enumerate(registers))
    load = "\n".join(f"mov {name}, [rdi+{8 * i}]" for i, name in enumerate(registers))
    wide = "avx" in cpu_features()
    move, kind = ("vmovups", "ymm") if wide else ("movups", "xmm")
    load_vectors = "\n".join(f"{move} {kind}{i}, [rdi+{64 + 32 * i}]" for i in range(3))
    save_vectors = "\n".join(f"{move} [rdi+{64 + 32 * i}], {kind}{i}" for i in range(3))
    text = [".intel_syntax noprefix", ".text"]
    for name, code in SNIPPETS.items():
        text.append(f"""
            .globl run_{name}, begin_{name}, end_{name}
            run_{name}:
            push rbx
            {load_vectors}
            push 0x1f80
            ldmxcsr [rsp]
            pop rbx
            push [rdi+40]
            popfq
            {load}
            begin_{name}: {code}
            end_{name}:
            {save}
            pushfq
            pop [rdi+40]
            stmxcsr [rdi+48]
            {save_vectors}
            pop rbx
            {"vzeroupper" if wide else ""}
            ret""")
    (folder / "s.s").write_text("\n".join(text) + "\n")
    subprocess.run(["gcc", "-shared", "-nostdlib", "-o", str(folder / "s.so"), str(folder / "s.s")], check=True)
    yield ctypes.CDLL(str(folder / "s.so"))


def cpu_features() -> set[str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def bytes_of(library: ctypes.CDLL, name: str) -> bytes:
    begin, end = (ctypes.addressof(ctypes.c_char.in_dll(library, f"{at}_{name}")) for at in ("begin", "end"))
    return ctypes.string_at(begin, end - begin)


def instruction(library: ctypes.CDLL, name: str) -> Instruction:
    decoded = decode(bytes_of(library, name))
    assert isinstance(decoded, Instruction)
    return decoded


Vectors = tuple[bytes, bytes, bytes]
PLAIN = tuple(bytes(4 * [0, 0, 128, 63 + i]) * 2 for i in range(3))


def native(
    library: ctypes.CDLL, name: str, general: tuple[int, ...], vectors: Vectors = PLAIN, flags: int = 0x202
) -> Outcome:
    if NEEDS.get(name, "") not in cpu_features() | {""}:
        pytest.skip(f"this processor has no {NEEDS[name]}")
    state = State()
    state.general[:] = general
    state.flags = flags
    for index, vector in enumerate(vectors):
        ctypes.memmove(ctypes.byref(state, 64 + 32 * index), vector, 32)
    getattr(library, f"run_{name}")(ctypes.byref(state))
    whole = bytes(state)
    return Outcome(tuple(state.general), state.flags & FLAGS, whole[64:96], state.mxcsr)


def emulated(
    library: ctypes.CDLL,
    name: str,
    general: tuple[int, ...],
    vectors: Vectors = PLAIN,
    flags: int = 0x202,
    cpu: int = CPU,
) -> Outcome:
    uc = machine(bytes_of(library, name), cpu)
    uc.reg_write(x86.UC_X86_REG_MXCSR, 0x1F80)
    for register, value in zip(GENERAL, general, strict=True):
        uc.reg_write(getattr(x86, f"UC_X86_REG_{register.upper()}"), value)
    for index, vector in enumerate(vectors):
        uc.reg_write(x86.UC_X86_REG_YMM0 + index, int.from_bytes(vector, "little"))
    uc.reg_write(x86.UC_X86_REG_RFLAGS, flags)
    uc.emu_start(CODE, CODE + len(bytes_of(library, name)))
    return Outcome(
        tuple(uc.reg_read(getattr(x86, f"UC_X86_REG_{register.upper()}")) for register in GENERAL),
        uc.reg_read(x86.UC_X86_REG_RFLAGS) & FLAGS,
        uc.reg_read(x86.UC_X86_REG_YMM0).to_bytes(32, "little"),
        uc.reg_read(x86.UC_X86_REG_MXCSR),
    )


def machine(code: bytes, cpu: int = CPU) -> Uc:
    uc = Uc(UC_ARCH_X86, UC_MODE_64, cpu)
    for address in (CODE, DATA, STACK):
        uc.mem_map(address, 0x2000)
    uc.mem_write(CODE, code + b"\xf4")
    uc.reg_write(x86.UC_X86_REG_RSP, STACK + 0x1000)
    uc.reg_write(x86.UC_X86_REG_RDI, DATA)
    return uc


ZERO = (0, 0, 0, 0, 0)


@pytest.mark.parametrize("name", ["vaddps", "vmovdqa"])
def test_vex_128_runs_silently_as_sse(library: ctypes.CDLL, name: str) -> None:
    assert limit_of(instruction(library, name))
    assert native(library, name, ZERO).vector != emulated(library, name, ZERO).vector


def test_vex_256_is_invalid(library: ctypes.CDLL) -> None:
    assert limit_of(instruction(library, "vaddps256"))
    with pytest.raises(UcError) as caught:
        emulated(library, "vaddps256", ZERO)
    assert caught.value.errno == UC_ERR_INSN_INVALID


def test_vzeroupper_does_nothing(library: ctypes.CDLL) -> None:
    assert limit_of(instruction(library, "vzeroupper"))
    assert native(library, "vzeroupper", ZERO).vector[16:] == bytes(16)
    assert emulated(library, "vzeroupper", ZERO).vector[16:] != bytes(16)


def test_adx_needs_the_cpu_model_that_is_used(library: ctypes.CDLL) -> None:
    general = (2**63, 2**63, 0, 0, 0)
    assert emulated(library, "adcx", general) == native(library, "adcx", general)
    with pytest.raises(UcError):
        emulated(library, "adcx", general, cpu=x86.UC_CPU_X86_HASWELL)


def test_sha_is_missing(library: ctypes.CDLL) -> None:
    """What unicorn does not know ends a run as 'not emulated' without a limit of its own."""
    with pytest.raises(UcError) as caught:
        emulated(library, "sha1msg1", ZERO)
    assert caught.value.errno == UC_ERR_INSN_INVALID


def test_pcmpestrm_with_the_most_negative_length_ends_the_process(library: ctypes.CDLL) -> None:
    assert limit_of(instruction(library, "pcmpestrm"))
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        emulated(library, "pcmpestrm", (0x80000000, 0, 0, 15, 0))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSEGV


def test_bzhi_is_wrong_from_index_64(library: ctypes.CDLL) -> None:
    general = (0, 2**64 - 1, 64, 0, 0)
    assert limit_of(instruction(library, "bzhi"))
    assert native(library, "bzhi", general) != emulated(library, "bzhi", general)


def test_bextr_is_wrong_where_the_field_reaches_beyond_the_operand(library: ctypes.CDLL) -> None:
    assert limit_of(instruction(library, "bextr"))
    whole = (0, 2**64 - 1, 64 << 8, 0, 0)
    assert native(library, "bextr", whole).general[0] == 2**64 - 1
    assert emulated(library, "bextr", whole).general[0] == 2**63 - 1
    narrow = (0, 0x123456789ABCDEF0, 8 | 31 << 8, 0, 0)
    assert native(library, "bextr32", narrow).general[0] == 0x9ABCDE
    assert emulated(library, "bextr32", narrow).general[0] == 0x789ABCDE


def test_blsi_has_a_wrong_carry(library: ctypes.CDLL) -> None:
    general = (0, 12, 0, 0, 0)
    assert limit_of(instruction(library, "blsi"))
    assert native(library, "blsi", general).flags & 1 != emulated(library, "blsi", general).flags & 1


def test_cmpxchg_of_32_bits_clears_half_of_rax(library: ctypes.CDLL) -> None:
    general = (0x1111111122222222, 0x22222222, 3, 0, 0)
    assert limit_of(instruction(library, "cmpxchg32"))
    assert not limit_of(instruction(library, "cmpxchg64"))
    assert native(library, "cmpxchg32", general).general[0] == general[0]
    assert emulated(library, "cmpxchg32", general).general[0] == 0x22222222


VALUES = (0, 1, 7, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 0x123456789ABCDEF0)
UNDEFINED = 0x14
"""AF and PF: undefined after the BMI instructions."""


@pytest.mark.parametrize(
    "name",
    [
        "andn",
        "blsmsk",
        "blsr",
        "mulx",
        "pdep",
        "pext",
        "rorx",
        "sarx",
        "shlx",
        "shrx",
        "popcnt",
        "lzcnt",
        "tzcnt",
    ],
)
def test_bmi_on_general_registers_is_right(library: ctypes.CDLL, name: str) -> None:
    """These are VEX-coded (or new), and emulated all the same."""
    assert not limit_of(instruction(library, name))
    undefined = {"lzcnt": 0x894, "tzcnt": 0x894}.get(name, UNDEFINED)
    for left in VALUES:
        for right in (*VALUES, 0x0805, 63, 64):
            general = (5, left, right, left ^ right, 9)
            expected, found = native(library, name, general), emulated(library, name, general)
            assert found.general == expected.general, general
            assert found.flags & ~undefined == expected.flags & ~undefined, general


def ran(code: str, flags: int, rcx: int = 0) -> int:
    """The flags after some code."""
    uc = machine(bytes.fromhex(code))
    uc.reg_write(x86.UC_X86_REG_RFLAGS, flags)
    uc.reg_write(x86.UC_X86_REG_RCX, rcx)
    uc.emu_start(CODE, CODE + len(code) // 2)
    return int(uc.reg_read(x86.UC_X86_REG_RFLAGS))


def decoded(code: str) -> Instruction:
    found = decode(bytes.fromhex(code))
    assert isinstance(found, Instruction)
    return found


def limit_of_code(code: str) -> str:
    return limit_of(decoded(code))


def test_x87_comparisons_leave_flags_that_the_processor_clears() -> None:
    """`fcomi` clears OF, SF and AF (AMD's manual; `fuzz.rows` shows it on the processor)."""
    assert unsure_flags(decoded("dbf1")) == OF | SF | AF
    assert ran("d9e8dbf1", 0xAD7) & 0x890 == 0x890


def test_a_32_bit_scan_that_finds_nothing_clears_half_of_its_destination() -> None:
    """AMD's manual has it unchanged; `bsf eax, ecx` in tests/cases says what the processor does."""
    assert limit_of_code("0fbcc1")
    assert not limit_of_code("480fbcc1")
    uc = machine(bytes.fromhex("0fbcc1"))
    uc.reg_write(x86.UC_X86_REG_RAX, 2**63 + 1)
    uc.reg_write(x86.UC_X86_REG_RCX, 0)
    uc.emu_start(CODE, CODE + 3)
    assert uc.reg_read(x86.UC_X86_REG_RAX) == 1


def test_a_32_bit_deposit_goes_beyond_bit_31() -> None:
    assert limit_of_code("c4e27bf5c1")
    uc = machine(bytes.fromhex("c4e27bf5c1"))  # pdep eax, eax, ecx
    uc.reg_write(x86.UC_X86_REG_RAX, 1)
    uc.reg_write(x86.UC_X86_REG_RCX, 2**40)
    uc.emu_start(CODE, CODE + 5)
    assert uc.reg_read(x86.UC_X86_REG_RAX) == 2**40


def test_enter_does_not_touch_the_end_of_the_new_frame() -> None:
    """The processor faults where the frame ends in memory that cannot be written."""
    assert limit_of_code("c8000100")
    uc = machine(bytes.fromhex("c8000800"))
    uc.reg_write(x86.UC_X86_REG_RSP, STACK + 0x100)
    uc.emu_start(CODE, CODE + 4)
    assert uc.reg_read(x86.UC_X86_REG_RSP) < STACK


def test_loope_that_ends_by_its_count_loses_flags() -> None:
    """`or al, 1` clears OF; at `loope` with a count of 1 unicorn forgets that it did."""
    assert limit_of_code("e100")
    assert ran("0c01", 0xA02, 1) & 0x800 == 0
    assert ran("0c01e100", 0xA02, 1) & 0x800 == 0x800


def test_lahf_with_a_rex_prefix_takes_spl_for_ah() -> None:
    assert limit_of_code("489f")
    assert not limit_of_code("9f")
    for code, right in (("9f", True), ("489f", False)):
        uc = machine(bytes.fromhex(code))
        uc.reg_write(x86.UC_X86_REG_RAX, 0)
        uc.emu_start(CODE, CODE + len(code) // 2)
        assert bool(uc.reg_read(x86.UC_X86_REG_RAX) >> 8) == right


def test_adox_with_an_operand_size_prefix_is_taken_for_adcx() -> None:
    assert limit_of_code("f366480f38f6c3")
    assert not limit_of_code("f3480f38f6c3")
    for code, right in (("f3480f38f6c3", True), ("f366480f38f6c3", False)):
        uc = machine(bytes.fromhex(code))
        for register, value in ((x86.UC_X86_REG_RAX, 1), (x86.UC_X86_REG_RBX, 1), (x86.UC_X86_REG_EFLAGS, 0x800)):
            uc.reg_write(register, value)
        uc.emu_start(CODE, CODE + len(code) // 2)
        assert (uc.reg_read(x86.UC_X86_REG_RAX) == 3) == right


def test_rorx_relative_to_rip_reads_one_byte_before() -> None:
    # rorx rax, qword ptr [rip + ...], 0 and [rdi]
    code = bytes.fromhex("c4e3fbf005") + (DATA + 8 - CODE - 10).to_bytes(4, "little") + b"\0"
    assert limit_of_code(code.hex())
    assert not limit_of_code("c4e3fbf00700")
    uc = machine(code)
    uc.mem_write(DATA, bytes(range(24)))
    uc.emu_start(CODE, CODE + len(code))
    assert uc.reg_read(x86.UC_X86_REG_RAX) == int.from_bytes(bytes(range(7, 15)), "little")


def test_movbe_is_reported_with_the_value_before_it_is_swapped() -> None:
    assert limit_of_code("0f38f107")
    assert not limit_of_code("0f38f007")
    uc = machine(bytes.fromhex("0f38f107"))
    seen: list[int] = []
    uc.hook_add(UC_HOOK_MEM_WRITE, lambda uc, access, address, size, value, _: seen.append(value))
    uc.reg_write(x86.UC_X86_REG_RAX, 0x10)
    uc.emu_start(CODE, CODE + 4)
    assert seen == [0x10]
    assert bytes(uc.mem_read(DATA, 4)) == b"\0\0\0\x10"


def test_sse_exception_flags_are_never_set(library: ctypes.CDLL) -> None:
    zero = (PLAIN[0], bytes(32), PLAIN[2])
    assert native(library, "divss", ZERO, zero).mxcsr & 0x3F == 4
    assert emulated(library, "divss", ZERO, zero).mxcsr & 0x3F == 0


@pytest.mark.parametrize("name", ["rcpps", "rsqrtps"])
def test_approximations_are_exact(library: ctypes.CDLL, name: str) -> None:
    third = (PLAIN[0], bytes(4 * [0, 0, 64, 64]) * 2, PLAIN[2])
    assert native(library, name, ZERO, third).vector != emulated(library, name, ZERO, third).vector


def test_undefined_flags_differ_from_hardware(library: ctypes.CDLL) -> None:
    """`shl rax, 5` leaves OF and AF undefined: `lifter` says so, and the comparison masks them."""
    general = (0x0C00000000000000, 0, 0, 0, 0)
    expected = native(library, "shl", general, flags=0xAD7)
    found = emulated(library, "shl", general, flags=0xAD7)
    assert expected.flags & ~0x810 == found.flags & ~0x810

    assert instruction(library, "shl").effects.undefined == AF | OF


def test_control_words_start_at_zero() -> None:
    uc = machine(b"")
    assert uc.reg_read(x86.UC_X86_REG_MXCSR) == 0
    assert uc.reg_read(x86.UC_X86_REG_FPCW) == 0


def test_rep_counts_every_iteration() -> None:
    """Code hooks see each iteration; a run of one stretch over itself counts as one execution in `jit.verify`."""
    uc = machine(b"\xf3\xaa")
    seen: list[int] = []
    uc.hook_add(UC_HOOK_CODE, lambda uc, address, size, _: seen.append(address))
    uc.reg_write(x86.UC_X86_REG_RCX, 3)
    uc.emu_start(CODE, CODE + 2)
    assert seen == [CODE] * 4


def test_a_hook_added_after_translation_does_not_fire() -> None:
    """Where the code ended by itself, at least (`hlt`): reaching `until` makes unicorn translate again."""
    uc = machine(b"\x90\x90")
    uc.emu_start(CODE, NOWHERE)
    seen: list[int] = []
    uc.hook_add(UC_HOOK_CODE, lambda uc, address, size, _: seen.append(address))
    uc.emu_start(CODE, NOWHERE)
    assert not seen


def test_an_interrupt_hook_that_only_records_hides_faults() -> None:
    """A division by zero ends without an error then: the event log notes and stops at each."""
    divide = b"\x31\xc9\xf7\xf1"
    with pytest.raises(UcError):
        machine(divide).emu_start(CODE, NOWHERE)
    uc = machine(divide)
    seen: list[int] = []
    uc.hook_add(UC_HOOK_INTR, lambda uc, number, _: seen.append(number))
    uc.emu_start(CODE, NOWHERE)
    assert seen[0] == 0


@pytest.mark.parametrize("code", [b"\xf4", b"\x0f\x05"])
def test_hlt_and_a_system_call_without_hook_are_no_errors(code: bytes) -> None:
    machine(code).emu_start(CODE, CODE + len(code))


def test_misaligned_sse_accesses_do_not_fault() -> None:
    """`movaps xmm0, [rdi+4]`: a wrongly aligned spill of vector registers would not be noticed."""
    machine(b"\x0f\x28\x47\x04").emu_start(CODE, CODE + 4)


def test_addresses_wrap_at_52_bits() -> None:
    """A non-canonical address reaches mapped memory: equal on both sides of a comparison."""
    uc = machine(b"\x48\x8b\x07")
    uc.mem_write(DATA, b"\x2a")
    uc.reg_write(x86.UC_X86_REG_RDI, DATA | 1 << 60)
    uc.emu_start(CODE, CODE + 3)
    assert uc.reg_read(x86.UC_X86_REG_RAX) == 0x2A


def test_privileged_instructions_run() -> None:
    machine(b"\xfa").emu_start(CODE, CODE + 1)
    decoded = decode(b"\xfa")
    assert isinstance(decoded, Instruction)
    assert limit_of(decoded)


@pytest.mark.parametrize(
    ("code", "limited"),
    [
        ("0f31", True),  # rdtsc
        ("0fae07", True),  # fxsave: stores the address of the last x87 instruction
        ("d937", True),  # fnstenv
        ("c5f877", True),  # vzeroupper
        ("62f17c4858c1", True),  # vaddps zmm
        ("660f58c1", False),  # addpd
        ("f30fb8c3", False),  # popcnt
        ("90", False),
        ("f3c3", False),  # rep ret
        ("8f00", False),  # pop [rax], which shares its opcode with XOP
    ],
)
def test_limits_by_bytes(code: str, limited: bool) -> None:
    decoded = decode(bytes.fromhex(code))
    assert isinstance(decoded, Instruction)
    assert bool(limit_of(decoded)) == limited
