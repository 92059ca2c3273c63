"""Bytes to requests: the same however they are cut, and never otherwise than h11 reads them."""

from __future__ import annotations

import pytest
from hypothesis import example, given

from nuclio_edge.sources.http_chunked import Chunked
from nuclio_edge.sources.http_head import MAX_HEAD, Heads, Refusal
from nuclio_edge.sources.http_intake import Intake
from nuclio_edge.sources.http_strict import by_h11 as opinion_of_h11
from nuclio_edge.sources.http_strict import by_httptools as opinion_of_httptools
from nuclio_edge.sources.http_strict import opinion
from tests.http_streams import MAX_BODY, by_h11, cuts, good, hostile, ours

OPINIONS = [pytest.param(opinion_of_h11, id="h11"), pytest.param(opinion_of_httptools, id="httptools")]


@given(good, cuts)
def test_every_request_that_clients_send_is_read_as_h11_reads_it_however_it_is_cut(
    stream: bytes, where: list[int]
) -> None:
    found, status = ours(stream, where)
    assert status is None
    assert found == by_h11(stream)


@given(hostile(), cuts)
@example(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nabc", [])
@example(b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", [])
@example(b"GET / HTTP/1.1\nHost: h\n\n", [5])
def test_what_is_taken_of_a_hostile_stream_is_what_h11_reads_of_it(stream: bytes, where: list[int]) -> None:
    whole = ours(stream)
    oracle = by_h11(stream)
    assert whole[0] == oracle[: len(whole[0])]
    cut = ours(stream, where)
    # Cut short before the end of a head that is wrong, the refusal may come earlier; what is taken is the same.
    assert cut[0] == whole[0]
    if cut[1] != whole[1]:
        assert {cut[1], whole[1]} <= {400, 408, 413, 417, 431, 501, 505}


@given(hostile(), cuts)
def test_both_second_opinions_take_and_refuse_alike(stream: bytes, where: list[int]) -> None:
    assert ours(stream, where, opinion_of_h11) == ours(stream, where, opinion_of_httptools)


def test_httptools_is_asked_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opinion() is opinion_of_httptools
    monkeypatch.setitem(__import__("sys").modules, "httptools", None)
    assert opinion() is opinion_of_h11


HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n"
REFUSED = {
    "both lengths": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "the length twice": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n"),
    "a list of lengths": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\n"),
    "a signed length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\n"),
    "a hexadecimal length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\n"),
    "an empty length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n"),
    "an endless length": (400, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n"),
    "another coding": (501, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
    "a hidden coding": (400, b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0cchunked\r\n\r\n"),
    "the coding twice": (501, HEAD + b"Transfer-Encoding: chunked\r\n\r\n"),
    "a coding in 1.0": (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "a folded line": (400, b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n"),
    "a space before the colon": (400, b"GET / HTTP/1.1\r\nHost : h\r\n\r\n"),
    "a bare line feed": (400, b"GET / HTTP/1.1\nHost: h\r\n\r\n"),
    "a bare carriage return": (400, b"GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n"),
    "a NUL": (400, b"GET / HTTP/1.1\r\nHost: h\0\r\n\r\n"),
    "a name that is none": (400, b"GET / HTTP/1.1\r\nHost: h\r\nX(): y\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"),
    "no version": (400, b"GET /\r\n\r\n"),
    "a space in the target": (400, b"GET /a b HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a path that is not UTF-8": (400, b"GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a NUL in the path": (400, b"GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a target that is no path": (400, b"GET a HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a host that is none": (400, b"GET http://ho`x/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a user in the target": (400, b"GET http://me@h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a star that is not of OPTIONS": (400, b"GET * HTTP/1.1\r\nHost: h\r\n\r\n"),
    "a tunnel": (501, b"CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n"),
    "an unknown method": (501, b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\n"),
    "HTTP/1.2": (505, b"GET / HTTP/1.2\r\nHost: h\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "two empty lines": (400, b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    "another expectation": (417, b"POST / HTTP/1.1\r\nHost: h\r\nExpect: more\r\n\r\n"),
    "a long head": (431, b"GET / HTTP/1.1\r\nX: " + b"a" * MAX_HEAD),
    "many headers": (431, b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a:b\r\n" * 100 + b"\r\n"),
    "a long body": (413, b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY + 1)),
    "a long chunk": (413, HEAD + b"\r\n1389\r\n"),
    "a chunk without a size": (400, HEAD + b"\r\nx\r\n"),
    "a chunk that goes on": (400, HEAD + b"\r\n1\r\nabc"),
    "a chunk with a bare line feed": (400, HEAD + b"\r\n1\na\r\n0\r\n\r\n"),
    "a long chunk extension": (400, HEAD + b"\r\n1;" + b"a" * 300),
    "a trailer that frames": (400, HEAD + b"\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    "endless trailers": (400, HEAD + b"\r\n0\r\n" + b"a: b\r\n" * 700),
}  # fmt: skip


@pytest.mark.parametrize("opinion", OPINIONS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_two_servers_could_read_differently_is_refused(name: str, opinion: object) -> None:
    status, stream = REFUSED[name]
    assert ours(stream, opinion=opinion) == ([], status)


@pytest.mark.parametrize("opinion", OPINIONS)
def test_a_second_opinion_that_differs_is_a_refusal(opinion: object) -> None:
    heads = Heads(lambda raw: (b"GET", b"/other", []))
    with pytest.raises(Refusal, match="ambiguous"):
        heads.head(b"GET / HTTP/1.0\r\n\r\n")
    assert Heads(opinion).head(b"GET / HTTP/1.0\r\n\r\n").minor == 0  # type: ignore[arg-type]  # one of the two


def test_the_usual_head_asks_nobody_and_is_remembered() -> None:
    heads = Heads(lambda raw: pytest.fail("asked"))
    raw = b"POST /a HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n"
    assert heads.head(raw) is heads.head(bytes(bytearray(raw)))
    heads.forget()
    assert not heads.known


def test_what_is_remembered_is_bounded() -> None:
    heads = Heads()
    for number in range(1000):
        heads.head(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % number)
    assert len(heads.known) <= 256
    heads.forget()
    heads.head(b"GET /%b HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * 3000))
    assert not heads.known


def test_a_body_of_tiny_chunks_holds_its_own_bytes_and_little_more() -> None:
    body = Chunked(1 << 20)
    at = body.take(b"1\r\na\r\n" * 10_000, 0)
    assert at == 60_000
    assert len(body.body) == 10_000
    assert isinstance(body.body, bytearray)


def test_a_body_for_which_there_is_no_memory_is_refused() -> None:
    intake = Intake(Heads(), MAX_BODY, lambda size: size <= 0)
    intake.buffer = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"
    with pytest.raises(Refusal) as refused:
        intake.next()
    assert refused.value.status == 503
