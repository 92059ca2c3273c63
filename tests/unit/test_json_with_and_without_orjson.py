"""JSON by orjson, the extra `fast`, and by json alone: the same values, the same documents, the same errors."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import json
import os
import subprocess
import sys
import tracemalloc
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nuclio_edge.core import port_cpython_json as port
from nuclio_edge.core.decode import fields
from nuclio_edge.core.encode import to_response
from tests.interpreters import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

orjson = pytest.importorskip("orjson")

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([n + d for n in (2**53, 2**63, 2**64, 10**18, 10**19) for d in (-1, 0, 1)])
    | st.floats()
    | st.text()
    | st.text(st.characters())  # lone surrogates, too
)
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


class Level(enum.Enum):
    LOW = 1


class Number(enum.IntEnum):
    ONE = 1


class Word(str):
    __slots__ = ()


class Table(dict[str, int]):
    pass


class Told:
    def __log__(self) -> Any:
        return {"told": 1}


@dataclasses.dataclass
class Reading:
    value: int = 1


Pair = collections.namedtuple("Pair", "a b")  # noqa: PYI024 - as handlers have them
strange = st.sampled_from(
    [
        Level.LOW,
        Number.ONE,
        Word("w"),
        Table(a=1),
        Pair(1, 2),
        Told(),
        Reading(),
        uuid.UUID(int=1),
        dt.datetime(2024, 1, 1),  # noqa: DTZ001 - as handlers have them
        dt.date(2024, 1, 1),
        b"bytes",
        {1, 2},
        1j,
        orjson.Fragment(b"]"),
    ]
)
returned = st.recursive(
    scalars | strange,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.floats() | st.none() | st.booleans(), inner)
        | st.dictionaries(st.sampled_from([Level.LOW, Number.ONE, Word("w"), (1,)]), inner)
    ),
    max_leaves=12,
)


def both(work: Callable[[], Any]) -> tuple[Any, Any]:
    """What it gives with orjson and without: its repr, or its error's words."""

    def outcome() -> str:
        try:
            return repr(work())  # tells 1 from 1.0 and True, 0.0 from -0.0, NaN, and the order of keys
        except (ValueError, RecursionError) as error:
            return f"{type(error).__name__}: {error}"

    kept = port._loads, port._dumps
    try:
        port._loads, port._dumps = orjson.loads, orjson.dumps
        fast = outcome()
        port._loads = port._dumps = None
        return fast, outcome()
    finally:
        port._loads, port._dumps = kept


def assert_read_alike(raw: bytes) -> None:
    fast, plain = both(lambda: port.json_loads(raw))
    assert fast == plain
    fast, plain = both(lambda: fields("application/json", raw))
    assert fast == plain


@given(documents, st.sampled_from([(",", ":"), (" ,\n", " :\t")]), st.booleans())
def test_every_document_is_the_same_value(document: Any, separators: tuple[str, str], ascii_only: bool) -> None:
    text = json.dumps(document, separators=separators, ensure_ascii=ascii_only)
    assert_read_alike(text.encode("utf-8", "surrogatepass"))


@given(st.text("-+.0123456789eE", min_size=1, max_size=30), st.sampled_from(["%s", "[%s]", '{"a": %s}']))
@example("18446744073709551615", "[%s]")
@example("18446744073709551616", "[%s]")
@example("-9223372036854775809", "[%s]")
@example("1e999", "[%s]")
@example("-0", "[%s]")
@example("9" * 5000, "[%s]")
def test_every_number_is_the_same_number(text: str, around: str) -> None:
    assert_read_alike((around % text).encode())


@given(documents, st.data())
def test_a_document_that_was_damaged_is_the_same_value_or_the_same_error(document: Any, data: st.DataObject) -> None:
    raw = json.dumps(document).encode()
    at = data.draw(st.integers(0, len(raw)))
    assert_read_alike(raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + data.draw(st.integers(0, 3)) :])


@given(st.binary())
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example(b"\xff{}")
@example(b'{"a": NaN}')
@example(b'{"a": 1, "b": 2, "a": 3}')
@example(b'"\\ud800"')
@example(b'"\x00"')
@example(b"[1] x")
@example(b" \r\n\t{} ")
@example(b"\x0c{}")
@example(b"[" * 5000)
@example(b"[" * 5000 + b"]" * 5000)
def test_any_bytes_are_the_same_value_or_the_same_error(raw: bytes) -> None:
    assert_read_alike(raw)


