"""Instrumented code executes no more instructions than it did: counted, not timed."""

from __future__ import annotations

import pytest

from bench import guard

PROFILE = """\
events: Ir
ob=(1) /tmp/x/prog
fn=(1) main
12 100
cfn=(2) helper
calls=3 20
12 5000
+2 30
ob=(2) /usr/lib/x86_64-linux-gnu/libc.so.6
fn=(3) puts
7 900
cob=(1)
cfn=(1)
calls=1 12
* 77
ob=(3) ???
fn=(4) 0x4000
0 40
"""


def test_calls_and_libraries_are_not_counted() -> None:
    assert guard.executed(PROFILE) == 100 + 30 + 40


def test_what_is_slower_is_found() -> None:
    made_with, everything = guard.read_expected()
    kept = everything["loops"]
    assert guard.slower("loops", kept) == []
    assert guard.slower("loops", {variant: ratio / 2 for variant, ratio in kept.items()}) == []
    worse = guard.slower("loops", {**kept, "block": kept["block"] * 1.2})
    assert [(problem.program, problem.variant) for problem in worse] == [("loops", "block")]
    if made_with == guard.compiler():
        assert guard.slower("loops", {**kept, "block": kept["block"] * 1.05})


@pytest.mark.needs("gcc", "valgrind")
@pytest.mark.parametrize("program", guard.SAMPLES)
def test_instructions(program: str) -> None:
    assert guard.read_expected()[1][program].keys() == guard.VARIANTS.keys()
    problems = guard.slower(program, guard.measure(program))
    assert not problems, "\n".join(map(str, problems)) + "\nif it must be so: python -m bench.guard --update"
