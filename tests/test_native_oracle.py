from __future__ import annotations

import errno
import signal

import pytest

from fuzz.native import CODE_ADDRESS, DATA, STACK, NativeOracle, OracleError
from fuzz.state import Batch, Region, State
from lifter.registers import RAX, RBX, RCX, RDX, RSP

READ_ONLY = Region(0x4000_0000, 4096, writable=False, content=b"constant")


@pytest.fixture(scope="module")
def oracle():
    with NativeOracle((DATA, STACK, READ_ONLY), capacity=64) as opened:
        yield opened


def state(flags=0x202, memory=None, **registers):
    gprs = [0] * 16
    gprs[RSP] = STACK.end
    for name, value in registers.items():
        gprs[{"rax": RAX, "rcx": RCX, "rdx": RDX, "rbx": RBX, "rsp": RSP}[name]] = value
    return State(tuple(gprs), flags, memory=memory or {})


def run(oracle, code, given):
    return oracle.run(bytes.fromhex(code), [given])[0]


def test_registers_and_flags_go_in_and_come_out(oracle):
    outcome = run(oracle, "4801d8", state(rax=2**64 - 1, rbx=1))  # add rax, rbx
    assert outcome.signal == 0
    assert outcome.state.rip == CODE_ADDRESS + 3
    assert outcome.state.gprs[RAX] == 0
    assert outcome.state.gprs[RBX] == 1
    assert outcome.state.flags & 0x8D5 == 0x55  # carry, parity, adjust, zero


def test_memory_goes_in_and_comes_out(oracle):
    given = state(rbx=DATA.address, rax=5, memory={DATA.address: b"\x07\0\0\0\0\0\0\0"})
    outcome = run(oracle, "480103", given)  # add [rbx], rax
    assert outcome.state.memory[DATA.address][:9] == b"\x0c" + bytes(8)
    assert outcome.state.memory[STACK.address] == bytes(STACK.size)


def test_upper_halves_of_vectors(oracle):
    vectors = bytes(range(256)) * 2
    given = State((0,) * 16, vectors=vectors)
    outcome = run(oracle, "c5fd6fd9", given)  # vmovdqa ymm3, ymm1
    assert outcome.state.vectors[96:128] == vectors[32:64]
    outcome = run(oracle, "c5f96fd9", given)  # vmovdqa xmm3, xmm1
    assert outcome.state.vectors[96:128] == vectors[32:48] + bytes(16)


def test_x87_and_mxcsr(oracle):
    outcome = run(oracle, "d9e8", State((0,) * 16))  # fld1
    assert outcome.state.x87[24:34] == bytes.fromhex("0000000000000080ff3f")
    given = state(rbx=DATA.address, memory={DATA.address: (0x7F80).to_bytes(4, "little")})
    outcome = run(oracle, "0fae13", given)  # ldmxcsr [rbx]
    assert outcome.state.mxcsr == 0x7F80


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("0f0b", signal.SIGILL),  # ud2
        ("48f7f1", signal.SIGFPE),  # div rcx, by zero
        ("ebfe", signal.SIGPROF),  # jmp $
        ("f4", signal.SIGSEGV),  # hlt
        ("cc90", signal.SIGTRAP),  # int3 that is code
    ],
)
def test_faults_and_endless_loops_are_survived(oracle, code, number):
    assert run(oracle, code, state()).signal == number
    assert run(oracle, "90", state()).signal == 0


def test_page_faults_tell_address_and_direction(oracle):
    read = run(oracle, "488b03", state(rbx=0x1234))  # mov rax, [rbx]
    assert (read.signal, read.fault_address, read.fault_write) == (signal.SIGSEGV, 0x1234, False)
    assert read.state.rip == CODE_ADDRESS
    written = run(oracle, "488903", state(rbx=0x1234))  # mov [rbx], rax
    assert (written.fault_address, written.fault_write) == (0x1234, True)


def test_read_only_region_keeps_its_content(oracle):
    outcome = run(oracle, "488b03", state(rbx=READ_ONLY.address))
    assert outcome.state.gprs[RAX].to_bytes(8, "little") == b"constant"
    assert run(oracle, "488903", state(rbx=READ_ONLY.address)).fault_write


def test_a_system_call_kills_only_its_own_run(oracle):
    code = bytes.fromhex("4885c074020f05")  # test rax, rax; je end; syscall
    outcomes = oracle.run(code, [state(), state(rax=39), state()])
    assert [outcome.signal for outcome in outcomes] == [0, -signal.SIGKILL, 0]


def test_no_system_call_reaches_a_file_of_ours(oracle):
    code = "b801000000 bf01000000 89de ba01000000 0f05".replace(" ", "")  # write(1, rbx, 1)
    assert run(oracle, code, state(rbx=READ_ONLY.address)).state.gprs[RAX] == 2**64 - errno.EBADF


def test_all_oracles_of_a_process_run_on_one_core(oracle):
    with NativeOracle((DATA, STACK), capacity=4) as other:
        found = {run(each, "b8010000000fa2", state()).state.gprs[RBX] for each in [oracle, other] * 20}
    assert len(found) == 1  # CPUID, leaf 1: EBX has the core's number


def test_code_can_leave_through_a_jump(oracle):
    outcome = run(oracle, "ffe3", state(rbx=0x7777))  # jmp rbx
    assert (outcome.signal, outcome.state.rip, outcome.fault_address) == (signal.SIGSEGV, 0x7777, 0x7777)


def test_batches_beyond_the_capacity(oracle):
    states = [state(rax=number, rbx=1) for number in range(150)]
    results = oracle.run_batch(bytes.fromhex("4801d8"), Batch.of(states, oracle.regions))
    assert results.final.gprs[:, RAX].tolist() == list(range(1, 151))


def test_states_survive_the_way_through_arrays(oracle):
    given = State(tuple(range(16)), vectors=bytes(range(256)) * 2, memory={DATA.address: bytes(range(256)) * 16})
    outcome = run(oracle, "90", given)
    assert outcome.state.gprs == given.gprs
    assert outcome.state.vectors == given.vectors
    assert outcome.state.x87 == given.x87
    assert outcome.state.memory[DATA.address] == given.memory[DATA.address]


def test_a_region_in_the_way_is_an_error():
    with pytest.raises(OracleError, match="taken"):
        NativeOracle((DATA, DATA))
