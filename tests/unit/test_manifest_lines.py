"""Every key path that tomli yields is found, at the line where it was written."""

from __future__ import annotations

import json
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.manifest.lines import Lines, line_of

Path = tuple[str | int, ...]


def paths(value: Any, path: Path = ()) -> set[Path]:
    found: set[Path] = set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found.add((*path, key))
        found |= paths(item, (*path, key))
    return found


class Writer:
    """Writes a document in one of the many ways that TOML allows, and keeps the line of every key path."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.text = ""
        self.lines: dict[Path, int] = {}

    @property
    def line(self) -> int:
        return self.text.count("\n") + 1

    def choose(self, *ways: str) -> str:
        return self.draw(st.sampled_from(ways))

    def key(self, key: str) -> None:
        bare = key and key.isascii() and all(c.isalnum() or c in "-_" for c in key)
        ways = ["basic"] + ["bare"] * bool(bare) + ["literal"] * ("'" not in key and key.isprintable())
        way = self.choose(*ways)
        self.text += {"bare": key, "literal": f"'{key}'", "basic": json.dumps(key, ensure_ascii=False)}[way]

    def string(self, value: str) -> None:
        way = self.choose("basic", "basic", "long", "folded", "literal", "long literal")
        if way == "literal" and ("'" in value or not value.isprintable()):
            way = "basic"
        if way == "long literal" and ("'''" in value or value.endswith("'") or not value.isprintable()):
            way = "basic"
        escaped = json.dumps(value, ensure_ascii=False)[1:-1]
        self.text += {
            "basic": f'"{escaped}"',
            "long": f'"""\n{escaped}"""',
            "folded": f'"""{escaped}\\\n   \n  ""\\""""""',
            "literal": f"'{value}'",
            "long literal": f"'''\n\n{value}\n#'''",
        }[way]

    def blank(self) -> None:
        self.text += self.choose("", " ", "\n", "  # a = [ { ' \"\n", "\n\n\t")

    def value(self, value: Any, path: Path) -> None:
        if isinstance(value, str):
            self.string(value)
        elif isinstance(value, list):
            self.text += "["
            for index, item in enumerate(value):
                self.blank()
                element = (*path, index)
                self.lines[element] = self.line
                self.value(item, element)
                self.blank()
                self.text += "," if index + 1 < len(value) or self.choose("", ",") else ""
            self.blank()
            self.text += "]"
        elif isinstance(value, dict):
            self.text += "{"
            for index, (key, item) in enumerate(value.items()):
                self.blank()
                self.pair(key, item, path)
                self.blank()
                self.text += "," if index + 1 < len(value) else ""
            self.text += "}"
        else:
            self.text += self.choose(str(value).lower() if isinstance(value, bool) else str(value))

    def pair(self, key: str, value: Any, path: Path) -> None:
        """Write key = value, or a.b = value where the value is a table with one key."""
        inner = (*path, key)
        self.lines[inner] = self.line
        self.key(key)
        if isinstance(value, dict) and len(value) == 1 and self.choose("", "dotted"):
            self.text += self.choose(".", " . ")
            self.pair(*next(iter(value.items())), inner)
            return
        self.text += self.choose("=", " = ", "\t=\t")
        self.value(value, inner)

    def table(self, content: dict[str, Any], path: Path, header: list[str]) -> None:
        """Write a table: plain values first, then tables below it under headers of their own."""
        below: list[tuple[str, Any]] = []
        for key, value in content.items():
            tables = isinstance(value, dict) or (
                isinstance(value, list) and value and all(isinstance(item, dict) for item in value)
            )
            if tables and self.choose("inline", "header") == "header":
                below.append((key, value))
            else:
                self.pair(key, value, path)
                self.text += self.choose("\n", " # x = '\n", "\n\n")
        for key, value in below:
            if isinstance(value, dict):
                self.header([*header, key], "[", "]", (*path, key))
                self.table(value, (*path, key), [*header, key])
            for index, item in enumerate(value if isinstance(value, list) else ()):
                self.lines.setdefault((*path, key), self.line)
                self.header([*header, key], "[[", "]]", (*path, key, index))
                self.table(item, (*path, key, index), [*header, key])

    def header(self, keys: list[str], opens: str, closes: str, path: Path) -> None:
        self.lines[path] = self.line
        self.text += opens
        for index, key in enumerate(keys):
            self.text += self.choose(".", " . ") if index else self.choose("", " ")
            self.key(key)
        self.text += closes + self.choose("\n", " # [no]\n")


keys = st.sampled_from(["a", "b", "c", "a b", "", "3", "é", 'q"', "t\n\x01", "\\", "x]", "x=y", "#"])
text = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=6) | st.sampled_from(
    ["]", "'", '"', "#", "}"]
)
plain = text | st.booleans() | st.integers(0, 99)
trees = st.recursive(
    plain, lambda one: st.lists(one, max_size=3) | st.dictionaries(keys, one, max_size=3), max_leaves=12
)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    writer = Writer(draw)
    writer.table(draw(st.dictionaries(keys, trees, max_size=4)), (), [])
    return writer.text, writer.lines


@given(documents())
def test_every_key_path_is_found_at_the_line_where_it_was_written(document: tuple[str, dict[Path, int]]) -> None:
    written, lines = document
    found = Lines(written)
    assert set(found.found) == paths(tomli.loads(written))
    assert found.found == lines
    assert found.duplicate is None


@given(documents(), st.data())
def test_a_broken_text_is_covered_up_to_where_it_breaks(
    document: tuple[str, dict[Path, int]], data: st.DataObject
) -> None:
    written, lines = document
    cut = data.draw(st.integers(0, len(written)))
    insert = data.draw(st.sampled_from(["", "]", '"', "= =", "\\", "[[["]))
    found = Lines(written[:cut] + insert).found
    complete = written.count("\n", 0, cut)
    for path, line in lines.items():
        assert found.get(path, line) == line or line > complete


def test_carriage_returns_count_no_line() -> None:
    assert Lines('a = 1\r\n[b]\r\nc = """\r\n"""\r\nd = 2\r\n').found == {
        ("a",): 1,
        ("b",): 2,
        ("b", "c"): 3,
        ("b", "d"): 5,
    }


def test_a_table_has_the_line_of_its_own_header_also_when_one_below_it_comes_first() -> None:
    assert Lines("[a.b]\n[a]\nc = 1\n").found[("a",)] == 2


def test_a_key_that_is_missing_has_the_line_of_its_table() -> None:
    lines = Lines('[source.broker]\nkind = "mqtt"\n').found
    assert line_of(lines, ("source", "broker", "url")) == 1
    assert line_of(lines, ("function", "door")) == 0


@pytest.mark.parametrize(
    ("written", "duplicate"),
    [
        ("a = 1\na = 2\n", (("a",), 2)),
        ("[a]\n[b]\n[a]\n", (("a",), 3)),
        ("[[a]]\nb = 1\n'b' = 2\n", (("a", 0, "b"), 3)),
        ("[[a]]\n[a]\n", (("a",), 2)),
        ("a = 1\n[[a]]\n", (("a",), 2)),
        ("[[a]]\nb = 1\n[[a]]\nb = 1\n", None),
        ("[a.b]\n[a]\n", None),
    ],
)
def test_a_key_that_is_there_twice_is_told_with_its_second_line(written: str, duplicate: object) -> None:
    assert Lines(written).duplicate == duplicate


def test_arrays_nested_beyond_reason_end_the_scan_and_nothing_else() -> None:
    assert Lines("b = 1\na = " + "[" * 100_000).found[("b",)] == 1
