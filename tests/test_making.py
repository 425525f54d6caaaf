"""The work on functions shared out to processes: that it changes nothing, and what happens when one of them fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from jit import engine
from jit.crew import Crew
from jit.options import Options
from jit.specs import parse_spec
from lifter import decode
from lifter.cfg import GraphMaker, GraphTask, build_all, build_graph
from lifter.errors import ProbeloomError, RefusedError
from lifter.image.load import open_image
from lifter.image.types import Image
from lifter.packing import pack, unpack
from tests import handmade
from tests.corpus import PROGRAMS


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Functions that call each other, with loops, switches and pointers to functions."""
    source = (PROGRAMS / "algorithms.c").read_text()
    path = handmade.build(source, tmp_path_factory.mktemp("making") / "algorithms", "gcc", "-O2", "-lm")
    return open_image(path)


@pytest.mark.needs("gcc")
@pytest.mark.parametrize("spec", ["block:*", "entry:*"])
def test_what_is_made_does_not_depend_on_the_number_of_processes(image: Image, spec: str) -> None:
    built = {jobs: engine.build(image, [parse_spec(spec)], Options(jobs=jobs, use_cache=False)) for jobs in (1, 3)}
    assert len(built[1].overlay.patches) > 20
    assert built[1].overlay == built[3].overlay
    assert built[1].refusals == built[3].refusals
    assert {**built[1].report, "seconds": {}} == {**built[3].report, "seconds": {}}


@pytest.mark.needs("gcc")
def test_a_graph_comes_out_as_it_was_packed(image: Image) -> None:
    for function in image.functions[:300]:
        if function.refusal is None:
            graph = build_graph(image, function)
            again = unpack(image, function, pack(graph))
            assert again == graph
            for block, other in zip(again.blocks.values(), graph.blocks.values(), strict=True):
                assert (block.last, block.flow) == (other.instructions[-1], other.flow)


@pytest.mark.needs("gcc")
def test_the_order_in_which_graphs_are_made_does_not_matter(image: Image) -> None:
    functions = [function for function in image.functions if function.refusal is None]
    maker = GraphMaker(image)

    def backwards(tasks: object) -> Iterator[object]:
        assert isinstance(tasks, list)
        return iter([maker.make(task) for task in reversed(tasks) if isinstance(task, GraphTask)])

    forwards = build_all(image, functions)
    assert list(forwards.items()) == list(build_all(image, functions, backwards).items())  # type: ignore[arg-type]


@pytest.mark.needs("gcc")
def test_forgotten_instructions_are_decoded_again(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    code = image.read(image.functions[0].address, 2000)
    expected = list(decode.decode_run(code))
    monkeypatch.setattr(decode, "_LIMIT", 3)
    assert list(decode.decode_run(code)) == expected


@pytest.fixture
def crew(request: pytest.FixtureRequest) -> Iterator[Crew[int, int]]:
    with closing(Crew(2, request.param)) as crew:
        yield crew


def double(number: int) -> int:
    if number < 0:
        raise RefusedError("is negative")
    if number == 1000:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number if number else 1 // number


@pytest.mark.parametrize("crew", [double], indirect=True)
def test_a_crew_does_all_tasks(crew: Crew[int, int]) -> None:
    found = []
    left = list(range(1, 50))
    while left or crew.busy:
        while crew.wants and left:
            crew.send(left.pop())
        found += crew.receive()
    assert sorted(found) == list(range(2, 100, 2))


def echo(content: bytes) -> bytes:
    return content


@pytest.mark.parametrize("crew", [echo], indirect=True)
def test_tasks_and_results_may_be_larger_than_a_pipe(crew: Crew[bytes, bytes]) -> None:
    left = [bytes(1 << 20)] * 12
    count = 0
    while left or crew.busy:
        while crew.wants and left:
            crew.send(left.pop())
        count += len(crew.receive())
    assert count == 12


@pytest.mark.parametrize("crew", [double], indirect=True)
@pytest.mark.parametrize(
    ("task", "kind", "said"),
    [(-1, RefusedError, "is negative"), (0, ProbeloomError, "ZeroDivisionError"), (1000, ProbeloomError, "ended")],
)
def test_what_fails_in_a_crew_fails_here(crew: Crew[int, int], task: int, kind: type[Exception], said: str) -> None:
    crew.send(task)
    with pytest.raises(kind, match=said):
        crew.receive()


def test_a_crew_ends_with_the_process_that_has_it(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        Crew[int, int](2, double)
        os.write(writer, b"started")
        time.sleep(60)
        os._exit(0)
    os.close(writer)
    assert os.read(reader, 7) == b"started"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    # The members have the other end of the pipe, too: it is closed when the last of them is gone.
    assert os.read(reader, 1) == b""
    os.close(reader)
