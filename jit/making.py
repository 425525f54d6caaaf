"""The work on single functions, in several processes: their graphs first, then, each as soon as its callers' counts are
there, their plans and their code.

What comes out does not depend on how many processes there are, nor on which of them is faster.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from jit.analysis import Analysis, FunctionTask, Request
from jit.crew import Crew
from jit.made import GUARDS, WORDS, Made, OtherCounters, make
from jit.placement import Terms
from jit.prepare import Planned
from lifter.cfg import GraphMaker, GraphResult, GraphTask

_BATCH_BYTES: Final = 1 << 14
_BATCH_FUNCTIONS: Final = 32
"""What a process is given at a time: at most so many bytes of code, and functions."""


@dataclass(frozen=True, slots=True)
class _CodeTask:
    function: FunctionTask
    calling: frozenset[int]
    """Its blocks whose counts others want."""


_Tasks = list[GraphTask] | list[_CodeTask]
_Results = list[GraphResult | Made]


class Workforce:
    """Does the work on the functions of an image: alone, or with processes that share it out. A context manager."""

    def __init__(self, request: Request, jobs: int) -> None:
        """`jobs` processes; none but this one if it is 1."""
        self._request = request
        self._graphs = GraphMaker(request.image)
        self._crew: Crew[_Tasks, _Results] | None = Crew(jobs, self._work) if jobs > 1 else None

    def __enter__(self) -> Workforce:
        return self

    def __exit__(self, *_: object) -> None:
        if self._crew is not None:
            self._crew.close()

    def make_graphs(self, tasks: Iterable[GraphTask]) -> Iterator[GraphResult]:
        """Graphs, in any order."""
        waiting = iter(tasks)
        functions = self._request.image.function_at

        def following() -> list[GraphTask]:
            batch: list[GraphTask] = []
            size = 0
            while size < _BATCH_BYTES and len(batch) < _BATCH_FUNCTIONS:
                task = next(waiting, None)
                if task is None:
                    break
                function = functions(task.function)
                size += function.size if function is not None else 0
                batch.append(task)
            return batch

        for results in self._share(following):
            for result in results:
                assert isinstance(result, tuple)
                yield result

    def make_functions(self, analysis: Analysis) -> Iterator[Made]:
        """Every function that is instrumented, planned and lowered, in any order."""
        schedule = _Schedule(analysis)
        for results in self._share(schedule.following):
            for made in results:
                assert isinstance(made, Made)
                schedule.done(made)
                yield made

    def _share(self, following: Callable[[], _Tasks]) -> Iterator[_Results]:
        """The results of tasks. `following` gives the next ones, as far as there are any now."""
        crew = self._crew
        if crew is None:
            while tasks := following():
                yield self._work(tasks)
            return
        while True:
            while crew.wants and (tasks := following()):
                crew.send(tasks)
            if not crew.busy:
                return
            yield from crew.receive()

    def _work(self, tasks: _Tasks) -> _Results:
        return [self._graphs.make(task) if isinstance(task, GraphTask) else self._code(task) for task in tasks]

    def _code(self, task: _CodeTask) -> Made:
        request, function = self._request, task.function
        draft = request.plan(function)
        item, plan = draft.item, draft.plan
        guards = {spec: GUARDS + number for number, spec in enumerate(request.guarded)}
        actions = item.actions(plan, 0, OtherCounters(), WORDS, request.probes.__getitem__, guards)
        if request.options.bare:
            actions = actions.bare()
        work = Planned(plan, actions, lambda: function.borders(plan.graph, request.image), request.lowering).lower()
        counts = None
        if draft.placed:
            counts = {block: terms for block, terms in plan.counts.items() if block in task.calling}
        return make(item, work, actions, counts, request.through.frames)


class _Schedule:
    """Which functions can be planned when."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._waits = {function: len(several) for function, several in analysis.callers.items()}
        self._callees: dict[int, list[int]] = {}
        for function, several in analysis.callers.items():
            for caller in several:
                self._callees.setdefault(caller, []).append(function)
        self._ready = deque(function for function in analysis.order if not self._waits.get(function))
        self._counts: dict[int, Mapping[int, Terms]] = {}

    def following(self) -> list[_CodeTask]:
        """Some functions that can be planned now."""
        analysis = self._analysis
        tasks: list[_CodeTask] = []
        size = 0
        while self._ready and size < _BATCH_BYTES and len(tasks) < _BATCH_FUNCTIONS:
            function = self._ready.popleft()
            calling = frozenset(analysis.calling.get(function, ()))
            tasks.append(_CodeTask(analysis.task(function, self._counts), calling))
            size += analysis.size(function)
        return tasks

    def done(self, made: Made) -> None:
        """Note the counts of a function."""
        if made.counts is not None:
            self._counts[made.entry] = made.counts
        for function in self._callees.get(made.entry, ()):
            self._waits[function] -= 1
            if not self._waits[function]:
                self._ready.append(function)
