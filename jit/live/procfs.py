"""What /proc says of a process: whether it can be traced, its threads, its signals."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

from jit.live.errors import CannotTraceError, NoProcessError

_EM_X86_64: Final = 62
_ELFCLASS64: Final = 2


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status of a process or thread; {} if there is none."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def tasks(pid: int) -> list[int]:
    """The threads of a process, without those that have ended; [] if the process has."""
    try:
        return [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []


def living_thread(pid: int) -> int:
    """A thread of the process through which /proc shows its memory: its first, unless that has ended before others."""
    if task_state(pid) != "Z":
        return pid
    return next((tid for tid in tasks(pid) if task_state(tid) not in "ZX"), pid)


def task_state(tid: int) -> str:
    """'R' running, 'S' sleeping, 'D' waiting uninterruptibly, 'T' stopped, 't' traced and stopped, 'Z' ended; '' if
    there is none."""
    try:
        text = Path(f"/proc/{tid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def process_of(tid: int) -> int:
    """The process that a thread belongs to; 0 if there is no such thread."""
    return int(status(tid).get("Tgid", "0"))


def program_counter(tid: int) -> int | None:
    """Where a thread that waits in the kernel will go on; None if it does not wait."""
    try:
        fields = Path(f"/proc/{tid}/syscall").read_text().split()
    except OSError:
        return None
    return int(fields[-1], 16) if len(fields) >= 3 else None


def check_exists(pid: int) -> dict[str, str]:
    """The fields of its status. Raises NoProcessError if there is no such process."""
    fields = status(pid)
    if not fields or (fields.get("State", "")[:1] in "ZX" and len(tasks(pid)) < 2):
        ended = " (it has ended, and waits for its parent)" if fields else ""
        raise NoProcessError(f"process {pid}: no such process{ended}")
    return fields


def check_traceable(pid: int) -> None:
    """Raises what stands in the way of tracing a process, as far as it can be known before trying."""
    fields = check_exists(pid)
    if int(fields.get("Tgid", pid)) != pid:
        raise NoProcessError(f"process {pid}: is a thread of process {fields['Tgid']}")
    if pid == os.getpid():
        raise CannotTraceError(f"process {pid}: is this process, which cannot trace itself")
    tracer = int(fields.get("TracerPid", "0"))
    if tracer:
        raise CannotTraceError(f"process {pid} ({fields['Name']}): already traced by {_described(tracer)}")
    if _is_kernel_thread(fields):
        raise CannotTraceError(f"process {pid} ({fields['Name']}): is a kernel thread")
    _check_architecture(pid, fields["Name"])


def refusal(pid: int, problem: OSError) -> Exception:
    """Why PTRACE_SEIZE failed with `problem`, as an error to raise."""
    fields = status(pid)
    if not fields or problem.errno == 3:
        return NoProcessError(f"process {pid}: no such process")
    name = f"process {pid} ({fields.get('Name', '?')})"
    tracer = int(fields.get("TracerPid", "0"))
    if tracer:
        return CannotTraceError(f"{name}: already traced by {_described(tracer)}")
    owners = {int(number) for number in fields.get("Uid", "").split()}
    if os.geteuid() != 0 and owners != {os.geteuid()}:
        return CannotTraceError(f"{name}: belongs to another user ({_user(max(owners))}); run as that user or as root")
    with suppress(OSError, ValueError):
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
        if scope:
            why = ("", "children only", "root only", "nobody")[min(scope, 3)]
            return CannotTraceError(
                f"{name}: this system lets {why} be traced (kernel.yama.ptrace_scope = {scope}); "
                "run as root, or set it to 0"
            )
    return CannotTraceError(f"{name}: cannot be traced: {problem.strerror}")


def is_traced_by_this_thread(tid: int) -> bool:
    """Whether the calling thread is the tracer of `tid`."""
    return int(status(tid).get("TracerPid", "0")) in (os.getpid(), threading.get_native_id())


def _described(pid: int) -> str:
    name = status(pid).get("Name")
    return f"process {pid}" + (f" ({name})" if name else "")


def _user(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _is_kernel_thread(fields: dict[str, str]) -> bool:
    return fields.get("Kthread", "0") == "1" or ("VmSize" not in fields and fields.get("State", "")[:1] != "Z")


def _check_architecture(pid: int, name: str) -> None:
    try:
        with Path(f"/proc/{living_thread(pid)}/exe").open("rb") as file:
            header = file.read(20)
    except OSError:
        return  # another user's: the attempt says so
    if header[4:5] != bytes([_ELFCLASS64]):
        raise CannotTraceError(f"process {pid} ({name}): is a 32-bit process")
    if int.from_bytes(header[18:20], "little") != _EM_X86_64:
        raise CannotTraceError(f"process {pid} ({name}): runs a program that is not x86-64")
