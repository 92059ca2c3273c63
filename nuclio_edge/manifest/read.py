"""A manifest's file -> its text and its TOML; what is wrong with the file itself is one problem.

tomli on every Python: it reads TOML 1.1 and tells lines, the standard library's tomllib does neither before 3.14.
"""

from __future__ import annotations

import os
import stat
import sys

from nuclio_edge.manifest.problems import Problem, excerpt, key_text
from nuclio_edge.toml import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_LIMIT = 16 << 20  # bytes
_BOM = b"\xef\xbb\xbf"  # as some editors of Windows write it
_DUPLICATE = ("Cannot overwrite", "Cannot declare", "Cannot mutate", "Cannot redefine")
_SENSITIVE = ("pass", "secret", "token", "key", "credential", "private", "auth")


def read(path: str) -> tuple[str, dict[str, Any] | None, Problem | None]:
    """Return (text, tables, None), or ("", None, the problem)."""
    try:
        content = _content(path)
    except FileNotFoundError:
        return "", None, Problem(0, "", "there is no such file", None, "E101")
    except IsADirectoryError:
        return "", None, Problem(0, "", "this is a folder", f"did you mean {path.rstrip('/')}/edge.toml?", "E101")
    except OSError as error:
        return "", None, Problem(0, "", f"cannot be read: {(error.strerror or str(error)).lower()}", None, "E101")
    if content is None:
        return "", None, Problem(0, "", "is a pipe without a word in it", None, "E101")
    if len(content) > _LIMIT:
        return "", None, Problem(0, "", f"is larger than {_LIMIT >> 20} MiB", "this cannot be a manifest", "E101")
    content = content.removeprefix(_BOM)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        found = f"byte 0x{content[error.start]:02x} is not UTF-8"
        return "", None, Problem(line, "", found, "save the file as UTF-8", "E102", column=column)
    try:
        return text, parse(text), None
    except RecursionError:
        return "", None, Problem(0, "", "is nested too deeply", None, "E103")
    except ValueError as error:
        import tomli

        if isinstance(error, tomli.TOMLDecodeError):
            return "", None, _syntax(text, error)
        # tomli lets those of int() through
        return "", None, Problem(_line_of_long_number(text), "", "a number of too many digits", str(error), "E103")


def _content(path: str) -> bytes | None:
    """What stands in the file, or waits in the pipe (`check <(…)`); None for a pipe that nobody writes to."""

    def without_waiting(path: str, flags: int) -> int:
        return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)

    with open(path, "rb", opener=without_waiting) as file:
        os.set_blocking(file.fileno(), True)
        content = file.read(_LIMIT + 1)
        return content if content or not stat.S_ISFIFO(os.fstat(file.fileno()).st_mode) else None


def _line_of_long_number(text: str) -> int:
    """The first line with more digits in a row than Python makes a number of; 0 for none."""
    run = 0
    line = 1
    for char in text:
        run = run + 1 if char.isdigit() or char == "_" else 0
        line += char == "\n"
        if run > sys.get_int_max_str_digits():
            return line
    return 0


def _syntax(text: str, error: Any) -> Problem:
    """Return the problem at the parser's place, with the line of the file and a caret."""
    from nuclio_edge.manifest.lines import Lines

    text = text.replace("\r\n", "\n")  # as the parser counts
    if error.msg.startswith(_DUPLICATE):
        lines = Lines(text)
        if lines.duplicate is not None:
            path, line = lines.duplicate
            hint = f"first at line {lines.found[path]}"
            return Problem(line, key_text(path), "is there twice", hint, "E104")
    message = error.msg[:1].lower() + error.msg[1:]
    found = (text.splitlines() or [""])[error.lineno - 1 : error.lineno]
    source = found[0] if found else ""
    hint = excerpt(source, error.colno)
    # The key on this line, and, where a long string or an array goes over lines, the last one before it.
    before = [path for path, line in Lines(text).found.items() if line <= error.lineno][-1:]
    name = source.partition("=")[0] + "".join(map(key_text, before))
    if any(word in name.lower() for word in _SENSITIVE):
        hint = "(the line is not shown: it may hold a secret)"
    code = "E104" if error.msg.startswith(_DUPLICATE) else "E103"
    return Problem(error.lineno, "", message, hint, code, column=error.colno)
