"""Other tools that count: compilers, and those that work on binaries. Each is left out where it is not installed."""

from __future__ import annotations

import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Final

from bench import frida_tool
from bench.contenders import Contender, Setup
from bench.measure import Command
from bench.sources import UnavailableError
from bench.workloads import PROGRAMS, Workload, build, compile_helper
from jit import Binary


def found(tool: str, package: str = "") -> str:
    """The path of a tool. Raises UnavailableError."""
    path = shutil.which(tool)
    if path is None:
        raise UnavailableError(f"{tool} is not installed" + (f" (Debian package {package})" if package else ""))
    return path


def done(*command: str | Path, directory: Path) -> None:
    """Run a tool that makes the instrumented program. Raises UnavailableError with its last line when it fails."""
    result = subprocess.run(
        [str(part) for part in command], cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    if result.returncode != 0:
        lines = (result.stderr.strip() or result.stdout.strip() or "no output").splitlines()
        raise UnavailableError(f"{Path(str(command[0])).name} fails: {lines[-1]}")


# --- compilers ------------------------------------------------------------------------------------------


def _gcc_coverage(workload: Workload, setup: Setup) -> Command:
    program = build(workload, setup.cache, "gcc", ("--coverage",))
    return Command((str(program),), {"GCOV_PREFIX": str(setup.scratch / "gcov")})


def _clang_profile(workload: Workload, setup: Setup) -> Command:
    program = build(workload, setup.cache, "clang", ("-fprofile-instr-generate",))
    return Command((str(program),), {"LLVM_PROFILE_FILE": str(setup.scratch / "clang.profraw")})


def _clang_8bit(workload: Workload, setup: Setup) -> Command:
    stub = PROGRAMS / "coverage_stub.c"
    return Command(
        (str(build(workload, setup.cache, "clang", ("-fsanitize-coverage=inline-8bit-counters",), (stub,))),)
    )


def _clang_xray(workload: Workload, setup: Setup) -> Command:
    flags = ("-fxray-instrument", "-fxray-instruction-threshold=1")
    return Command((str(build(workload, setup.cache, "clang", flags, (PROGRAMS / "xray_counter.c",))),))


def _gcc_fentry(workload: Workload, setup: Setup) -> Command:
    # The counter's own file has no functions.
    program = build(workload, setup.cache, "gcc", ("-pg", "-mfentry"), (PROGRAMS / "fentry.c",))
    return Command((str(program),))


COMPILERS: Final = (
    Contender("gcc --coverage", "blocks", _gcc_coverage),
    Contender("clang instr-generate", "blocks", _clang_profile, "clang"),
    Contender("clang inline-8bit-counters", "edges", _clang_8bit, "clang"),
    Contender("gcc -mfentry", "entries", _gcc_fentry),
    Contender("clang XRay", "entries and returns", _clang_xray, "clang"),
)


# --- tools on binaries ----------------------------------------------------------------------------------


def _bolt(workload: Workload, setup: Setup) -> Command:
    names = ("llvm-bolt", *(f"llvm-bolt-{version}" for version in range(25, 13, -1)))
    tool = next((path for name in names if (path := shutil.which(name))), None)
    if tool is None:
        raise UnavailableError("llvm-bolt is not installed (Debian package bolt-16)")
    program = build(workload, setup.cache, "gcc", ("-Wl,-q",))
    output = setup.place(workload, "bolt")
    # By its real path: it looks for its run-time library beside itself.
    command = (Path(tool).resolve(), "-instrument", program, "-o", output)
    done(*command, f"--instrumentation-file={output}.fdata", directory=setup.scratch)
    return Command((str(output),))


def _e9patch(workload: Workload, setup: Setup) -> Command:
    tool = found("e9tool")
    if not (setup.scratch / "e9counter").exists():
        compiler = shutil.which("e9compile") or found("e9compile.sh")
        shutil.copy(PROGRAMS / "e9counter.c", setup.scratch)
        done(compiler, "e9counter.c", directory=setup.scratch)
    output = setup.place(workload, "e9patch")
    probe = ("-M", "BB.entry", "-P", "entry<naked>(BB.offset)@e9counter")
    # Its highest level of compression, the default, meets an assertion in builds that have any.
    done(tool, "-c", "5", *probe, build(workload, setup.cache), "-o", output, directory=setup.scratch)
    return Command((str(output),))


def _callgrind(workload: Workload, setup: Setup) -> Command:
    options = ("--tool=callgrind", f"--callgrind-out-file={setup.scratch}/callgrind.out")
    return Command((found("valgrind", "valgrind"), "-q", *options, str(build(workload, setup.cache))))


def _qemu(plugin: bool, workload: Workload, setup: Setup) -> Command:
    tool = found("qemu-x86_64", "qemu-user")
    program = str(build(workload, setup.cache))
    if not plugin:
        return Command((tool, program))
    library = str(compile_helper(setup.cache, "qemu_counter.c"))
    done(tool, "-plugin", library, "/bin/true", directory=setup.scratch)
    return Command((tool, "-plugin", library, program))


def _frida_stalker(workload: Workload, setup: Setup) -> Command:
    frida_tool.available()
    program = build(workload, setup.cache)
    main = Binary.open(program).functions("main")[0].address
    run = partial(frida_tool.run_with, frida_tool.stalker(main), compile_helper(setup.cache, "hold.c"))
    return Command((str(program),), run=run)


def _frida_interceptor(returns: bool, workload: Workload, setup: Setup) -> Command:
    frida_tool.available()
    program = build(workload, setup.cache)
    # _start is not called and has no return address, on which Frida relies: arguments get lost in some runs.
    functions = [f.address for f in Binary.open(program).functions() if f.refusal is None and f.name != "_start"]
    script = frida_tool.interceptor(functions, returns)
    return Command((str(program),), run=partial(frida_tool.run_with, script, compile_helper(setup.cache, "hold.c")))


BINARY_TOOLS: Final = (
    Contender("BOLT -instrument", "edges", _bolt, slow=True),
    Contender("e9patch", "blocks", _e9patch, slow=True),
    Contender("QEMU plugin, inline", "blocks", partial(_qemu, True), slow=True),
    Contender("QEMU, no plugin", "nothing", partial(_qemu, False), slow=True),
    Contender("Frida Stalker, inline", "blocks", _frida_stalker, slow=True),
    Contender("valgrind callgrind", "instructions", _callgrind, slow=True),
    Contender("Frida Interceptor", "entries", partial(_frida_interceptor, False), slow=True),
    Contender("Frida Interceptor+return", "entries and returns", partial(_frida_interceptor, True), slow=True),
)
