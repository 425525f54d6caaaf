"""The socket by which `probeloom status` and `top` ask the tracer of a process what it is at.

It has a name in Linux's abstract namespace, made of the process's number, so nothing is left behind when the tracer is
killed. Only the same user and root are answered.
"""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from jit.live.overview import overview
from jit.live.supervisor import Supervisor
from jit.report import Report, to_json

_CREDENTIALS: Final = struct.Struct("3i")
_SECONDS: Final = 5.0
_MOST: Final = 1 << 26


def _name(pid: int) -> str:
    return f"\0probeloom-{pid}"


class Control:
    """Answers questions about what a supervisor follows."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._socket.bind(_name(supervisor.first_pid))
            self._socket.listen()
        except OSError:
            self._socket.close()  # somebody else has the name: nobody can ask, and all else works
            return
        supervisor.watch(self._socket.fileno(), self._serve)

    def _serve(self) -> None:
        try:
            client, _ = self._socket.accept()
        except OSError:
            return
        with client, suppress(OSError, ValueError):
            client.settimeout(_SECONDS)
            _, user, _ = _CREDENTIALS.unpack(
                client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
            if user not in (0, os.geteuid()):
                return
            answers: dict[str, Callable[[], Any]] = {"status": self._status, "counts": self._counts}
            question = client.recv(64).decode().strip()
            client.sendall(json.dumps(answers[question]() if question in answers else None).encode())

    def _status(self) -> dict[str, Any]:
        return overview(self._supervisor)

    def _counts(self) -> list[Any]:
        reports: list[Report] = self._supervisor.books.reports()
        return [json.loads(to_json(report)) for report in reports]

    def close(self) -> None:
        """Answer no more."""
        if self._socket.fileno() >= 0:
            self._supervisor.unwatch(self._socket.fileno())
            self._socket.close()


def ask(pid: int, question: str) -> Any:
    """What the tracer of a process answers to 'status' or 'counts'; None if nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_SECONDS)
        try:
            connection.connect(_name(pid))
            connection.sendall(question.encode())
            content = bytearray()
            while len(content) < _MOST and (part := connection.recv(1 << 16)):
                content += part
        except OSError:
            return None
    return json.loads(content) if content else None
