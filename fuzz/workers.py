"""Where the jobs of a campaign are done: in processes of this machine, or on a dask.distributed cluster.

Jobs compile and run arbitrary code. One that takes its process down with it becomes a failure of its own, and the
process is replaced.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, Protocol

from fuzz.campaign import Failure, Job, Result, kind_of, run_job
from lifter.errors import ProbeloomError, UsageError

PATIENCE: Final = 1800.0
"""Seconds after which a job is taken for endless."""
_POLL: Final = 0.5
_AHEAD: Final = 2
"""Jobs on a cluster for each of its threads: one that runs, one that waits."""


class Workers(Protocol):
    """Does jobs."""

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Result] | None]:
        """Each job with its result, in the order in which they get ready; None now and then when none is.

        It asks for jobs only as they can be done. Raises ProbeloomError where jobs cannot be done at all.
        """

    def close(self) -> None:
        """End what is still running."""


@dataclass(slots=True)
class _Process:
    process: BaseProcess
    pipe: Connection
    job: Job | None = None
    since: float = 0.0


class LocalWorkers:
    """Processes on this machine."""

    def __init__(self, number: int, do: Callable[[Job], Result] = run_job) -> None:
        """`number` of them at most; `do` does a job, in the process."""
        self._number = number
        self._do = do
        self._processes: list[_Process] = []
        self._context = multiprocessing.get_context("spawn")

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Result] | None]:
        """See `Workers`."""
        more = True
        while True:
            while more and (free := self._free()) is not None:
                job = next(jobs, None)
                if job is None:
                    more = False
                else:
                    free.job, free.since = job, time.monotonic()
                    free.pipe.send(job)
            busy = {worker.pipe: worker for worker in self._processes if worker.job is not None}
            if not busy:
                return
            ready = wait(list(busy), _POLL)
            for pipe in ready:
                assert isinstance(pipe, Connection)
                yield self._take(busy[pipe])
            now = time.monotonic()
            for worker in busy.values():
                if worker.job is not None and now - worker.since > PATIENCE:
                    worker.process.kill()
            if not ready:
                yield None

    def close(self) -> None:
        """Kill the processes."""
        for worker in self._processes:
            worker.process.kill()
            worker.process.join()
            worker.pipe.close()
        self._processes.clear()

    def _free(self) -> _Process | None:
        """A worker without a job, a new one if need be."""
        for worker in self._processes:
            if worker.job is None:
                return worker
        if len(self._processes) == self._number:
            return None
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._do))
        process.start()
        theirs.close()
        worker = _Process(process, ours)
        self._processes.append(worker)
        return worker

    def _take(self, worker: _Process) -> tuple[Job, Result]:
        """What a worker has to say: a result, an error of ours that ends the campaign, or nothing, being dead."""
        job = worker.job
        assert job is not None
        worker.job = None
        try:
            answer = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            self._processes.remove(worker)
            worker.pipe.close()
            return job, _lost(job, worker.process.exitcode, time.monotonic() - worker.since)
        if isinstance(answer, BaseException):
            raise answer
        assert isinstance(answer, Result)
        return job, answer


def _lost(job: Job, status: int | None, seconds: float) -> Result:
    """The result of a job that took its process with it."""
    how = f"killed by {signal.Signals(-status).name}" if status is not None and status < 0 else f"exit status {status}"
    if seconds > PATIENCE:
        how = f"did not end in {PATIENCE:.0f} seconds"
    return Result(seconds=seconds, failures=[Failure(case_of(job), f"the job's process: {how}")])


def case_of(job: Job) -> str:
    """A whole job as the case of a failure: `job_of` reads it."""
    return json.dumps(asdict(job), separators=(",", ":"))


def job_of(case: str) -> Job:
    """The job that `case_of` wrote. Raises UsageError."""
    try:
        content: dict[str, Any] = json.loads(case)
        return Job(**content)
    except (ValueError, TypeError) as error:
        raise UsageError(f"not a job of a campaign: {error}") from None


def replay(kind: str, case: str) -> Failure | None:
    """Run the case of a failure again: one that `Kind.replay` knows, or a whole job that took its process with it."""
    if not case.startswith("{"):
        return kind_of(kind).replay(case)
    job = job_of(case)
    workers = LocalWorkers(1)
    try:
        answers = [answer for answer in workers.run(iter((job,))) if answer is not None]
    finally:
        workers.close()
    failures = answers[0][1].failures
    return failures[0] if failures else None


def _work(pipe: Connection, do: Callable[[Job], Result]) -> None:
    """In a worker process: do what comes in until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; its end is ours
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer: Result | ProbeloomError = do(job)
        except ProbeloomError as error:
            answer = error
        except Exception as error:
            answer = ProbeloomError(f"job {case_of(job)}: {type(error).__name__}: {error}")
        try:
            pipe.send(answer)
        except BrokenPipeError:
            os._exit(0)


class ClusterWorkers:
    """The threads of a dask.distributed cluster."""

    def __init__(self, address: str) -> None:
        """Connect to the scheduler at `address`. Raises UsageError where it, or dask.distributed, is missing."""
        try:
            import distributed
        except ImportError:
            raise UsageError(
                "--cluster needs dask.distributed: pip install 'probeloom[cluster]', on every machine of the cluster"
            ) from None
        self._as_completed = distributed.as_completed
        try:
            self._client: Any = distributed.Client(address, timeout=10)
        except (OSError, ValueError) as error:
            raise UsageError(f"no dask scheduler at {address}: {error}") from None

    def run(self, jobs: Iterator[Job]) -> Iterator[tuple[Job, Result] | None]:
        """See `Workers`."""
        started = time.monotonic()
        threads = sum(self._client.nthreads().values())
        if not threads:
            raise UsageError("the cluster has no workers: start some with `dask worker`")
        running: dict[Any, Job] = {}
        done = self._as_completed()
        for job in islice(jobs, _AHEAD * threads):
            self._submit(job, running, done)
        while running:
            future = next(done)
            job = running.pop(future)
            error = future.exception() if future.status == "error" else None
            if isinstance(error, ProbeloomError):
                raise error
            following = next(jobs, None)
            if following is not None:
                self._submit(following, running, done)
            if error is not None:
                what = f"the job's process: {type(error).__name__}: {error}"
                yield job, Result(seconds=time.monotonic() - started, failures=[Failure(case_of(job), what)])
            else:
                yield job, future.result()

    def _submit(self, job: Job, running: dict[Any, Job], done: Any) -> None:
        future = self._client.submit(run_job, job, pure=False, retries=0)
        running[future] = job
        done.add(future)

    def close(self) -> None:
        """Disconnect; jobs that run are cancelled."""
        self._client.close()
