"""The emulated machine: what it maps, where runs end, and that each run starts from the same memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from codecache.types import Overlay, Patch
from jit import event_log
from jit.emulate import BESIDE, CALLS_PER_RUN, PC_WORD, TOP_WORD, ExitKind, Machine, Run, Tracer
from jit.emulated_memory import (
    ARENAS,
    CALLBACKS,
    PAGE,
    PIE_BASE,
    RETURN,
    STACK_ENTRY,
    STUBS,
    THREAD,
    EmulatedMemory,
    World,
    lay_out,
)
from jit.random_state import State, random_state
from lifter.image.types import Function, Image, Kind, Segment
from lifter.registers import RAX, RBX, RDI, RSI, RSP

TEXT, DATA = 0x1000, 0x3000


def image(
    code: bytes, kind: Kind = Kind.PIE, got: dict[int, str] | None = None, words: dict[int, int] | None = None
) -> Image:
    segments = (
        Segment(TEXT, len(code), 0, code, True, False, True),
        Segment(DATA, 64, 0, b"\x11" * 16, True, True, False),
    )
    return Image(
        path=Path("none"), content=b"", kind=kind, is_static=False, is_go=False, entry=0, build_id="", soname="",
        segments=segments, sections=(), functions=(Function(TEXT, len(code), "f", "f"),), plt={}, got=got or {},
        imports=frozenset(), needed=(), code_pointers=frozenset(), words=words or {},
    )  # fmt: skip


def memory(code: str, **options: dict[int, str] | dict[int, int] | Kind) -> EmulatedMemory:
    return lay_out(image(bytes.fromhex(code), **options), 1)  # type: ignore[arg-type]


def state(**registers: int) -> State:
    values = [0] * 16
    values[RSP] = STACK_ENTRY - 8
    for name, value in registers.items():
        values[{"rax": RAX, "rbx": RBX, "rdi": RDI, "rsi": RSI}[name]] = value
    return State(tuple(values), 0x202, (0,) * 16, 5, World.FRESH)


def run(code: str, **registers: int) -> Run:
    mapped = memory(code)
    return Machine(mapped).run(TEXT + mapped.base, state(**registers))


def events(run: Run) -> list[tuple[int, int, int, int]]:
    records = run.records
    return [tuple(int(row[name]) for name in ("kind", "place", "value", "size")) for row in records]  # type: ignore[misc]


def test_a_run_ends_where_the_function_returns() -> None:
    done = run("48893e c3", rdi=7, rsi=ARENAS)  # mov [rsi], rdi; ret
    assert [(left.kind, left.target) for left in done.exits] == [(ExitKind.RETURN, RETURN)]
    base = PIE_BASE + TEXT
    assert events(done) == [
        (event_log.BLOCK, base, base | 4 << event_log.KEY_SHIFT, 4),
        (event_log.WRITE, ARENAS, 7, 8),
        (event_log.BLOCK, STUBS, STUBS | 1 << event_log.KEY_SHIFT, 1),
    ]
    assert done.exits[0].registers[RSP] == STACK_ENTRY
    assert set(done.records["stack"].tolist()) == {STACK_ENTRY - 8, STACK_ENTRY}


@pytest.mark.parametrize(
    ("code", "size", "value"),
    [
        ("408837", 1, 0x88), ("668937", 2, 0x7788), ("8937", 4, 0x55667788), ("488937", 8, 0x1122334455667788),
        ("f00137", 4, None), ("f0480fc137", 8, None), ("6a05", 8, 5),
    ],
)  # fmt: skip
def test_writes_are_recorded_in_their_size(code: str, size: int, value: int | None) -> None:
    done = run(code + "0f0b", rdi=ARENAS, rsi=0x1122334455667788)
    written = [event for event in events(done) if event[0] == event_log.WRITE]
    assert len(written) == 1
    assert written[0][3] == size
    assert written[0][2] < 1 << 8 * size
    assert value is None or written[0][2] == value


@pytest.mark.parametrize(
    ("code", "kind", "target"),
    [
        ("0f05c3", ExitKind.SYSCALL, "syscall"),
        ("cc", ExitKind.TRAP, "interrupt 3"),
        ("cd80c3", ExitKind.TRAP, "interrupt 128"),
        ("31c9f7f1c3", ExitKind.TRAP, "interrupt 0"),
        ("0f0b", ExitKind.TRAP, "invalid instruction"),
        ("f4", ExitKind.TRAP, "hlt"),
        ("8b042508000000c3", ExitKind.FAULT, "read of 0x8"),
        ("89042508000000c3", ExitKind.FAULT, "write to 0x8"),
        ("c605f9ffffff00c3", ExitKind.FAULT, f"forbidden access to {PIE_BASE + TEXT:#x}"),
        ("ffe7", ExitKind.JUMP, f"{ARENAS:#x}"),
        ("ff2504000000", ExitKind.JUMP, "0x0"),
        ("ebfe", ExitKind.BUDGET, "instructions"),
        ("b9ffffff7ff3aac3", ExitKind.BUDGET, "instructions"),
    ],
)
def test_how_runs_end(code: str, kind: ExitKind, target: str) -> None:
    done = run(code, rdi=ARENAS)
    assert (done.exits[-1].kind, done.exits[-1].target) == (kind, target)


def test_writes_are_undone_before_the_next_run() -> None:
    mapped = memory("48893e c3")
    machine = Machine(mapped)
    entry = TEXT + mapped.base
    before = machine.read(ARENAS + PAGE - 4, 8)
    crossing = state(rdi=0x1234567812345678, rsi=ARENAS + PAGE - 4)
    machine.run(entry, crossing)
    assert machine.read(ARENAS + PAGE - 4, 8) != before
    machine.run(entry, state(rdi=1, rsi=ARENAS + 8 * PAGE))
    assert machine.read(ARENAS + PAGE - 4, 8) == before


def test_pages_that_are_unmapped_in_between_are_restored_too() -> None:
    """mov [rdi], rsi; mov [rsi], rdi; ret: one block all the time, and so many others that all are unmapped again."""
    mapped = memory("488937 48893e c3")
    machine = Machine(mapped)
    entry, place = TEXT + mapped.base, 0x123456780000
    start, content = mapped.on_demand(place) or (0, b"")
    assert start == place
    for block in range(1, 200):
        machine.run(entry, state(rdi=place, rsi=place + len(content) * block))
        machine.run(entry, state(rdi=place + 8, rsi=place + len(content) * block))
        assert machine.read(place, 8) == content[:8]


def test_runs_from_the_same_state_are_equal() -> None:
    mapped = memory("488b07 48ff00 488b00 488903 c3")
    first, second = Machine(mapped), Machine(mapped)
    for number in range(30):
        start = random_state(mapped, 9, number)
        first.run(TEXT + mapped.base, random_state(mapped, 10, number))
        two = second.run(TEXT + mapped.base, start)
        again = first.run(TEXT + mapped.base, start)
        assert np.array_equal(again.records, two.records)
        assert np.array_equal(again.exits[-1].registers, two.exits[-1].registers)


def test_plausible_addresses_are_mapped_when_touched() -> None:
    """Both pages of an access that crosses, with content that follows from seed and address."""
    far = 0x12345678FFFC
    mapped = memory("488b07 488907 c3")
    machine = Machine(mapped)
    done = machine.run(TEXT + mapped.base, state(rdi=far))
    start, content = mapped.on_demand(far) or (0, b"")
    after, next_content = mapped.on_demand(far + 4) or (0, b"")
    assert after == start + len(content)
    expected = content[far - start :] + next_content[:4]
    assert done.exits[-1].kind is ExitKind.RETURN
    assert done.exits[-1].registers[RAX] == int.from_bytes(expected, "little")


@pytest.mark.parametrize("world", list(World))
def test_null_pointers_lead_somewhere_in_lenient_worlds(world: World) -> None:
    mapped = lay_out(image(bytes.fromhex("488b07 c3")), 1, (), world)
    done = Machine(mapped).run(TEXT + mapped.base, state(rdi=8))
    assert done.exits[-1].kind is (ExitKind.FAULT if world is World.FRESH else ExitKind.RETURN)


@pytest.mark.parametrize("world", list(World))
def test_null_pointers_fault_in_any_world_of_go(world: World) -> None:
    mapped = lay_out(replace(image(bytes.fromhex("488b87f80f0000 c3")), is_go=True), 1, (), world)
    done = Machine(mapped).run(TEXT + mapped.base, state(rdi=0xFFF))
    assert done.exits[-1].kind is ExitKind.FAULT


def test_nothing_is_mapped_beside_the_image() -> None:
    """Where an overlay will lie, or a bug would write."""
    mapped = lay_out(image(bytes.fromhex("488b07 c3")), 1, (), World.LENIENT)
    last = Machine(mapped).run(TEXT + mapped.base, state(rdi=PIE_BASE + 0x2000)).exits[-1]
    assert (last.kind, last.target) == (ExitKind.FAULT, BESIDE)


def test_too_much_memory_end_a_run_and_the_next_is_not_disturbed() -> None:
    """add rdi, 0x10000000; mov [rdi], rdi; jmp to the start."""
    mapped = memory("4881c700000010 48893f ebf4")
    machine = Machine(mapped)
    for _ in range(6):
        last = machine.run(TEXT + mapped.base, state(rdi=0x100000000000)).exits[-1]
        assert (last.kind, last.target) == (ExitKind.BUDGET, "memory")
    more = machine.run(TEXT + mapped.base, state(rdi=0x100000000000), blocks=100)
    assert len(more.records) > 150


def test_calls_of_the_outside_are_stubbed_and_clobber_registers() -> None:
    """call [slot]; mov rbx, rax; call [slot]; ret."""
    slot = {DATA + 8: "puts"}
    mapped = memory("ff1502200000 4889c3 ff15f91f0000 c3", got=slot)
    machine = Machine(mapped)
    done = machine.run(TEXT + mapped.base, state(rdi=77, rbx=5))
    assert [(left.kind, left.target) for left in done.exits] == [
        (ExitKind.CALL, "puts"), (ExitKind.CALL, "puts"), (ExitKind.RETURN, RETURN),
    ]  # fmt: skip
    first, second, last = (left.registers for left in done.exits)
    assert first[RDI] == 77
    assert first[TOP_WORD] == PIE_BASE + TEXT + 6
    assert first[PC_WORD] == mapped.stub_address("puts") + 1
    assert second[RDI] != 77
    assert second[RBX] == second[RAX]
    assert last[RSP] == STACK_ENTRY
    again = machine.run(TEXT + mapped.base, state(rdi=77, rbx=5))
    assert np.array_equal(again.exits[1].registers, second)


def test_an_outside_function_that_never_returns_ends_the_run() -> None:
    mapped = memory("ff1502200000 0f0b", got={DATA + 8: "abort"})
    done = Machine(mapped).run(TEXT + mapped.base, state())
    assert [(left.kind, left.target) for left in done.exits] == [(ExitKind.CALL, "abort")]


def test_endless_calls_end_a_run() -> None:
    mapped = memory("ff1502200000 ebf8", got={DATA + 8: "getc"})
    done = Machine(mapped).run(TEXT + mapped.base, state())
    assert len(done.exits) == CALLS_PER_RUN + 1
    assert done.exits[-1].kind is ExitKind.BUDGET


def test_the_loaders_work_is_done() -> None:
    mapped = memory("c3", got={DATA + 8: "puts", DATA + 24: "local"}, words={DATA + 16: TEXT, DATA + 24: TEXT})
    machine = Machine(mapped)
    words = np.frombuffer(machine.read(PIE_BASE + DATA, 64), "<u8").tolist()
    assert words[:4] == [0x1111111111111111, mapped.stub_address("puts"), PIE_BASE + TEXT, PIE_BASE + TEXT]
    assert words[4:] == [0] * 4
    assert len(mapped.stubs) == 1 + CALLBACKS + 2


def test_wild_memory_has_no_zeros_in_variables() -> None:
    plain, wild = (lay_out(image(b"\xc3"), 1, (), world) for world in (World.FRESH, World.WILD))
    data = [np.frombuffer(Machine(mapped).read(PIE_BASE + DATA, PAGE), "<u8") for mapped in (plain, wild)]
    assert np.array_equal(data[0][:2], data[1][:2])
    assert not data[0][2:].any()
    assert np.count_nonzero(data[1]) > len(data[1]) // 2


def test_a_fixed_image_keeps_its_addresses() -> None:
    mapped = memory("c3", kind=Kind.FIXED)
    assert mapped.base == 0
    assert Machine(mapped).run(TEXT, state()).exits[-1].kind is ExitKind.RETURN


def test_thread_local_storage_is_there() -> None:
    """mov rax, fs:[0x28]; mov fs:[-8], rax; ret."""
    done = run("64488b042528000000 6448890425f8ffffff c3")
    assert done.exits[-1].kind is ExitKind.RETURN
    assert [place for kind, place, _, _ in events(done) if kind == event_log.WRITE] == [THREAD - 8]


def test_the_overlay_is_mapped_at_the_same_base() -> None:
    """The patch jumps to code that counts and returns 3."""
    target = 0x10000
    code = bytes.fromhex("48ff05f90f0000 b803000000 c3")
    patch = Patch(TEXT, b"\x90" * 5, b"\xe9" + (target - TEXT - 5).to_bytes(4, "little"))
    overlay = Overlay(target, code, target + PAGE, bytes(16), (patch,))
    mapped = lay_out(image(b"\x90" * 5 + b"\xc3"), 1, [(target, target + 2 * PAGE)])
    machine = Machine(mapped, overlay)
    for _ in range(2):
        done = machine.run(TEXT + PIE_BASE, state())
        assert done.exits[-1].registers[RAX] == 3
        assert machine.read(PIE_BASE + target + PAGE, 8) == (1).to_bytes(8, "little")


def test_a_tracer_names_the_instruction_behind_each_record() -> None:
    mapped = memory("90 48893e 90 48893e c3")
    entry = TEXT + mapped.base
    trace = Tracer(mapped, None).instructions(entry, state(rsi=ARENAS), 1000)
    assert trace == [(0, entry), (0, entry + 1), (1, entry + 4), (1, entry + 5), (2, entry + 8), (2, STUBS)]


def test_a_tracer_notes_reads_of_code() -> None:
    """mov eax, [rip]; ret: reads itself."""
    mapped = memory("8b0500000000 c3 909090")
    reads = Tracer(mapped, None).reads(TEXT + mapped.base, state(), 1000)
    assert reads == [(0, TEXT + mapped.base + 6, 4)]


def test_scribbling_changes_dead_stack_only() -> None:
    """mov rax, [rsp-128]; jmp next; mov rbx, [rsp-136]; ret: the second is below the red zone."""
    mapped = memory("488b442480 eb00 488b9c2478ffffff c3")
    entry = TEXT + mapped.base
    plain = Machine(mapped).run(entry, state()).exits[-1].registers
    scribbled = Machine(mapped, scribble=128).run(entry, state()).exits[-1].registers
    assert plain[RAX] == scribbled[RAX]
    assert plain[RBX] != scribbled[RBX]


def test_states_follow_from_seed_and_number() -> None:
    mapped = memory("c3")
    assert random_state(mapped, 1, 2) == random_state(mapped, 1, 2)
    assert random_state(mapped, 1, 2) != random_state(mapped, 1, 3)
    assert random_state(mapped, 1, 2) != random_state(mapped, 2, 2)
    for number in range(50):
        start = random_state(mapped, 1, number)
        assert start.registers[RSP] % 16 == 8
        assert start.flags & 0x602 == 0x202
