"""Where each key of a TOML text stands: key path -> line, for messages.

Made only when there is a problem to tell; the parser keeps no positions. The scanner knows where keys, tables and
values begin and end and nothing of what values mean. It takes any text: what tomli takes it covers whole, and of a
broken text it covers what stands before the fault.

A table's line is that of its header (of the first key that mentions it where it has none), a key's that of the key, an
array element's that of its first character.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from nuclio_edge.manifest.problems import KeyPath

_BARE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b", '"': '"', "\\": "\\"}
_HEX = {"x": 2, "u": 4, "U": 8}


class _BrokenError(Exception):
    """Here the text is no TOML."""


class Lines:
    """One scan. `found` holds the lines, `duplicate` the first key path that is there twice, with its second line."""

    __slots__ = ("_arrays", "_at", "_counted", "_explicit", "_line", "_text", "duplicate", "found")

    def __init__(self, text: str) -> None:
        self.found: dict[KeyPath, int] = {}
        self.duplicate: tuple[KeyPath, int] | None = None
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._line, self._counted = 1, 0
        self._arrays: dict[KeyPath, int] = {}  # arrays of tables: how many elements so far
        self._explicit: set[KeyPath] = set()  # what a header or a value has defined, not only mentioned
        try:
            self._document()
        except (_BrokenError, RecursionError):
            pass

    def _document(self) -> None:
        prefix: KeyPath = ()
        while self._skip_blank():
            if self._take("[["):
                prefix = self._header(array=True)
            elif self._take("["):
                prefix = self._header(array=False)
            else:
                self._pair(prefix)

    def _header(self, *, array: bool) -> KeyPath:
        line = self._now()
        keys = self._keys("]")
        if not self._take("]]" if array else "]"):
            raise _BrokenError
        path: KeyPath = ()
        for key in keys[:-1]:
            path = (*path, key)
            self.found.setdefault(path, line)
            if path in self._arrays:
                path = (*path, self._arrays[path] - 1)
        path = (*path, keys[-1])
        if array:
            if path not in self._arrays and path in self._explicit:
                self._twice(path, line)
            self.found.setdefault(path, line)
            count = self._arrays[path] = self._arrays.get(path, 0) + 1
            path = (*path, count - 1)
        self._define(path, line)
        return path

    def _pair(self, prefix: KeyPath) -> None:
        line = self._now()
        path = prefix
        for key in self._keys("="):
            if len(path) > len(prefix):
                self.found.setdefault(path, line)
            path = (*path, key)
        self._at += 1  # the equals sign
        self._define(path, line)
        self._value(path)

    def _define(self, path: KeyPath, line: int) -> None:
        if path in self._explicit or path in self._arrays:
            self._twice(path, line)
        else:
            self._explicit.add(path)
            self.found[path] = line

    def _twice(self, path: KeyPath, line: int) -> None:
        if self.duplicate is None:
            self.duplicate = (path, line)

    def _keys(self, end: str) -> list[str]:
        """Read a dotted key up to, not including, the character that ends it."""
        keys = []
        while True:
            self._skip_spaces()
            keys.append(self._key())
            self._skip_spaces()
            if self._text.startswith(end, self._at):
                return keys
            if not self._take("."):
                raise _BrokenError

    def _key(self) -> str:
        text, start = self._text, self._at
        quote = text[start : start + 1]
        if quote in ('"', "'") and quote:
            self._string(quote)
            inner = text[start + 1 : self._at - 1]
            return inner if quote == "'" else _unescaped(inner)
        while self._at < len(text) and text[self._at] in _BARE:
            self._at += 1
        if self._at == start:
            raise _BrokenError
        return text[start : self._at]

    def _value(self, path: KeyPath) -> None:
        self._skip_spaces()
        text = self._text
        if self._take("["):
            index = 0
            while self._skip_blank() and not self._take("]"):
                element = (*path, index)
                self.found[element] = self._now()
                self._value(element)
                index += 1
                self._comma("]")
        elif self._take("{"):
            while self._skip_blank() and not self._take("}"):
                self._pair(path)
                self._comma("}")
        elif text.startswith(('"""', "'''"), self._at):
            self._string(text[self._at : self._at + 3])
        elif text.startswith(('"', "'"), self._at):
            self._string(text[self._at])
        else:
            while self._at < len(text) and text[self._at] not in ",]}#\n":
                self._at += 1

    def _comma(self, end: str) -> None:
        if self._skip_blank() and not self._take(",") and not self._text.startswith(end, self._at):
            raise _BrokenError

    def _string(self, quote: str) -> None:
        """Pass over a string; it may hold its own quote escaped, and a long one may end in up to two quotes more."""
        text, at = self._text, self._at + len(quote)
        while True:
            end = text.find(quote, at)
            if end < 0 or (len(quote) == 1 and "\n" in text[at:end]):
                raise _BrokenError
            if quote[0] == '"':
                slash = text.find("\\", at, end)
                if slash >= 0:
                    at = slash + 2
                    continue
            end += len(quote)
            while len(quote) == 3 and text.startswith(quote[0], end):
                end += 1
            self._at = end
            return

    def _skip_spaces(self) -> None:
        while self._text[self._at : self._at + 1] in (" ", "\t") and self._at < len(self._text):
            self._at += 1

    def _skip_blank(self) -> bool:
        """Pass over white space, newlines and comments; False at the end of the text."""
        text = self._text
        while self._at < len(text):
            char = text[self._at]
            if char == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif char in " \t\n":
                self._at += 1
            else:
                return True
        return False

    def _take(self, token: str) -> bool:
        if self._text.startswith(token, self._at):
            self._at += len(token)
            return True
        return False

    def _now(self) -> int:
        """Return the line of the current place; places only grow, so each newline is counted once."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line


def scan(text: str) -> Mapping[KeyPath, int]:
    """Return the line of every key path of a text."""
    return Lines(text).found


def line_of(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """Return the line of a key path; what is not in the file has the line of the table it is missing from, else 0."""
    while path:
        if path in lines:
            return lines[path]
        path = path[:-1]
    return 0


def _unescaped(text: str) -> str:
    at = text.find("\\")
    if at < 0:
        return text
    done = [text[:at]]
    while at < len(text):
        if text[at] != "\\":
            done.append(text[at])
            at += 1
            continue
        letter = text[at + 1 : at + 2]
        digits = _HEX.get(letter, 0)
        if digits:
            try:
                done.append(chr(int(text[at + 2 : at + 2 + digits], 16)))
            except (ValueError, OverflowError):
                raise _BrokenError from None
        else:
            done.append(_ESCAPES.get(letter, ""))
        at += 2 + digits
    return "".join(done)
