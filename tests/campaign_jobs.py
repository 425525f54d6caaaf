"""Jobs for tests of campaigns: worker processes import them."""

from __future__ import annotations

import os
import signal

from fuzz.campaign import Job, Result


def die_at_two(job: Job) -> Result:
    """Takes the process with it if its number is 2."""
    if job.number == 2:
        os.kill(os.getpid(), signal.SIGABRT)
    result = Result(units=1)
    result.cover("form", "64", "native", job.number)
    return result


def wrong(job: Job) -> Result:
    raise ValueError("nothing works")
