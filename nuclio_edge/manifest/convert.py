"""TOML values -> checked values, by Field.

A Converter never stops at the first problem: it reports, returns BAD for the value, and goes on with the next key. What
a user wrote is repeated in a message only where it cannot be a secret.
"""

from __future__ import annotations

import os.path

from nuclio_edge.manifest.problems import listed, quote, suggest
from nuclio_edge.manifest.schema import ReportedError, Secret, values
from nuclio_edge.manifest.units import duration_ms, rate_per_s, size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nuclio_edge.manifest.problems import KeyPath, Report
    from nuclio_edge.manifest.schema import Field, Fields, Values
    from nuclio_edge.manifest.substitute import Words

# What a value that was reported becomes; no table holding one gets as far as being used.
BAD: Any = type("Bad", (), {"__slots__": (), "__repr__": lambda _self: "BAD"})()

_UNITS: dict[str, tuple[Callable[[str], float | None], str, str]] = {
    "duration": (duration_ms, '"5s"', "E112"),
    "size": (size_bytes, '"64MiB"', "E113"),
    "rate": (rate_per_s, '"100/s"', "E114"),
}

# type -> (what it is called, the Python types of the TOML value)
_SHAPES: dict[str, tuple[str, tuple[type, ...]]] = {
    "string": ("a string", (str,)),
    "integer": ("a whole number", (int,)),
    "number": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "duration": ("a duration in quotes", (str,)),
    "size": ("a size in quotes", (str,)),
    "rate": ("a rate in quotes", (str,)),
    "path": ("a path in quotes", (str,)),
    "secret": ('{ secret = "name" }', (dict,)),
    "list": ("a list", (list,)),
    "table": ("a table", (dict,)),
    "map": ("a table", (dict,)),
}


def shape_of(value: object) -> str:
    """Return what a TOML value is called in a message, never what it holds."""
    if isinstance(value, bool):
        return str(value).lower()
    for kind, name in ((str, "a string"), (int, "a whole number"), (float, "a number"), (list, "a list")):
        if isinstance(value, kind):
            return name
    return "a table" if isinstance(value, dict) else "a date or time"


def _is(value: Any, types: tuple[type, ...]) -> bool:
    """Whether a TOML value is of one of these types: to TOML, unlike to Python, true is no number."""
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def has_bad(values: Values) -> bool:
    """Whether any of the values was reported; then nothing more can be said of them."""
    return any(getattr(values, key) is BAD for key in values.__slots__)


class Known:
    """A table of which some values were reported, as checks see it: asking for one of these raises ReportedError."""

    __slots__ = ("_parts", "_path", "_values")

    def __init__(self, values: Values, path: KeyPath, parts: Mapping[KeyPath, Any]) -> None:
        self._values = values
        self._path = path
        self._parts = parts

    def __getattr__(self, key: str) -> Any:
        return self._known(getattr(self._values, key), (*self._path, key))

    def _known(self, value: Any, path: KeyPath) -> Any:
        if value is not BAD:
            return value
        if path not in self._parts:
            raise ReportedError
        part = self._parts[path]
        if not isinstance(part, dict):
            return Known(part, path, self._parts)
        good = (key for key, item in part.items() if item is not BAD or (*path, key) in self._parts)
        return {key: self._known(part[key], (*path, key)) for key in good}


