"""A rewrite that is in the store: the same file again, without LLVM, the decoder and the second parser."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from codecache.store import Store
from jit import offline
from jit.builtcache import decode, encode
from jit.startup import Startup
from lifter.errors import ProbeloomError, Refusal
from lifter.image.load import open_image
from tests import handmade

_REWRITE = """
import sys
from jit.cli import main
try:
    main()
finally:
    print(*sorted({"llvmlite", "capstone", "lief", "numba", "unicorn"} & sys.modules.keys()))
"""


def rewrite(program: Path, output: Path, cache: Path) -> str:
    """The libraries that it loaded."""
    arguments = ["rewrite", str(program), "-o", str(output), "--probe", "block:*", "--jobs", "1"]
    done = subprocess.run(
        [sys.executable, "-c", _REWRITE, *arguments],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = f"""
    {handmade.COUNTED} int work(int n) {{ int m = 0; for (int i = 0; i < n; i++) m += i % 5; return m; }}
    {handmade.COUNTED} int other(int n) {{ return n ^ 1; }}
    int main(int c, char **a) {{ return other(work(9 * c)) & 1; }}
    """
    return handmade.build(source, tmp_path_factory.mktemp("recall") / "program", "gcc", "-O1")


@pytest.mark.needs("gcc")
def test_a_known_rewrite_is_written_again_without_loading_what_makes_it(program: Path, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    assert "llvmlite" in rewrite(program, first, tmp_path / "cache")
    assert rewrite(program, second, tmp_path / "cache") == ""
    assert first.read_bytes() == second.read_bytes()
    assert subprocess.run([second], check=False).returncode == subprocess.run([program], check=False).returncode


@pytest.mark.needs("gcc")
def test_only_a_file_that_was_checked_is_not_checked_again(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = open_image(program)
    overlay = handmade.counting_overlay(image)
    store = Store.open(tmp_path / "store")

    def fails(*_: object) -> None:
        raise ProbeloomError("it was looked at")

    with monkeypatch.context() as patched:
        patched.setattr(offline, "_check", fails)
        for _ in range(2):  # what did not pass is looked at again
            with pytest.raises(ProbeloomError, match="looked at"):
                offline.write(image, overlay, tmp_path / "out", store)
    offline.write(image, overlay, tmp_path / "out", store)
    monkeypatch.setattr(offline, "_check", fails)
    offline.write(image, overlay, tmp_path / "again", store)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "out").read_bytes()
    other = handmade.counting_overlay(image, ["other"])
    with pytest.raises(ProbeloomError, match="looked at"):
        offline.write(image, other, tmp_path / "other", store)
    store.close()


def test_start_up_code_from_the_store_is_what_was_compiled(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    built = [
        startup.build(0x4000, 0x2000, 0x1000, library=False) for startup in (Startup(), Startup(store), Startup(store))
    ]
    assert built[0] == built[1] == built[2]
    store.close()


@pytest.mark.needs("gcc")
def test_an_instrumentation_comes_out_of_the_store_as_it_went_in(program: Path) -> None:
    overlay = handmade.counting_overlay(open_image(program))
    refusals = (Refusal(0x1234, "no room", b"\x90\xc3", "a hint", "f"), Refusal(1, ""))
    content = encode(overlay, refusals, {"seconds": {"link": 1.5}})
    assert overlay.patches
    assert decode(content) == (overlay, refusals, {"seconds": {"link": 1.5}})
    for wrong in (content[:-1], content + b"\0", b"", content[:60]):
        with pytest.raises(ValueError, match=r"instrumentation|sizes"):
            decode(wrong)
