"""Whatever comes in or goes out: decoding raises one documented error, encoding none; both agree with Python's own."""

from __future__ import annotations

import csv
import io
import json
import urllib.parse
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nuclio_edge.core import msgpack
from nuclio_edge.core.decode import fields
from nuclio_edge.core.decode_text import MAX_FIELDS
from nuclio_edge.core.encode import to_response
from nuclio_edge.core.response import Response

if TYPE_CHECKING:
    from collections.abc import Callable

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
TYPES = [
    None,
    "",
    "text/plain",
    "application/json",
    "application/json; charset=latin-1",
    "application/json; charset=utf-16",
    "application/msgpack",
    "application/x-www-form-urlencoded",
    "text/csv",
    "text/csv; header=present",
    "image/png",
]
small = st.integers(-(1 << 63), (1 << 64) - 1)
packable = st.recursive(
    st.none()
    | st.booleans()
    | small
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"))
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=20,
)


@given(st.sampled_from(TYPES) | st.text(), st.binary())
@example("application/json", b"[" * 100_000)
@example(None, b"{" * 100_000)
@example("application/json", b"9" * 10_000)
@example("application/json; charset=\0", b"{}")
@example("application/json; charset=idna", b"\xff{}")
@example("application/json; charset=hex", b"{}")
@example("application/msgpack", b"\x91" * 100_000)
def test_no_bytes_of_any_type_raise_anything_but_value_error(kind: str | None, raw: bytes) -> None:
    try:
        found = fields(kind, raw)
    except ValueError:
        return
    assert isinstance(found, dict)
    assert all(isinstance(key, str) for key in found)


@given(documents)
def test_json_is_read_as_python_reads_it(document: Any) -> None:
    text = json.dumps(document)
    expected = document if isinstance(document, dict) else {"value": document}
    assert fields("application/json", text.encode()) == expected
    if isinstance(document, (dict, list)):
        assert fields(None, text.encode()) == expected


@given(st.lists(st.tuples(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8")))))
def test_a_form_is_read_as_urllib_reads_it(pairs: list[tuple[str, str]]) -> None:
    raw = urllib.parse.urlencode(pairs).encode()
    if not raw.startswith(b"{"):
        assert fields("application/x-www-form-urlencoded", raw) == dict(pairs)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")), min_size=1, max_size=20))
def test_a_csv_line_is_read_as_the_csv_module_writes_it(cells: list[str]) -> None:
    out = io.StringIO()
    csv.writer(out, quoting=csv.QUOTE_ALL).writerow(cells)
    assert list(fields("text/csv", out.getvalue().encode()).values()) == cells


@given(st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_itself(number: float) -> None:
    assert fields(None, str(number).encode()) == {"value": number}


def with_our_own(work: Callable[[], Any]) -> Any:
    kept, msgpack._library = msgpack._library, None
    try:
        return work()
    finally:
        msgpack._library = kept


@given(packable)
def test_our_msgpack_and_the_library_write_and_read_the_same(value: Any) -> None:
    packed = with_our_own(lambda: msgpack.pack(value))
    assert packed == msgpack.pack(value)
    assert with_our_own(lambda: msgpack.unpack(packed)) == msgpack.unpack(packed) == value


@given(st.binary())
def test_our_msgpack_takes_what_the_library_takes(raw: bytes) -> None:
    def taken() -> Any:
        try:
            return repr(msgpack.unpack(raw))
        except (ValueError, TypeError):
            return "refused"

    assert with_our_own(taken) == taken()


def test_a_form_of_too_many_fields_is_refused() -> None:
    form = "application/x-www-form-urlencoded"
    with pytest.raises(ValueError, match="more than 1000 fields"):
        fields(form, b"&".join(b"f%d=" % at for at in range(MAX_FIELDS + 1)))


class Odd:
    def __init__(self, text: str, *, fails: bool) -> None:
        self.text, self.fails = text, fails

    def __repr__(self) -> str:
        if self.fails:
            raise RuntimeError(self.text)
        return self.text


anything = st.recursive(
    scalars | st.floats() | st.binary() | st.builds(Odd, st.text(), fails=st.booleans()) | st.complex_numbers(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.floats() | st.none() | st.tuples(st.integers()), inner)
        | st.frozensets(st.integers())
        | st.builds(Response, st.dictionaries(st.text(), scalars), inner, st.none() | st.text(), st.integers(0, 700))
    ),
    max_leaves=12,
)


@given(anything)
@example("\ud800")
@example({"a": "\ud800"})
@example({"\ud800": 1})
@example((200, "\ud800"))
@example([10**5000])
@example(10**5000)
def test_no_returned_value_raises_and_the_answer_can_be_sent(value: Any) -> None:
    answer = to_response(value)
    assert type(answer.body) is bytes
    assert 100 <= answer.status_code <= 599
    for key, text in answer.headers.items():
        assert type(key) is str and type(text) is str and not set("\r\n\0") & set(key + text)
    if answer.content_type == "application/json" and not isinstance(value, Response):
        json.loads(answer.body, parse_constant=lambda name: 1 / 0)


@given(documents)
def test_a_document_comes_back_as_it_was(document: Any) -> None:
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except ValueError:
        return  # a lone surrogate
    if isinstance(document, (dict, list)):
        assert json.loads(to_response(document).body) == document