class Converter:
    """Turns the tables of one manifest into values."""

    __slots__ = ("_defaults", "_secret", "folder", "parts", "report", "source", "words")

    def __init__(self, report: Report, folder: str, words: Words, secret: Callable[[str], bytes]) -> None:
        self.report = report
        self.folder = folder
        self.words = words
        self._secret = secret
        self.source = ""  # the name of the source whose table is being read: {source} in its defaults
        self._defaults: dict[int, Values] = {}
        self.parts: dict[KeyPath, Any] = {}  # of each table inside another that is BAD as a whole, what it holds

    def table(self, fields: Fields, raw: Mapping[str, Any], path: KeyPath, *, extra: Fields | None = None) -> Values:
        """Return the values of a table; a value that was reported is BAD, an unknown key is reported.

        `extra` are keys that are known here and read elsewhere.
        """
        for key in raw:
            if key not in fields and (extra is None or key not in extra):
                self.unknown(key, [*fields, *(extra or ())], path)
        contents = {}
        for key, field in fields.items():
            if key in raw:
                contents[key] = self.value(field, raw[key], (*path, key))
            elif field.required:
                self.report.error((*path, key), "E117", "is missing", field.doc or None)
                contents[key] = BAD
            else:
                contents[key] = self.default(field, path)
        return values(tuple(fields), contents)

    def unknown(self, key: str, known: list[str], path: KeyPath) -> None:
        """Report a key that means nothing here."""
        hint = suggest(key, known) or (f"known here: {', '.join(known)}" if known else "nothing may stand here")
        self.report.error((*path, key), "E110", "unknown key", hint)

    def default(self, field: Field, path: KeyPath) -> Any:
        """Return a field's default; defaults of the same field are one object."""
        if field.template and field.default is not None:
            return self.words.fill(field.default.replace("{source}", self.source), path, self.report)
        if field.type == "table" and field.default == {}:
            key = id(field)
            if key not in self._defaults:
                self._defaults[key] = self.table(field.fields or {}, {}, path)
            return self._defaults[key]
        return field.default

    def value(self, field: Field, raw: Any, path: KeyPath) -> Any:
        """Return the checked value of one field, or BAD after reporting why not."""
        if field.either:
            return self._either(field, raw, path)
        if field.single and not isinstance(raw, list):
            raw = [raw]
        if isinstance(raw, dict) and (field.secret or field.type == "secret"):
            return self.secret(raw, path)
        name, types = _SHAPES[field.type]
        if not _is(raw, types):
            if field.type == "secret" and isinstance(raw, str):
                return self.inline_secret(path)
            self.report.error(path, "E111", f"{name} is expected, found {shape_of(raw)}", _meant(field, raw, path))
            return BAD
        if isinstance(raw, str):
            return self._text(field, raw, path)
        if isinstance(raw, (int, float)):
            return self._bounded(field, float(raw) if field.type == "number" else raw, str(raw), path)
        if isinstance(raw, list):
            return self._list(field, raw, path)
        if field.type == "table":
            made = self.table(field.fields or {}, raw, path)
            return self._whole(made, path) if has_bad(made) else made
        assert field.of is not None  # noqa: S101 - a map says of what
        found = {key: self.value(field.of, item, (*path, key)) for key, item in raw.items()}
        return self._whole(found, path) if BAD in found.values() else found

    def _whole(self, parts: Any, path: KeyPath) -> Any:
        """Return BAD for a table that has a BAD value, and keep the others for the checks that ask for no more."""
        self.parts[path] = parts
        return BAD

    def known(self, values: Values, path: KeyPath) -> Any:
        """Return the values of a table as its checks may see them: what was reported is told once."""
        return Known(values, path, self.parts) if has_bad(values) else values

    def _either(self, field: Field, raw: Any, path: KeyPath) -> Any:
        for one in field.either:
            types = _SHAPES[one.type][1]
            if _is(raw, types):
                return self.value(one, raw, path)
        names = listed((_SHAPES[one.type][0] for one in field.either), "or")
        self.report.error(path, "E111", f"{names} is expected, found {shape_of(raw)}")
        return BAD

    def _text(self, field: Field, raw: str, path: KeyPath) -> Any:
        unit = _UNITS.get(field.type)
        if unit is not None:
            number = unit[0](raw)
            if number is None:
                self.report.error(path, unit[2], f"{quote(raw)} is not a {field.type}; write e.g. {unit[1]}")
                return BAD
            return self._bounded(field, number, quote(raw), path)
        text = raw if field.raw else self.words.fill(raw, path, self.report, field.wildcards)
        if text is None:
            return BAD
        if field.choices is not None and text not in field.choices:
            known = [str(choice) for choice in field.choices]
            message = f"{quote(text)} is none of {listed(map(quote, known), 'and')}"
            self.report.error(path, "E115", message, suggest(text, known))
            return BAD
        if field.minimum is not None and len(text) < field.minimum:
            self.report.error(path, "E116", "must not be empty")
            return BAD
        if field.type == "path":
            if "-----BEGIN" in text:
                return self.inline_secret(path)
            if "\0" in text:
                self.report.error(path, "E116", "a path cannot hold a NUL")
                return BAD
            if text.startswith("sim:"):
                return text  # what the simulated board makes of it; a file of that name is ./sim:…
            return os.path.normpath(os.path.join(self.folder, text))
        return text

    def _bounded(self, field: Field, number: float, shown: str, path: KeyPath) -> Any:
        if field.choices is not None and number not in field.choices:
            message = f"{shown} is none of {listed(map(str, field.choices), 'and')}"
            self.report.error(path, "E115", message)
            return BAD
        low, high = field.minimum, field.maximum
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            self.report.error(path, "E116", f"{shown} is out of range; {_range(field)}")
            return BAD
        return number

    def _list(self, field: Field, raw: list[Any], path: KeyPath) -> Any:
        assert field.of is not None  # noqa: S101 - a list says of what
        found = tuple(self.value(field.of, item, (*path, at)) for at, item in enumerate(raw))
        if BAD in found:
            return BAD
        if field.minimum is not None and len(found) < field.minimum:
            self.report.error(path, "E116", "must not be empty")
            return BAD
        return found

    def inline_secret(self, path: KeyPath) -> Any:
        """Report a secret that stands in the manifest itself."""
        self.report.error(
            path,
            "E121",
            "secrets are never inline",
            f'write {path[-1]} = {{ secret = "name" }} and put the content into the file <secrets_dir>/name',
        )
        return BAD

    def secret(self, raw: Mapping[str, Any], path: KeyPath) -> Any:
        """Return the Secret that `{ secret = "name" }` names, or BAD after reporting why there is none."""
        name = raw.get("secret")
        if set(raw) != {"secret"} or not isinstance(name, str):
            self.report.error(path, "E111", '{ secret = "name" } is expected, with this one key')
            return BAD
        from nuclio_edge.manifest.secrets import env_name, is_name

        if not is_name(name):
            self.report.error(
                path,
                "E123",
                f"{quote(name)} cannot name a secret",
                "letters, digits, dots, hyphens and underscores, the first a letter or digit; never a path",
            )
            return BAD
        try:
            return Secret(name, self._secret(name))
        except LookupError:
            self.report.error(
                path,
                "E122",
                f"no secret is named {quote(name)}",
                f"looked for <secrets_dir>/{name}, $CREDENTIALS_DIRECTORY/{name} and ${env_name(name)}",
            )
        except OSError as error:
            self.report.error(path, "E122", f"the secret {quote(name)} cannot be read: {error.strerror}")
        return BAD


