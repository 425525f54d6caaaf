"""Messages between two processes of one program: an 8-byte length and a pickle each."""

from __future__ import annotations

import pickle
import struct
from typing import Final

_LENGTH: Final = struct.Struct("<Q")


def frame(message: object) -> bytes:
    """A message as it goes through a pipe."""
    content = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(content)) + content


class Frames:
    """Takes bytes as they come, and gives the messages in them."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, content: bytes) -> list[object]:
        """The messages that are whole now."""
        self._received += content
        found: list[object] = []
        at = 0
        while len(self._received) >= at + _LENGTH.size:
            start = at + _LENGTH.size
            end = start + _LENGTH.unpack_from(self._received, at)[0]
            if len(self._received) < end:
                break
            found.append(pickle.loads(memoryview(self._received)[start:end]))
            at = end
        del self._received[:at]
        return found
