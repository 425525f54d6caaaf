"""What a campaign leaves in its directory: settings, the result of every job, failures, so that it can go on.

    DIR/campaign.json   the settings
    DIR/jobs.jsonl      one line for each job that is done; a line cut short by a kill is dropped
    DIR/cases.txt       one line for each failure, as `probeloom fuzz KIND --case` takes it
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TextIO

from fuzz.campaign import Result, Settings
from lifter.errors import UsageError

_SETTINGS: Final = "campaign.json"
_JOBS: Final = "jobs.jsonl"
_CASES: Final = "cases.txt"
_FORMAT: Final = 1


@dataclass(slots=True)
class Progress:
    """How far a campaign has come."""

    done: set[int] = field(default_factory=set)
    """Numbers of the jobs whose results are in `total`."""
    total: Result = field(default_factory=Result)
    elapsed: float = 0.0
    """Seconds that it ran."""

    def add(self, number: int, result: Result, elapsed: float) -> None:
        """Merge the result of a job."""
        self.done.add(number)
        self.total.add(result)
        self.elapsed = max(self.elapsed, elapsed)


class Journal:
    """Keeps the results of jobs. A context manager. Without a directory it keeps them in memory only."""

    def __init__(self, directory: Path | None, settings: Settings) -> None:
        """Open or begin the campaign in `directory`. Raises UsageError where it cannot be, or is another one."""
        self.directory = directory
        self.progress = Progress()
        self._file: TextIO | None = None
        if directory is None:
            return
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _settle(directory, settings)
            self.progress, size = _recall(directory / _JOBS)
            self._file = (directory / _JOBS).open("a", encoding="utf-8")
            self._file.truncate(size)
        except OSError as error:
            raise UsageError(f"cannot use {directory}: {error.strerror}") from None

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, number: int, result: Result, elapsed: float) -> None:
        """Keep the result of a job, done `elapsed` seconds into the campaign. Raises UsageError where that fails."""
        known = {failure.case for failure in self.progress.total.failures}
        self.progress.add(number, result, elapsed)
        if self._file is None or self.directory is None:
            return
        line = json.dumps({"job": number, "elapsed": round(elapsed, 2), "result": result.as_json()})
        try:
            self._file.write(line + "\n")
            self._file.flush()
            fresh = [str(failure).replace("\n", "; ") for failure in result.failures if failure.case not in known]
            if fresh:
                with (self.directory / _CASES).open("a", encoding="utf-8") as file:
                    file.writelines(f"{line}\n" for line in fresh)
        except OSError as error:
            raise UsageError(f"cannot write to {self.directory}: {error.strerror}") from None


def read_campaign(directory: Path) -> tuple[Settings, Progress]:
    """The campaign in a directory. Raises UsageError if there is none."""
    settings = _read_settings(directory)
    try:
        return settings, _recall(directory / _JOBS)[0]
    except OSError as error:
        raise UsageError(f"cannot read {directory / _JOBS}: {error.strerror}") from None


def _settle(directory: Path, settings: Settings) -> None:
    """Write the settings down, or see that they are the same as before."""
    path = directory / _SETTINGS
    if not path.exists():
        content = {"format": _FORMAT, **settings.as_json()}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    elif _read_settings(directory) != settings:
        raise UsageError(f"{directory} holds another campaign: choose another --out, or the options in {path}")


def _read_settings(directory: Path) -> Settings:
    path = directory / _SETTINGS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("another version wrote it")
        return Settings.from_json(content)
    except OSError as error:
        raise UsageError(f"{directory} holds no campaign ({path.name}: {error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not written by `probeloom fuzz` ({error})") from None


def _recall(path: Path) -> tuple[Progress, int]:
    """The jobs that are done, and how many bytes of the file are whole lines of them."""
    progress, size = Progress(), 0
    if not path.exists():
        return progress, size
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            content = json.loads(line)
            number, elapsed = int(content["job"]), float(content["elapsed"])
            result = Result.from_json(content["result"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        size += len(line)
        if number not in progress.done:
            progress.add(number, result, elapsed)
    return progress, size