def _meant(field: Field, raw: Any, path: KeyPath) -> str | None:
    """Return what to write in the place of a value of the wrong shape, or None where that is plain."""
    if field.type in _UNITS:
        return f"write e.g. {_UNITS[field.type][1]}"
    if isinstance(raw, list) and len(path) > 2 and isinstance(path[-2], int):
        return f"one each: write a [[{'.'.join(map(str, path[:-2]))}]] for each of them"
    if field.type == "table" and isinstance(raw, int) and not isinstance(raw, bool):
        key, first = next(iter((field.fields or {}).items()))  # what one thinks of at once: attempts of retry
        return f"write {path[-1]} = {{ {key} = {raw} }}" if first.type == "integer" else None
    return None


def _range(field: Field) -> str:
    """Return the bounds of a field in the unit in which it is written."""

    def shown(number: float) -> str:
        if field.type == "duration":
            for unit, factor in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
                if number % factor == 0 and number >= factor:
                    return f'"{int(number) // factor}{unit}"'
            return f'"{int(number)}ms"'
        if field.type == "size":
            for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
                if int(number) % (1 << shift) == 0 and number >= 1 << shift:
                    return f'"{int(number) >> shift}{unit}"'
            return f'"{int(number)}B"'
        if field.type == "rate":
            return f'"{number:g}/s"'
        return f"{number:g}" if isinstance(number, float) else str(number)

    if field.maximum is None:
        return f"at least {shown(field.minimum or 0)}"
    if field.minimum is None:
        return f"at most {shown(field.maximum)}"
    return f"from {shown(field.minimum)} to {shown(field.maximum)}"
