"""The five classes of work, each one program with an argument that says how much: built from source by any compiler.

`loops` and `calls` are programs of this folder alone; `zlib/bzip2`, `bytecode VM` (Lua) and `sqlite` bring real
libraries as Debian patches them, compiled into the program.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache as once
from pathlib import Path
from typing import Final

from bench.sources import UnavailableError, fetch

PROGRAMS: Final = Path(__file__).parent / "programs"


@dataclass(frozen=True, slots=True)
class Sources:
    """What a compiler is given besides the flags of a benchmark."""

    files: tuple[Path, ...]
    flags: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workload:
    """One class."""

    name: str
    sources: Callable[[Path], Sources]
    """From the cache folder. Raises UnavailableError."""
    packages: tuple[str, ...]
    """Debian's source packages in it."""
    full: int
    """Rounds that take about half a second."""
    script: tuple[Path, ...] = ()
    """Arguments before the number of rounds."""

    def arguments(self, share: float) -> tuple[str, ...]:
        """The program's arguments for a share of the full work."""
        return (*map(str, self.script), str(max(1, round(self.full * share))))


def _own(name: str) -> Callable[[Path], Sources]:
    return lambda cache: Sources((PROGRAMS / name,))


def _compressors(cache: Path) -> Sources:
    zlib, bzip2 = fetch("zlib", cache), fetch("bzip2", cache)
    parts = ["adler32", "compress", "crc32", "deflate", "inffast", "inflate", "inftrees", "trees", "uncompr", "zutil"]
    bparts = ["blocksort", "huffman", "crctable", "randtable", "compress", "decompress", "bzlib"]
    files = [PROGRAMS / "compress.c", *(zlib / f"{p}.c" for p in parts), *(bzip2 / f"{p}.c" for p in bparts)]
    return Sources(tuple(files), (f"-I{zlib}", f"-I{bzip2}", "-DBZ_NO_STDIO"))


def _lua(cache: Path) -> Sources:
    source = fetch("lua5.4", cache) / "src"
    files = sorted(path for path in source.glob("*.c") if path.name not in ("luac.c", "ltests.c"))
    return Sources(tuple(files), ("-DLUA_USE_POSIX",), ("-lm",))


def _sqlite(cache: Path) -> Sources:
    return Sources(
        (PROGRAMS / "queries.c", _amalgamation(cache)),
        (f"-I{_amalgamation(cache).parent}", "-DSQLITE_THREADSAFE=0", "-DSQLITE_OMIT_LOAD_EXTENSION"),
        ("-lm",),
    )


@once
def _amalgamation(cache: Path) -> Path:
    """sqlite3.c, made by the source package's own makefile."""
    source = fetch("sqlite3", cache)
    folder = cache / "build" / "sqlite3"
    made = folder / "sqlite3.c"
    if not made.exists():
        for tool in ("tclsh", "make", "gcc"):
            if shutil.which(tool) is None:
                raise UnavailableError(f"sqlite cannot be built: {tool} is not installed")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for command in ([str(source.absolute() / "configure"), "--disable-readline"], ["make", "sqlite3.c"]):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, stdin=subprocess.DEVNULL)
            if done.returncode != 0:
                made.unlink(missing_ok=True)
                lines = done.stderr.strip().splitlines() or ["no output"]
                raise UnavailableError(f"sqlite cannot be built: {command[0]}: {lines[-1]}")
    return made


WORKLOADS: Final = (
    Workload("loops", _own("loops.c"), (), 600),
    Workload("calls", _own("calls.c"), (), 250),
    Workload("zlib/bzip2", _compressors, ("zlib", "bzip2"), 9),
    Workload("bytecode VM", _lua, ("lua5.4",), 110, (PROGRAMS / "vm.lua",)),
    Workload("sqlite", _sqlite, ("sqlite3",), 50),
)


@once
def _compiler_version(compiler: str) -> str:
    if shutil.which(compiler) is None:
        raise UnavailableError(f"{compiler} is not installed")
    return subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout.splitlines()[0]


def build(
    workload: Workload, cache: Path, compiler: str = "gcc", flags: Sequence[str] = (), more: Sequence[Path] = ()
) -> Path:
    """The program of a workload, compiled with -O2 and `flags` (found in the cache if it was before).

    `more` are further source files. Raises UnavailableError when the sources, the compiler or what it needs is missing.
    """
    sources = workload.sources(cache)
    files = [*sources.files, *more]
    # Names that say nothing of the machine: profiles and messages of compilers have them in the program.
    command = [compiler, "-O2", "-g0", "-w", *sources.flags, *flags, *map(str, files)]
    digest = hashlib.sha256(repr((_compiler_version(compiler), command, sources.libraries)).encode())
    for file in files:
        digest.update(file.read_bytes())
    folder = cache.absolute() / "build" / digest.hexdigest()[:20]
    name = workload.name.split("/")[-1].split()[-1].lower()
    if not (folder / name).exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{name}.{os.getpid()}.tmp"
        done = subprocess.run(
            [*command, "-o", str(temporary), *sources.libraries], cwd=folder, capture_output=True, text=True
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise UnavailableError(
                f"{workload.name} cannot be built by {compiler}: {lines[0] if lines else 'no output'}"
            )
        temporary.rename(folder / name)
    return folder / name


def compile_helper(cache: Path, name: str) -> Path:
    """A shared library made from one of the programs here that tools are given. Raises UnavailableError."""
    source = PROGRAMS / name
    digest = hashlib.sha256(_compiler_version("gcc").encode() + source.read_bytes()).hexdigest()
    library = cache.absolute() / "build" / digest[:20] / f"{source.stem}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        temporary = library.with_suffix(f".{os.getpid()}.tmp")
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", temporary, source], check=True)
        temporary.rename(library)
    return library
