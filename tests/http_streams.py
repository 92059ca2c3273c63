"""Streams of HTTP requests, good and hostile, and what our intake and h11 make of one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import h11
from hypothesis import strategies as st

from nuclio_edge.sources.http_head import Heads, Refusal, headers
from nuclio_edge.sources.http_intake import Intake

Request = tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes]

MAX_BODY = 5000


def ours(stream: bytes, cuts: list[int] = [], opinion: Any = None) -> tuple[list[Request], int | None]:  # noqa: B006 - not changed
    """The requests that our intake makes of a stream cut into pieces, and the status of its refusal."""
    held = [0]

    def hold(size: int) -> bool:
        held[0] += size
        return True

    intake = Intake(Heads(opinion), MAX_BODY, hold)
    found: list[Request] = []
    edges = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    try:
        for start, end in pairwise(edges):
            intake.buffer += stream[start:end]
            while (request := intake.next()) is not None:
                head, body = request
                fields = _lower(headers(head.raw))
                found.append((head.method.encode(), head.raw.split(b" ")[1], fields, body))
    except Refusal as refusal:
        return found, refusal.status
    finally:
        intake.drop()
        assert held == [0]
    return found, None


def by_h11(stream: bytes) -> list[Request]:
    """The requests that h11 makes of it, up to the first that it refuses."""
    found: list[Request] = []
    while stream:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(stream)
        request, body = None, b""
        try:
            while type(event := connection.next_event()) is not h11.EndOfMessage:
                if isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    return found
        except h11.RemoteProtocolError:
            return found
        assert request is not None
        fields = [(name, value.strip(b" \t")) for name, value in request.headers]
        found.append((request.method, request.target, _lower(fields), body))
        stream = connection.trailing_data[0]
    return found


def _lower(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """As h11 tells them: names, and the one value that it normalises."""
    lowered = [(name.lower(), value) for name, value in fields]
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in lowered]


_names = st.sampled_from([b"X-A", b"accept", b"User-Agent", b"Cookie", b"x-nuclio-log-level", b"Upgrade", b"TE"])
_values = st.one_of(
    st.sampled_from([b"", b"a", b"*/*", b"  padded\t ", b"\xc3\xbc", b"h2c", b"a, b", b"a:b", b"\xff"]),
    st.text("abc ,;=%", max_size=10).map(str.encode),
)
_targets = st.sampled_from([b"/", b"/a", b"/a/b?c=d", b"/%C3%BC", b"*", b"http://h/x", b"/a//..", b"/?", b"/#"])
_methods = st.sampled_from([b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PATCH"])
_connections = st.sampled_from([b"", b"", b"Connection: keep-alive\r\n", b"connection: close\r\n"])
_extensions = st.sampled_from([b"", b"", b";a=b", b';a="b"', b"  "])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, as a client may send it."""
    method = draw(_methods)
    target = draw(_targets)
    if target == b"*":
        method = b"OPTIONS"
    body = draw(st.binary(max_size=40))
    framed = draw(st.sampled_from(["none", "length", "chunked"]))
    lines = [b"%b: %b\r\n" % (draw(_names), draw(_values)) for _ in range(draw(st.integers(0, 3)))]
    lines.append(draw(_connections))
    lines.append(draw(st.sampled_from([b"Host: h\r\n", b"host:h\r\n", b"HOST: [::1]:80\r\n"])))
    if framed == "length":
        lines.append(b"Content-Length: %d\r\n" % len(body))
    elif framed == "chunked":
        lines.append(draw(st.sampled_from([b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:CHUNKED\r\n"])))
        coded = b""
        while body:
            size = draw(st.integers(1, len(body)))
            coded += b"%x%b\r\n%b\r\n" % (size, draw(_extensions), body[:size])
            body = body[size:]
        body = coded + b"0\r\n" + draw(st.sampled_from([b"", b"X: y\r\n"])) + b"\r\n"
    else:
        body = b""
    order = draw(st.permutations(lines))
    return method + b" " + target + b" HTTP/1.1\r\n" + b"".join(order) + b"\r\n" + body


good = st.lists(requests(), min_size=1, max_size=4).map(b"".join)

_poison = st.sampled_from([
    b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\0", b",", b";", b"\x0b", b"\x7f", b"0", b"0\r\n\r\n", b"+", b"-1",
    b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Host: x\r\n", b"1.0",
    b"Transfer-Encoding: identity\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"HTTP/1.0", b"\r\n ",
    b"chunked, ",
])  # fmt: skip


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A stream with a few bytes changed, put in or taken out."""
    stream = draw(good)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(stream)))
        cut = draw(st.integers(0, 3))
        stream = stream[:at] + draw(st.one_of(_poison, st.binary(max_size=2), st.just(b""))) + stream[at + cut :]
    return stream


cuts = st.lists(st.integers(0, 600), max_size=8)
