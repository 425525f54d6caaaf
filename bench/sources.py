"""Sources of real libraries, from the package mirror that this machine's apt is configured with.

    directory = fetch("zlib", cache)

A private apt configuration (lists, sources, caches below the cache folder) names the mirror's source packages: nothing
of the system's is changed, and no root rights are needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache as once
from pathlib import Path
from typing import Final

_FORMAT: Final = "deb-src $(REPO_URI) $(RELEASE) $(COMPONENT)"


class UnavailableError(Exception):
    """What a benchmark needs cannot be had here; the message is one line."""


def fetch(package: str, cache: Path) -> Path:
    """The unpacked source package, Debian's patches applied: from the cache folder, else from the mirror.

    Raises UnavailableError.
    """
    target = cache / "sources" / package
    if not target.is_dir():
        for tool in ("apt-get", "dpkg-source"):
            if shutil.which(tool) is None:
                raise UnavailableError(f"sources of {package} cannot be had: {tool} is not installed (dpkg-dev has it)")
        options = _apt(cache)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            _run(["apt-get", "-qq", *options, "source", package], Path(temporary), package)
            found = [path for path in Path(temporary).iterdir() if path.is_dir()]
            if len(found) != 1:
                raise UnavailableError(f"sources of {package} cannot be had: apt-get unpacked {len(found)} folders")
            found[0].rename(target)
    return target


def version(package: str, cache: Path) -> str:
    """The package version of fetched sources, as its changelog says."""
    changelog = (cache / "sources" / package / "debian" / "changelog").read_text(errors="replace")
    return changelog.partition("(")[2].partition(")")[0]


@once
def _apt(cache: Path) -> tuple[str, ...]:
    """Options of apt-get that make it use source packages of the configured mirror; their lists are up to date."""
    asked = subprocess.run(
        ["apt-get", "indextargets", "--format", _FORMAT, "Created-By: Packages", "Origin: Debian"],
        capture_output=True,
        text=True,
    )
    lines = list(dict.fromkeys(asked.stdout.splitlines()))  # in the configured order: apt takes the first that has it
    if not lines:
        raise UnavailableError("sources cannot be had: apt knows no Debian mirror here (run apt-get update)")
    private = cache.absolute() / "apt"
    (private / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    listing = private / "sources.list"
    listing.write_text("\n".join(lines) + "\n")
    options = (
        *("-o", f"Dir::Etc::SourceList={listing}", "-o", "Dir::Etc::SourceParts=/dev/null"),
        *("-o", f"Dir::State::Lists={private / 'lists'}", "-o", f"Dir::Cache={private}"),
        *("-o", "APT::Sandbox::User=root" if os.geteuid() == 0 else "Debug::NoLocking=true"),
    )
    _run(["apt-get", "-qq", *options, "update"], private, "Debian")
    return options


def _run(command: Sequence[str], directory: Path, what: str) -> None:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith(("E:", "W:"))] or done.stderr.splitlines()
        raise UnavailableError(f"sources of {what} cannot be had: {lines[-1] if lines else 'apt-get failed'}")
