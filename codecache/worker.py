"""A compile worker: `codecache.pool` starts it, sends batches of regions and reads the results.

It ends when its standard input closes, even in the middle of
a batch, so that it never outlives the process that started it.
"""

from __future__ import annotations

import gc
import os
import queue
import resource
import signal
import sys
import threading
from typing import cast

from codecache.compiler import compile_batch
from codecache.encoding import encode
from codecache.frames import Frames, frame
from codecache.module import initialise
from codecache.types import RegionSource

Request = list[tuple[str, int, int, bool, str, int]]
"""The fields of each region's source."""
Response = tuple[int, list[bytes]]
"""The worker's largest memory so far in KiB, and the encoded results: of nothing when it has started, then of each
request."""


def _read_requests(descriptor: int, requests: queue.SimpleQueue[Request]) -> None:
    frames = Frames()
    while content := os.read(descriptor, 1 << 20):
        for request in frames.feed(content):
            requests.put(cast(Request, request))
    os._exit(0)


def main() -> None:
    """Compile what comes in until there is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; its end is ours
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever LLVM prints must not get between the frames
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(sys.stdin.fileno(), requests), daemon=True).start()
    initialise()
    # Regions come and go without reference cycles: looking for those takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    results: list[bytes] = []
    while True:
        response: Response = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, results)
        out.write(frame(response))
        out.flush()
        sources = [RegionSource(*fields) for fields in requests.get()]
        results = [encode(result) for result in compile_batch(sources)]
