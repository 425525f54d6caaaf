"""Frida as a contender: attaches to a program that waits before main, and lets it go with its counters in place.

Run time is that of the program's process, Frida's agent in it included.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bench.measure import Command, Outcome, clean_environment
from bench.sources import UnavailableError

_STALKER: Final = """
const counters = Memory.alloc(8 << 20);
const state = Memory.alloc(8);
state.writePointer(counters);
const module = new CModule(`
#include <gum/gumstalker.h>
extern guint64 * next;
void transform(GumStalkerIterator *iterator, GumStalkerOutput *output, gpointer data)
{
  GumX86Writer *w = output->writer.x86;
  const cs_insn *insn;
  gboolean first = TRUE;
  while (gum_stalker_iterator_next(iterator, &insn))
  {
    if (first)
    {
      first = FALSE;
      /* No flags are changed, so none are saved. */
      gum_x86_writer_put_lea_reg_reg_offset(w, GUM_X86_RSP, GUM_X86_RSP, -128);
      gum_x86_writer_put_push_reg(w, GUM_X86_RAX);
      gum_x86_writer_put_push_reg(w, GUM_X86_RBX);
      gum_x86_writer_put_mov_reg_address(w, GUM_X86_RAX, GPOINTER_TO_SIZE(next++));
      gum_x86_writer_put_mov_reg_reg_ptr(w, GUM_X86_RBX, GUM_X86_RAX);
      gum_x86_writer_put_lea_reg_reg_offset(w, GUM_X86_RBX, GUM_X86_RBX, 1);
      gum_x86_writer_put_mov_reg_ptr_reg(w, GUM_X86_RAX, GUM_X86_RBX);
      gum_x86_writer_put_pop_reg(w, GUM_X86_RBX);
      gum_x86_writer_put_pop_reg(w, GUM_X86_RAX);
      gum_x86_writer_put_lea_reg_reg_offset(w, GUM_X86_RSP, GUM_X86_RSP, 128);
    }
    gum_stalker_iterator_keep(iterator);
  }
}
`, { next: state });
Process.enumerateModules().slice(1).forEach(other => Stalker.exclude(other));
Stalker.trustThreshold = 0;
/* Not from where the program waits: that is in a module that is left out, and nothing after it would be followed. */
Interceptor.attach(Process.mainModule.base.add(MAIN), {
  onEnter() { Stalker.follow(this.threadId, { transform: module.transform }); }
});
Interceptor.flush();
"""

_INTERCEPTOR: Final = """
const counters = Memory.alloc(8 << 20);
const module = new CModule(`
#include <gum/guminterceptor.h>
void passed(GumInvocationContext *context)
{
  (*(guint64 *) gum_invocation_context_get_listener_function_data(context))++;
}
`);
const base = Process.mainModule.base;
let instrumented = 0;
for (const offset of OFFSETS) {
  try {
    const counter = counters.add(8 * instrumented);
    const callbacks = RETURNS ? { onEnter: module.passed, onLeave: module.passed } : { onEnter: module.passed };
    Interceptor.attach(base.add(offset), callbacks, counter);
    instrumented++;
  } catch (error) {
    /* a function too short to be hooked */
  }
}
Interceptor.flush();
send(instrumented);
"""


_ATTEMPTS: Final = 4
_LIMIT: Final = 300
"""Seconds that a run may take: under Frida a program may come to wait for itself."""


def stalker(main: int) -> str:
    """The script that counts every block of the program itself from the offset of `main` on."""
    return _STALKER.replace("MAIN", str(main))


def interceptor(offsets: Sequence[int], returns: bool) -> str:
    """The script that counts entries (and returns) of functions, by their offsets in the file."""
    script = _INTERCEPTOR.replace("OFFSETS", str(list(offsets)))
    return script.replace("RETURNS", "true" if returns else "false")


def available() -> None:
    """Raises UnavailableError where Frida's Python package is missing."""
    try:
        import frida  # noqa: F401
    except ImportError:
        raise UnavailableError("frida is not installed (pip install '.[bench]')") from None


def run_with(script: str, hold: Path, command: Command, directory: Path, core: int) -> Outcome:
    """Run a command under a script. `hold` is the library made from programs/hold.c.

    On a busy machine Frida may give up before it is in the program: it is tried again then.
    """
    outcome = _attempt(script, hold, command, directory, core)
    for _ in range(_ATTEMPTS - 1):
        if not outcome.problem:
            break
        outcome = _attempt(script, hold, command, directory, core)
    return outcome


def _attempt(script: str, hold: Path, command: Command, directory: Path, core: int) -> Outcome:
    import frida

    held, release = os.pipe()
    report, reported = os.pipe()
    environment = {**clean_environment(directory), **command.environment, "HOLD_FD": str(held)}
    launcher = str(Path(__file__).with_name("launcher.py"))
    problems: list[str] = []

    def heard(message: Mapping[str, Any], _: object) -> None:
        if message["type"] == "error":
            problems.append(f"Frida: {message['description']}")

    def stop(program: int) -> None:
        problems.append(f"Frida: no end within {_LIMIT} s")
        with suppress(ProcessLookupError):
            os.kill(program, signal.SIGKILL)

    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        running = subprocess.Popen(
            [sys.executable, launcher, str(reported), str(hold), *command.argv],
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            pass_fds=(held, reported),
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        os.close(held)
        os.close(reported)
        with os.fdopen(report) as lines:
            program = int(lines.readline())
            limit = threading.Timer(_LIMIT, stop, [program])
            limit.start()
            try:
                session = frida.attach(program)
                loaded = session.create_script(script)
                loaded.on("message", heard)
                loaded.load()
            except Exception as error:  # Frida's errors have no class in common
                problems.append(f"Frida: {error}")
            finally:
                os.close(release)  # the program goes on
            try:
                status, user = lines.readline().split()
            finally:
                limit.cancel()
        running.wait()
        output.seek(0)
        errors.seek(0)
        exit_status = os.waitstatus_to_exitcode(int(status))
        return Outcome(float(user), exit_status, output.read(), errors.read(), "; ".join(problems))
