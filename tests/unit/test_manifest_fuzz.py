"""Whatever stands in a manifest, a check answers with problems: it never fails itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuclio_edge.manifest import check
from nuclio_edge.manifest.problems import render, render_warnings

if TYPE_CHECKING:
    from tests.unit.test_manifest_lines import Path as KeyPath

GOOD = Path(__file__).parents[1] / "data" / "good"
WHOLE: dict[str, Any] = tomli.loads((GOOD / "whole.toml").read_text())

words = st.sampled_from(
    "|a|broker|clock|inside|mqtt|memory|timer|http|5s|0s|64MiB|1/s|#|a/+b|{device.name}|{device.|\0|é|../x|handler|"
    "functions/good.py:handler|:|a=b|process|\0.py|/".split("|")
)
plain: st.SearchStrategy[Any] = (
    words | st.booleans() | st.integers(-1, 1 << 70) | st.floats() | st.just([]) | st.just({})
)
anything = st.recursive(
    plain, lambda one: st.lists(one, max_size=2) | st.dictionaries(words, one, max_size=2), max_leaves=4
)


def places(value: Any, path: KeyPath = ()) -> list[KeyPath]:
    """Return the path of every value in a tree."""
    found: list[KeyPath] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(*path, key), *places(item, (*path, key))]
    return found


def toml(value: Any) -> str:
    """Return a value as TOML, all in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value).replace("NaN", "nan").replace("Infinity", "inf")


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A good manifest of which a few values were replaced, removed or put under another key."""
    whole: Any = json.loads(json.dumps(WHOLE))
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(places(whole) or [("schema",)]))
        inner: Any = whole
        for key in way:
            inner = inner[key]
        if draw(st.booleans()):
            inner[last] = draw(anything)
        elif isinstance(inner, dict):
            value = inner.pop(last, None)
            if value is not None and draw(st.booleans()):
                inner[draw(words | st.sampled_from(["source", "topic", "every", "code", "path", "select"]))] = value
    return "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in whole.items())


@pytest.fixture(scope="module")
def path() -> Any:
    """Return a file that every example writes anew, beside the good manifests' functions."""
    file = GOOD / f"fuzz-{id(words):x}.toml.tmp"
    yield file
    file.unlink(missing_ok=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=damaged())
def test_a_damaged_manifest_is_told_and_never_a_crash(text: str, path: Path) -> None:
    path.write_text(text)
    manifest, problems = check(str(path))
    errors = [problem for problem in problems if problem.severity == "error"]
    assert (manifest is None) == bool(errors)
    for problem in problems:
        assert problem.message
        assert problem.line <= text.count("\n") + 1
    shown = render(problems, "edge.toml") + render_warnings(problems, "edge.toml")
    assert all(char.isprintable() or char == "\n" for char in shown)


@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_a_manifest_or_a_problem(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    manifest, problems = check(str(path))
    assert (manifest is None) == any(problem.severity == "error" for problem in problems)
    render(problems, "edge.toml")
