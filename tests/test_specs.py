"""Specs: what is accepted, what is wrong in what way, and which functions are meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jit.specs import load_specs, match, names_of, parse_spec, select, without_parameters
from jit.tracepoints import Point, Spec
from lifter.errors import RefusedError, UsageError
from lifter.image.types import Function

ACCEPTED = {
    "entry:main": Spec(Point.ENTRY, "main"),
    "return:parse_*": Spec(Point.RETURN, "parse_*"),
    "block:*": Spec(Point.BLOCK, "*"),
    "block:*=count": Spec(Point.BLOCK, "*"),
    "insn:main+0x1f": Spec(Point.INSN, "main", 0x1F),
    "insn:main+31": Spec(Point.INSN, "main", 31),
    "insn:0x401136": Spec(Point.INSN, "0x401136"),
    "insn:0x401130+0x6=count": Spec(Point.INSN, "0x401130", 6),
    "insn:operator++0x4": Spec(Point.INSN, "operator+", 4),
    "entry:0x401136": Spec(Point.ENTRY, "0x401136"),
    "entry:main=probes.py:seen": Spec(Point.ENTRY, "main", action="probes.py:seen"),
    "entry:main=../a b/p.py:_x1": Spec(Point.ENTRY, "main", action="../a b/p.py:_x1"),
    "entry:operator==": Spec(Point.ENTRY, "operator=="),
    "entry:X::operator=": Spec(Point.ENTRY, "X::operator="),
    "entry:operator<=": Spec(Point.ENTRY, "operator<="),
    "entry:X::operator+=(int)": Spec(Point.ENTRY, "X::operator+=(int)"),
    "entry:operator===p.py:seen": Spec(Point.ENTRY, "operator==", action="p.py:seen"),
    "entry:X::operator==count": Spec(Point.ENTRY, "X::operator=", action="count"),
    "entry:std::map<int, X>::at(int const&)": Spec(Point.ENTRY, "std::map<int, X>::at(int const&)"),
    "entry:<T as Iterator<Item=u8>>::next": Spec(Point.ENTRY, "<T as Iterator<Item=u8>>::next"),
    "entry:operator+": Spec(Point.ENTRY, "operator+"),
    "entry:count": Spec(Point.ENTRY, "count"),
    "entry:libc.so.6!malloc": Spec(Point.ENTRY, "malloc", module="libc.so.6"),
    "insn:lib*!f+0x4=p.py:x": Spec(Point.INSN, "f", 4, "p.py:x", module="lib*"),
    "entry:libstdc++.so.6!operator!=": Spec(Point.ENTRY, "operator!=", module="libstdc++.so.6"),
    "entry:operator!": Spec(Point.ENTRY, "operator!"),
    "entry:operator!=": Spec(Point.ENTRY, "operator!="),
    "entry:X::operator!=": Spec(Point.ENTRY, "X::operator!="),
    "entry:[!ab]*": Spec(Point.ENTRY, "[!ab]*"),
}


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepted(text: str) -> None:
    spec = parse_spec(text)
    assert spec == ACCEPTED[text]
    assert parse_spec(str(spec)) == spec


WRONG = {
    "": "expected POINT:FUNCTION",
    "main": "expected POINT:FUNCTION",
    "entry": "expected POINT:FUNCTION",
    "enter:main": "POINT one of entry, return, block, insn",
    "entry:": "no function given",
    "entry: ": "no function given",
    "entry:=count": "no function given",
    "entry:main=cuont": "the action 'cuont' is neither",
    "entry:main=probes.py": "the action 'probes.py' is neither",
    "entry:main=probes.py:": "the action 'probes.py:' is neither",
    "entry:main=": "the action '' is neither",
    "entry:parse_*=p.txt:x": "the action 'p.txt:x' is neither",
    "entry:main+0x4": "only insn takes an offset",
    "insn:main": "insn needs an offset or an address",
    "insn:main+": "insn needs an offset or an address",
    "insn:+0x4": "insn needs an offset",
    "entry:0xnowhere": "'0xnowhere' is no address",
    "entry:0x11111111111111111": "is no address",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(text)
    assert WRONG[text] in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40).map(lambda text: f"entry:{text}") | st.text(max_size=20))
def test_any_text_is_a_spec_or_wrong_use(text: str) -> None:
    try:
        spec = parse_spec(text)
    except UsageError as error:
        assert str(error)
    else:
        assert parse_spec(str(spec)) == spec


def function(address: int, name: str, *aliases: str, size: int = 16) -> Function:
    return Function(address, size, name, aliases)


FUNCTIONS = (
    function(0x1000, "main"),
    function(0x1010, "parse_header", "parse_first"),
    function(0x1020, "parse_body"),
    function(0x1030, "_ZN2ns3runEiPKc"),
    function(0x1040, "_ZNK1XixEi"),
    function(0x1050, "_ZN1XC1Ev", "_ZN1XC2Ev"),
    function(0x1060, "_ZN1XclEi"),
    function(0x1070, "_Z5namesB5cxx11v"),
    function(0x1080, "fn_1080", size=0),
)


def named(pattern: str) -> list[str]:
    return [found.name for found in select(pattern, FUNCTIONS)]


def test_selection() -> None:
    assert len(named("*")) == len(FUNCTIONS)
    assert named("main") == ["main"]
    assert named("MAIN") == []
    assert named("parse_*") == ["parse_header", "parse_body"]
    assert named("parse_first") == ["parse_header"]
    assert named("ns::run") == named("ns::*") == named("_ZN2ns*") == ["_ZN2ns3runEiPKc"]
    assert named("ns::run(int, char const*)") == ["_ZN2ns3runEiPKc"]
    assert named("X::operator[]") == named("X::operator[[]*") == ["_ZNK1XixEi"]
    assert named("X::operator()") == ["_ZN1XclEi"]
    assert named("X::X") == ["_ZN1XC1Ev"]
    assert named("names[abi:cxx11]()") == named("names[abi:cxx11]") == ["_Z5namesB5cxx11v"]
    assert named("[mp]a*") == ["main", "parse_header", "parse_body"]
    assert named("0x1024") == ["parse_body"]
    assert named("0x1080") == ["fn_1080"]
    assert named("0x2000") == []


def test_names_without_parameters() -> None:
    assert without_parameters("a::b(int (*)(char))") == "a::b"
    assert without_parameters("X::operator()(int)") == "X::operator()"
    assert without_parameters("X::operator()") == "X::operator()"
    assert without_parameters("(anonymous namespace)::f(int) const") == "(anonymous namespace)::f"
    assert without_parameters("plain") == "plain"
    assert without_parameters("std::map<int, X> twice<long>(long, (lambda)#1)") == "twice<long>"
    assert without_parameters("X::operator int<int>()") == "X::operator int<int>"
    assert without_parameters("parse(long) [clone .cold]") == "parse [clone .cold]"
    assert without_parameters("f<g<h> >(int) [clone .isra.0]") == "f<g<h> > [clone .isra.0]"
    assert names_of(FUNCTIONS[0]) == ("main",)


def test_match_gives_every_spec_its_functions() -> None:
    specs = [parse_spec("block:parse_*"), parse_spec("insn:0x1024"), parse_spec("insn:main+4")]
    chosen = match(specs, FUNCTIONS)
    assert [f.name for f in chosen[specs[0]]] == ["parse_header", "parse_body"]
    assert [f.name for f in chosen[Spec(Point.INSN, "0x1020", 4)]] == ["parse_body"]
    assert [f.name for f in chosen[specs[2]]] == ["main"]


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("entry:parse_haeder", "did you mean parse_header"),
        ("entry:*header_*", "did you mean parse_header"),
        ("entry:zzzzzzz", "'probeloom list' shows"),
        ("block:RUN*", "did you mean ns::run"),
        ("entry:0x1", "between 0x1000 and 0x1080"),
    ],
)
def test_a_spec_that_matches_nothing_is_refused(spec: str, hint: str) -> None:
    with pytest.raises(RefusedError) as caught:
        match([parse_spec("block:*"), parse_spec(spec)], FUNCTIONS)
    assert f"'{spec}' matches no function" in str(caught.value)
    assert hint in str(caught.value)


def test_toml(tmp_path: Path) -> None:
    file = tmp_path / "team.toml"
    file.write_text(
        'probes = [\n  "entry:parse_*",\n  "return:main=mine.py:result",\n'
        '  {point = "insn", function = "main", offset = 0x1f},\n'
        '  {point = "entry", function = "operator==", action = "/abs/p.py:seen"},\n]\n'
    )
    assert load_specs(file) == (
        Spec(Point.ENTRY, "parse_*"),
        Spec(Point.RETURN, "main", action=f"{tmp_path}/mine.py:result"),
        Spec(Point.INSN, "main", 0x1F),
        Spec(Point.ENTRY, "operator==", action="/abs/p.py:seen"),
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("probes = [", "Invalid value"),
        ("probes = []", "expected a list named 'probes'"),
        ("probe = ['entry:main']", "expected a list named 'probes' and nothing else, found 'probe'"),
        ("probes = 'entry:main'", "expected a list named 'probes'"),
        ("probes = [3]", "3 is neither a spec nor a table"),
        ("probes = ['enter:main']", "'enter:main': expected POINT"),
        ("probes = [{point = 'entry'}]", "no function given"),
        ("probes = [{point = 'entry', function = 'main', act = 'count'}]", "unknown key 'act'"),
        ("probes = [{point = 'entry', function = 'main', offset = 1}]", "offset is a number of bytes, of insn"),
        ("probes = [{point = 'entry', function = 'main', action = 'x'}]", "the action 'x' is neither"),
        ("probes = [{point = 'entry', function = 3}]", "are strings"),
    ],
)
def test_wrong_toml(content: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "team.toml"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        load_specs(file)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(file))


def test_toml_that_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.toml"):
        with pytest.raises(UsageError, match="directory"):
            load_specs(path)