@given(returned)
@example({"a": uuid.UUID(int=1)})
@example({"a": [{"b": Level.LOW}]})
@example({"a": float("nan")})
@example([float("-inf")])
@example({"a": 2**64})
@example({"a": "\ud800"})
@example({"\ud800": 1})
@example({"a": ['\x00\x1f\x7f\u2028"\\/\n\r\t\b\f\U0001f600']})
def test_every_returned_value_is_the_same_document_or_the_same_refusal(value: Any) -> None:
    def document() -> Any:
        return json.loads(port.json_bytes(value))

    fast, plain = both(document)
    assert fast == plain

    def answer() -> Any:
        made = to_response(value)
        return made.status_code, made.content_type

    fast, plain = both(answer)
    assert fast == plain


@given(st.recursive(st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_without_floats_even_the_bytes_are_the_same(value: Any) -> None:
    fast, plain = both(lambda: port.json_bytes([value]))
    assert fast == plain


@pytest.mark.parametrize("depth", [60, 64, 65, 200, 300, 5000])
def test_what_is_nested_deeply_is_written_or_refused_alike(depth: int) -> None:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    fast, plain = both(lambda: port.json_bytes(value))
    assert fast == plain


def test_what_contains_itself_is_refused_alike() -> None:
    value: dict[str, Any] = {}
    value["me"] = value
    fast, plain = both(lambda: port.json_bytes(value))
    assert fast == plain
    assert "contains itself" in fast


def test_the_fast_path_is_taken_for_what_nearly_every_event_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []

    def spy(name: str, call: Any) -> Any:
        def called(*given: Any) -> Any:
            taken.append(name)
            return call(*given)

        return called

    monkeypatch.setattr(port, "_loads", spy("read", orjson.loads))
    monkeypatch.setattr(port, "_dumps", spy("written", orjson.dumps))
    value = {"sensor": "kitchen", "values": [21.5, -3, True, None], "place": {"floor": 1}}
    assert port.json_loads(port.json_bytes(value)) == value
    assert taken == ["written", "read"]


def python(code: str, *, without: bool = False) -> list[str]:
    path = os.pathsep.join([str(ROOT / "tests/without_fast"), str(ROOT)] if without else [str(ROOT)])
    made = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    return made.stdout.split()


def test_answers_that_are_kept_take_no_more_memory_than_they_are_long() -> None:
    kept = [port.json_bytes({"n": 0})]
    tracemalloc.start()
    try:
        kept += [port.json_bytes({"number": number}) for number in range(1000)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1000 * 100  # 33 of each are the object's, and 8 the list's


@given(st.integers(4070, 4110))
def test_a_document_is_the_same_around_the_length_from_which_it_is_not_copied(size: int) -> None:
    assert port.json_bytes({"a": "x" * size}) == b'{"a":"' + b"x" * size + b'"}'


FIRST_USE = """
import sys
import nuclio_edge.processor, nuclio_edge.cli, nuclio_edge.core.encode, nuclio_edge.core.decode, nuclio_edge.core.event
from nuclio_edge.core import port
port.json_dumps({"level": "info"})
print("orjson" in sys.modules)
assert %s
print("orjson" in sys.modules)
"""


@pytest.mark.parametrize("use", ['port.json_loads(b"{}") == {}', 'port.json_bytes({}) == b"{}"'])
def test_orjson_is_loaded_by_the_first_json_and_never_at_the_start(use: str) -> None:
    assert python(FIRST_USE % use) == ["False", "True"]


@pytest.mark.parametrize("use", ['port.json_loads(b"{}") == {}', 'port.json_bytes({}) == b"{}"'])
def test_where_orjson_is_not_installed_json_does_it_all(use: str) -> None:
    assert python(FIRST_USE % use, without=True) == ["False", "False"]


def test_the_tests_of_values_pass_without_orjson() -> None:
    path = os.pathsep.join([str(ROOT / "tests/without_fast"), str(ROOT)])
    names = ["tests/unit/test_values_properties.py", "tests/portable/test_decode.py", "tests/portable/test_response.py"]
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", *names],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout[-3000:] + made.stderr[-3000:]
