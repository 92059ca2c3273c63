"""What is wrong with a manifest: collected all at once, then told sorted by line.

A check adds problems by key path, a tuple of keys and array positions; where a path stands in the file is looked up by
lines.py only when there is something to tell. The text form is exact (outside checks depend on it); the code of a
problem is in the JSON form and in docs/manifest.md.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    KeyPath = tuple[str | int, ...]

EXCERPT = 100  # characters of a line that are shown
# Stands in a message or hint for the line of the key path given as `see`: it can stand in no text that was quoted.
LINE = "\0"

_BARE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"


class Problem:
    """One thing to correct ("error") or to know ("warning"); line and column count from 1, 0 is the whole file."""

    __slots__ = ("code", "column", "hint", "key_path", "line", "message", "severity")

    def __init__(
        self,
        line: int,
        key_path: str,
        message: str,
        hint: str | None,
        code: str,
        severity: str = "error",
        column: int = 0,
    ) -> None:
        self.line = line
        self.key_path = key_path
        self.message = printable(message)
        self.hint = hint and printable(hint)
        self.code = code
        self.severity = severity
        self.column = column

    def __repr__(self) -> str:
        return f"<{self.severity} {self.code} at line {self.line}: {self.key_path}: {self.message}>"

    def as_dict(self, path: str) -> dict[str, object]:
        """Return the form of `check --json`, complete and in a fixed order."""
        return {
            "file": path,
            "line": self.line,
            "column": self.column,
            "key": self.key_path,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
        }

    def render(self, path: str) -> str:
        """Return `file:line: key: message`, the hint below it and indented to where the key path begins."""
        where = path
        if self.line:
            where += f":{self.line}"
            if self.column:
                where += f":{self.column}"
        where += ": "
        text = where
        if self.severity == "warning":
            text += "warning: "
        if self.key_path:
            text += self.key_path + ": "
        text += self.message
        for line in (self.hint or "").splitlines():
            text += "\n" + " " * len(where) + line
        return text


class Report:
    """The problems found so far, by key path."""

    __slots__ = ("_found", "_text", "errors", "files")

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: list[tuple[KeyPath, str, str, str | None, KeyPath | None, str]] = []
        self.errors = 0
        self.files: tuple[str, ...] = ()  # of code, there or not, that errors are about

    def error(
        self, path: KeyPath, code: str, message: str, hint: str | None = None, *, see: KeyPath | None = None
    ) -> None:
        """Add what keeps the manifest from being used; LINE in message or hint becomes the line of `see`."""
        self._found.append((path, code, message, hint, see, "error"))
        self.errors += 1

    def warning(
        self, path: KeyPath, code: str, message: str, hint: str | None = None, *, see: KeyPath | None = None
    ) -> None:
        """Add what works but should be known."""
        self._found.append((path, code, message, hint, see, "warning"))

    def tells_of(self, path: KeyPath) -> bool:
        """Whether a problem of just this key was added: then no second one is of use."""
        return any(found[0] == path for found in self._found)

    def problems(self) -> list[Problem]:
        """Return everything found, sorted by line, errors and warnings together."""
        if not self._found:
            return []
        from nuclio_edge.manifest.lines import line_of, scan

        lines = scan(self._text)
        result = []
        for path, code, message, hint, see, severity in self._found:
            line = "" if see is None else str(line_of(lines, see))
            said = message.replace(LINE, line)
            more = hint and hint.replace(LINE, line)
            result.append(Problem(line_of(lines, path), key_text(path), said, more, code, severity))
        result.sort(key=lambda problem: problem.line)
        return result


def key_text(path: KeyPath) -> str:
    """Return the key path as one types it: `function.thermostat.trigger[0].source`; odd keys are quoted."""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            text += ("." if text else "") + (key if key and all(c in _BARE for c in key) else quote(key))
    return text


def quote(value: str, limit: int = 60) -> str:
    """Return the text in double quotes, on one line, without control characters, shortened to `limit`."""
    if len(value) > limit:
        value = value[: limit - 1] + "…"
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else _escape(c) for c in value) + '"'


def excerpt(line: str, column: int) -> str:
    """A line of a file with a caret below its `column`, from 1; of a long one what is around that."""
    line = line.replace("\t", " ")
    at = min(max(column - 1, 0), len(line))
    start = max(at - EXCERPT // 2, 0) if len(line) > EXCERPT else 0
    piece = line[start : start + EXCERPT]
    before, after = "…" if start else "", "…" if start + EXCERPT < len(line) else ""
    return before + piece + after + "\n" + " " * (len(before) + at - start) + "^"


def printable(text: str) -> str:
    """Return the text with its control characters escaped, newlines kept: a manifest writes nothing to a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _escape(c) for c in text)


def _escape(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[char]
    return f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}"


def suggest(word: str, known: Iterable[str]) -> str | None:
    """Return `did you mean "…"?` for the known word nearest to a mistyped one, or None when none is near."""
    near = nearest(word, known)
    return f"did you mean {quote(near)}?" if near is not None else None


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that was probably meant, or None."""
    from difflib import get_close_matches

    by_lower = {name.lower().replace("-", "_"): name for name in known}
    found = get_close_matches(word.lower().replace("-", "_"), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return `a`, `a and b`, `a, b and c`."""
    items = list(words)
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + f" {last} {items[-1]}"


def render(
    problems: Sequence[Problem], path: str, *, warnings: bool = False, outcome: str = "nothing was started"
) -> str:
    """Return the errors as a terminal shows them, closed by how many there are and what has come of them.

    With `warnings` these stand among them, in the order of the problems.
    """
    errors = sum(problem.severity == "error" for problem in problems)
    shown = [problem.render(path) for problem in problems if warnings or problem.severity == "error"]
    count = "1 problem" if errors == 1 else f"{errors} problems"
    return "\n".join([*shown, f"{count} in {path}; {outcome}."])


def render_warnings(problems: Sequence[Problem], path: str) -> str:
    """Return the warnings as a terminal shows them, "" when there are none."""
    return "\n".join(problem.render(path) for problem in problems if problem.severity == "warning")
