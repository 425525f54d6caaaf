"""Rust's second mangling scheme ('v0', RFC 2603), read by recursive descent over its grammar."""

from __future__ import annotations

import re
from typing import Final

_BASIC: Final = {
    "a": "i8", "b": "bool", "c": "char", "d": "f64", "e": "str", "f": "f32", "h": "u8", "i": "isize",
    "j": "usize", "l": "i32", "m": "u32", "n": "i128", "o": "u128", "p": "_", "s": "i16", "t": "u16",
    "u": "()", "v": "...", "x": "i64", "y": "u64", "z": "!",
}  # fmt: skip
_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DEEPEST: Final = 100
_LONGEST: Final = 1 << 16
"""Characters of output: back references can make it exponentially long."""
_NAME: Final = re.compile(r"_R(?!\d)([A-Za-z0-9_]+)(.*)", re.DOTALL)


class _Invalid(Exception):
    """Not a name of this scheme after all."""


def demangle_v0(name: str) -> str:
    """`name` (which starts with '_R') as Rust would write the path; '' where it is no such name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return ""
    parser = _Parser(match[1])
    try:
        text = parser.path(in_value=True)
        if parser.at < len(parser.text):
            # The crate that a generic was instantiated in.
            parser.path(in_value=False)
        if parser.at != len(parser.text):
            return ""
    except _Invalid:
        return ""
    return text + re.sub(r"^\.llvm\.[0-9A-F@]+", "", match[2])


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.lifetimes = 0
        """How many lifetimes the binders around bind."""
        self.output = 0

    def _peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def _next(self) -> str:
        if self.at >= len(self.text):
            raise _Invalid
        self.at += 1
        return self.text[self.at - 1]

    def _eat(self, letter: str) -> bool:
        if self._peek() == letter:
            self.at += 1
            return True
        return False

    def _base62(self) -> int:
        """'_' is 0, '0_' is 1 and so on."""
        if self._eat("_"):
            return 0
        value = 0
        while (letter := self._next()) != "_":
            value = value * 62 + _DIGITS.index(letter)
            if value > 1 << 64:
                raise _Invalid
        return value + 1

    def _optional(self, tag: str) -> int:
        return self._base62() + 1 if self._eat(tag) else 0

    def _made(self, text: str) -> str:
        self.output += len(text)
        if self.output > _LONGEST:
            raise _Invalid
        return text

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise _Invalid

    def _goto(self) -> int:
        """Follows a back reference; returns where to go on after it."""
        here = self.at - 1
        target = self._base62()
        if target >= here:
            raise _Invalid
        resume, self.at = self.at, target
        return resume

    def _identifier(self) -> tuple[int, str]:
        """Disambiguator and name."""
        number = self._optional("s")
        return number, self._plain_identifier()

    def _plain_identifier(self) -> str:
        is_punycode = self._eat("u")
        digits = re.match(r"0|[1-9]\d{0,5}", self.text[self.at : self.at + 6])
        if digits is None:
            raise _Invalid
        self.at += digits.end()
        size = int(digits[0])
        self._eat("_")
        name = self.text[self.at : self.at + size]
        if len(name) != size:
            raise _Invalid
        self.at += size
        if is_punycode:
            head, mark, tail = name.rpartition("_")
            try:
                name = (head + "-" + tail if mark else name).encode().decode("punycode")
            except UnicodeError:
                raise _Invalid from None
        return self._made(name)

    def path(self, in_value: bool, open_generics: bool = False) -> str:
        """A path; generic arguments take '::' before them `in_value` position. With `open_generics` the
        closing bracket is left out, for associated types to follow."""
        self._enter()
        tag = self._next()
        if tag == "C":
            _, text = self._identifier()
        elif tag in "MXY":
            if tag != "Y":
                self._optional("s")
                self.path(in_value=False)
            text = self.type()
            text = f"<{text}>" if tag == "M" else f"<{text} as {self.path(in_value=False)}>"
        elif tag == "N":
            text = self._nested(in_value)
        elif tag == "I":
            text = self.path(in_value) + ("::<" if in_value else "<")
            arguments = []
            while not self._eat("E"):
                arguments.append(self._generic_argument())
            text += ", ".join(arguments) + ("" if open_generics else ">")
        elif tag == "B":
            resume = self._goto()
            text = self.path(in_value, open_generics)
            self.at = resume
        else:
            raise _Invalid
        self.depth -= 1
        return self._made(text)

    def _nested(self, in_value: bool) -> str:
        space = self._next()
        outer = self.path(in_value)
        number, name = self._identifier()
        if space.islower():
            return f"{outer}::{name}" if name else outer
        kind = {"C": "closure", "S": "shim"}.get(space, space)
        return f"{outer}::{{{kind}{':' + name if name else ''}#{number}}}"

    def _generic_argument(self) -> str:
        if self._eat("L"):
            return self._lifetime(self._base62())
        if self._eat("K"):
            return self._const()
        return self.type()

    def _lifetime(self, index: int) -> str:
        if not index:
            return "'_"
        depth = self.lifetimes - index
        if depth < 0:
            raise _Invalid
        return f"'{chr(ord('a') + depth)}" if depth < 26 else f"'_{depth}"

    def _binder(self) -> tuple[int, str]:
        """How many lifetimes a binder adds, and its text."""
        count = self._optional("G")
        if count > 1 << 10:
            raise _Invalid
        names = []
        for _ in range(count):
            self.lifetimes += 1
            names.append(self._lifetime(1))
        return count, f"for<{', '.join(names)}> " if names else ""

    def type(self) -> str:
        """A type."""
        self._enter()
        text = self._type(self._next())
        self.depth -= 1
        return self._made(text)

    def _type(self, tag: str) -> str:
        if tag in _BASIC:
            return _BASIC[tag]
        if tag in "RQ":
            lifetime = self._base62() if self._eat("L") else 0
            name = self._lifetime(lifetime) + " " if lifetime else ""
            return f"&{name}{'mut ' if tag == 'Q' else ''}{self.type()}"
        if tag in "PO":
            return f"*{'const' if tag == 'P' else 'mut'} {self.type()}"
        if tag == "S":
            return f"[{self.type()}]"
        if tag == "A":
            element = self.type()
            return f"[{element}; {self._const()}]"
        if tag == "T":
            parts = []
            while not self._eat("E"):
                parts.append(self.type())
            return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
        if tag == "F":
            return self._function()
        if tag == "D":
            return self._dynamic()
        if tag == "B":
            resume = self._goto()
            text = self.type()
            self.at = resume
            return text
        self.at -= 1
        return self.path(in_value=False)

    def _function(self) -> str:
        bound, text = self._binder()
        if self._eat("U"):
            text += "unsafe "
        if self._eat("K"):
            abi = "C" if self._eat("C") else self._plain_identifier().replace("_", "-")
            text += f'extern "{abi}" '
        parts = []
        while not self._eat("E"):
            parts.append(self.type())
        text += f"fn({', '.join(parts)})"
        result = self.type()
        self.lifetimes -= bound
        return text if result == "()" else f"{text} -> {result}"

    def _dynamic(self) -> str:
        bound, binder = self._binder()
        traits = []
        while not self._eat("E"):
            traits.append(self._trait())
        self.lifetimes -= bound
        if not self._eat("L"):
            raise _Invalid
        lifetime = self._base62()
        end = f" + {self._lifetime(lifetime)}" if lifetime else ""
        return f"dyn {binder}{' + '.join(traits)}{end}"

    def _trait(self) -> str:
        start = self.at
        text = self.path(in_value=False, open_generics=True)
        is_open = self._is_generic(start)
        while self._eat("p"):
            name = self._plain_identifier()
            text += f"{', ' if is_open else '<'}{name} = {self.type()}"
            is_open = True
        return text + (">" if is_open else "")

    def _is_generic(self, at: int) -> bool:
        """Whether the path at `at`, already read once, has generic arguments."""
        resume, self.at = self.at, at
        while self._eat("B"):
            self._goto()
        found = self._peek() == "I"
        self.at = resume
        return found

    def _const(self) -> str:
        self._enter()
        tag = self._next()
        if tag == "p":
            text = "_"
        elif tag == "B":
            resume = self._goto()
            text = self._const()
            self.at = resume
        elif tag in "aslxni":
            sign = "-" if self._eat("n") else ""
            text = sign + self._number()
        elif tag in "htmyoj":
            text = self._number()
        elif tag == "b":
            text = {"0": "false", "1": "true"}.get(self._number(), "")
        elif tag == "c":
            text = self._character(int(self._number(), 0))
        else:
            raise _Invalid
        if not text:
            raise _Invalid
        self.depth -= 1
        return self._made(text)

    def _number(self) -> str:
        match = re.compile(r"([0-9a-f]*)_").match(self.text, self.at)
        if match is None:
            raise _Invalid
        self.at = match.end()
        value = int(match[1] or "0", 16)
        return str(value) if value < 1 << 64 else hex(value)

    @staticmethod
    def _character(code: int) -> str:
        if code > 0x10FFFF:
            raise _Invalid
        return repr(chr(code)) if code != ord("'") else "'\\''"
