"""C++ and Rust names as people write them.

C++ names go through the demangler of libstdc++, which numpy and llvmlite need anyway; without it names stay
mangled. Rust's two schemes are read here.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Final

from lifter.image.rust_v0 import demangle_v0

_LONGEST: Final = 8192
"""Longer names stay as they are: the demangled form can grow exponentially."""
_RUST_LEGACY: Final = re.compile(r"(_ZN.+?17h[0-9a-f]{16}E)(\.llvm\.[0-9A-F]+)?(.*)", re.DOTALL)
_ESCAPES: Final = {
    "SP": "@", "BP": "*", "RF": "&", "LT": "<", "GT": ">", "LP": "(", "RP": ")", "C": ",",
}  # fmt: skip


@lru_cache(maxsize=1 << 17)
def demangle(name: str) -> str:
    """`name` demangled; `name` itself where it is no mangled name."""
    if len(name) > _LONGEST or not name.startswith("_"):
        return name
    if name.startswith("_R"):
        return demangle_v0(name) or name
    if not name.startswith("_Z"):
        return name
    if (match := _RUST_LEGACY.fullmatch(name)) and (rust := _rust_legacy(match[1])):
        return rust + match[3]
    return _itanium()(name) or name


def _rust_legacy(name: str) -> str:
    """A name of Rust's first scheme: an Itanium nested name with a hash as its last part; '' otherwise."""
    at, parts = 3, []
    while name[at] != "E":
        digits = re.match(r"\d+", name[at:])
        if digits is None:
            return ""
        at += digits.end()
        size = int(digits[0])
        parts.append(name[at : at + size])
        at += size
        if at >= len(name):
            return ""
    if at != len(name) - 1:
        return ""
    return "::".join(_unescape(part) for part in parts[:-1])


def _unescape(part: str) -> str:
    if part.startswith("_$"):
        part = part[1:]

    def replace(match: re.Match[str]) -> str:
        if match[0] == "..":
            return "::"
        if match[1].startswith("u"):
            return chr(int(match[1][1:], 16))
        return _ESCAPES[match[1]]

    return re.sub(r"\$(SP|BP|RF|LT|GT|LP|RP|C|u[0-9a-f]{1,4})\$|\.\.", replace, part)


@cache
def _itanium() -> Callable[[str], str]:
    """libstdc++'s demangler, or one that knows nothing where there is no libstdc++."""
    try:
        function = ctypes.CDLL("libstdc++.so.6").__cxa_demangle
        free = ctypes.CDLL(None).free
    except (OSError, AttributeError):
        return lambda name: ""
    function.restype = ctypes.c_void_p
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
    free.argtypes = [ctypes.c_void_p]
    free.restype = None
    status = ctypes.c_int()

    def call(name: str) -> str:
        result = function(name.encode("utf-8", "replace"), None, None, status)
        if not result:
            return ""
        text = ctypes.string_at(result).decode("utf-8", "replace")
        free(result)
        return text

    return call
