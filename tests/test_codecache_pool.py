"""Compiling in worker processes, and what LLVM cannot take."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import codecache_samples as samples
import pytest

from codecache import CompiledRegion, CompileFailure, Compiler, RegionSource, Store, compile_batch, decode, encode
from codecache.pool import _BATCH_REGIONS

GOOD = (samples.branch(), samples.switching(), samples.spilling(), samples.addressing())


def distinct(source: RegionSource, number: int) -> RegionSource:
    """Other text, same code."""
    return replace(source, text=source.text + f"; {number}\n")


@pytest.fixture(scope="module")
def compiler() -> Iterator[Compiler]:
    with Compiler(2) as compiler:
        yield compiler


def test_results_equal_those_of_this_process(compiler: Compiler) -> None:
    assert dict(compiler.compile_all(GOOD)) == dict(enumerate(compile_batch(GOOD)))


def test_equal_sources_are_compiled_once(compiler: Compiler) -> None:
    before = compiler.misses
    counts: list[int] = []
    results = dict(compiler.compile_all([distinct(GOOD[i % 2], 0) for i in range(100)], counts.append))
    assert compiler.misses - before == 2
    assert counts == list(range(1, 101))
    assert set(results) == set(range(100))
    assert results[0] == results[98] != results[1] == results[99]


def test_sources_are_asked_for_as_they_are_needed(compiler: Compiler) -> None:
    asked = 0

    def sources() -> Iterator[RegionSource]:
        nonlocal asked
        for number in range(40 * _BATCH_REGIONS):
            asked += 1
            yield distinct(GOOD[0], 1000 + number)

    with Compiler(1) as own:
        results = own.compile_all(sources())
        next(results)
        assert asked <= 10 * _BATCH_REGIONS
        results.close()  # type: ignore[attr-defined]


def test_a_region_that_ends_llvm_fails_alone(compiler: Compiler) -> None:
    sources = [distinct(GOOD[i % 4], 2000 + i) for i in range(24)]
    sources[5] = samples.hopeless()
    sources[17] = replace(GOOD[0], text=GOOD[0].text.replace("jmp L_x0", "frobnicate"))
    sources[20] = replace(GOOD[0], text=GOOD[0].text.replace("%n, 1", "%n, nothing"))
    results = dict(compiler.compile_all(sources))
    expected = compile_batch(GOOD)
    for i, result in results.items():
        if i in (5, 17, 20):
            assert isinstance(result, CompileFailure)
        else:
            assert result == expected[i % 4]
    assert results[5] == CompileFailure("LLVM gave up: error: inline assembly requires more registers than available")
    assert "frobnicate" in str(results[17])
    assert "LLVM rejects the IR" in str(results[20])


def test_a_worker_killed_from_outside_costs_no_region() -> None:
    with Compiler(1) as compiler:
        sources = [distinct(GOOD[1], 3000 + i) for i in range(2 * _BATCH_REGIONS)]
        results: dict[int, object] = {}
        for index, result in compiler.compile_all(sources):
            if not results:
                compiler._workers[0].process.kill()
            results[index] = result
    assert len(results) == len(sources)
    assert all(isinstance(result, CompiledRegion) for result in results.values())


def test_a_region_that_takes_too_long_fails_alone() -> None:
    # a region too large for the time allowed, beside small ones
    body = "".join(f"  %v{i} = mul i64 %v{i - 1}, %v{max(0, i - 9)}\n" for i in range(1, 60_000))
    text = samples.region("  %v0 = add i64 %rax, 1\n" + body + samples.leave("x0", {"rax": "%v59999"}), ("rax",))
    sources = [distinct(GOOD[0], 4000), samples.source(text), distinct(GOOD[3], 4001)]
    with Compiler(1, timeout=1.5) as compiler:
        results = dict(compiler.compile_all(sources))
    assert results[1] == CompileFailure("compiling took more than 1.5 seconds")
    assert isinstance(results[0], CompiledRegion)
    assert isinstance(results[2], CompiledRegion)


def test_a_worker_that_has_grown_too_large_is_replaced() -> None:
    with Compiler(1, memory=1) as compiler:
        sources = [distinct(GOOD[0], 5000 + i) for i in range(3 * _BATCH_REGIONS)]
        seen = set()
        count = 0
        for _, result in compiler.compile_all(sources):
            seen |= {worker.process.pid for worker in compiler._workers}
            count += isinstance(result, CompiledRegion)
    assert count == len(sources)
    assert len(seen) > 1


def test_the_store_saves_compiling(tmp_path: Path) -> None:
    sources = [*GOOD, replace(GOOD[0], text=GOOD[0].text.replace("jmp L_x0", "jmp elsewhere")), samples.hopeless()]
    with Compiler(1, Store.open(tmp_path)) as compiler:
        first = dict(compiler.compile_all(sources))
        assert (compiler.hits, compiler.misses) == (0, 6)
    with Compiler(1, Store.open(tmp_path)) as compiler:
        again = dict(compiler.compile_all([*sources, *sources]))
        assert (compiler.hits, compiler.misses) == (6, 0)
        assert not compiler._workers
    assert again == {**first, **{i + 6: result for i, result in first.items()}}
    assert first[4] == CompileFailure("undefined symbol elsewhere")


def test_a_stored_entry_that_is_no_result_is_a_miss(tmp_path: Path) -> None:
    from codecache import source_key

    store = Store.open(tmp_path)
    store.put_many({source_key(GOOD[0]): b"R nonsense"})
    with Compiler(1, store) as compiler:
        assert dict(compiler.compile_all(GOOD[:1])) == {0: compile_batch(GOOD[:1])[0]}
        assert (compiler.hits, compiler.misses) == (0, 1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(how: signal.Signals) -> None:
    code = """
import sys
sys.path[:0] = sys.argv[1:]
import codecache_samples as samples
from codecache import Compiler
from dataclasses import replace
source = samples.switching()
with Compiler(2) as compiler:
    compiler.start()
    print(*[w.process.pid for w in compiler._workers], flush=True)
    for _ in compiler.compile_all(replace(source, text=source.text + f"; {i}") for i in range(100_000)):
        pass
"""
    here = Path(__file__).parent
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(here.parent), str(here)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(0.5)
    if how is signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does
    else:
        parent.send_signal(how)
    parent.wait(10)
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(_alive(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_results_survive_encoding() -> None:
    for result in (*compile_batch(GOOD), CompileFailure("because — of this")):
        assert decode(encode(result)) == result


def test_damaged_encodings_are_told() -> None:
    content = encode(compile_batch(GOOD[1:2])[0])
    for damaged in (b"", b"R", content[:20], content[: len(content) // 2], b"X" + content[1:]):
        with pytest.raises(ValueError, match="not an encoded region"):
            decode(damaged)
