"""Frames of a websocket under a socket's manners, whatever way they are cut; and the handshake."""

from __future__ import annotations

import itertools
import os
import socket
import threading
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from nuclio_edge.sources.mqtt_websocket import WebSocket, mask, upgrade


class Wire:
    """A non-blocking socket that gives these chunks and takes `room` bytes at a time."""

    def __init__(self, chunks: list[bytes], room: int = 1 << 30) -> None:
        self.chunks = chunks
        self.room = room
        self.sent = b""
        self.fileno = self.close = self.setblocking = lambda *_: 0

    def recv(self, _size: int) -> bytes:
        """The next chunk."""
        if not self.chunks:
            raise BlockingIOError
        return self.chunks.pop(0)

    def send(self, data: bytes) -> int:
        """As much as there is room for."""
        if not self.room:
            raise BlockingIOError
        taken = bytes(data[: self.room])
        self.sent += taken
        self.room -= len(taken)
        return len(taken)


def frame(kind: int, payload: bytes, *, last: bool = True, key: bytes = b"") -> bytes:
    """A frame as a server sends it."""
    size = len(payload)
    marked = 128 if key else 0
    head = bytes((128 * last | kind,))
    if size < 126:
        head += bytes((marked | size,))
    elif size < 65_536:
        head += bytes((marked | 126,)) + size.to_bytes(2, "big")
    else:
        head += bytes((marked | 127,)) + size.to_bytes(8, "big")
    return head + key + (mask(payload, key) if key else payload)


def unframe(raw: bytes) -> tuple[int, bytes, bytes]:
    """A client's frame: kind, payload, what follows."""
    assert raw[1] & 128, "a client masks"
    size, at = raw[1] & 127, 2
    if size > 125:
        at = 4 if size == 126 else 10
        size = int.from_bytes(raw[2:at], "big")
    return raw[0] & 15, mask(raw[at + 4 : at + 4 + size], raw[at : at + 4]), raw[at + 4 + size :]


def read(made: WebSocket) -> bytes:
    """All that can be read now."""
    out = b""
    while True:
        try:
            data = made.recv(65_536)
        except BlockingIOError:
            return out
        if not data:
            return out
        out += data


@given(
    st.lists(st.tuples(st.binary(max_size=200) | st.just(b"x" * 70_000), st.booleans(), st.booleans()), max_size=6),
    st.lists(st.integers(0, 100_000), max_size=8),
)
@settings(deadline=None, max_examples=150)
def test_the_payloads_come_out_whatever_way_frames_are_cut(
    parts: list[tuple[bytes, bool, bool]], places: list[int]
) -> None:
    stream = b""
    for at, (payload, ping, masked) in enumerate(parts):
        if ping:
            stream += frame(9, b"ping")
        stream += frame(0 if at else 2, payload, last=at == len(parts) - 1, key=os.urandom(4) if masked else b"")
    cuts = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    wire = Wire([stream[a:b] for a, b in itertools.pairwise(cuts) if a < b])
    made = WebSocket(wire)
    got = b""
    while wire.chunks:
        got += read(made)
    assert got == b"".join(payload for payload, _, _ in parts)
    pongs = sum(ping for _, ping, _ in parts)
    rest = wire.sent
    for _ in range(pongs):
        kind, payload, rest = unframe(rest)
        assert (kind, payload) == (10, b"ping")
    assert rest == b""


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_what_is_sent_is_one_masked_frame_even_where_the_socket_takes_it_in_pieces(size: int) -> None:
    wire = Wire([], room=10)
    made = WebSocket(wire)
    data = os.urandom(size)
    sent = 0
    while not sent:
        try:
            sent = made.send(data)
            break
        except BlockingIOError:
            wire.room = 5000
    assert sent == size
    assert unframe(wire.sent) == (2, data, b"")


def test_a_close_frame_is_the_end() -> None:
    made = WebSocket(Wire([frame(2, b"last") + frame(8, b"\x03\xe8")]))
    assert made.recv(100) == b"last"
    assert made.recv(100) == b""


def test_a_text_frame_is_an_error() -> None:
    with pytest.raises(ConnectionError, match="does not have"):
        WebSocket(Wire([frame(1, b"text")])).recv(100)


def answer(response: Any) -> bytes:
    """Do the handshake with a server that answers so."""
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def serve() -> None:
            request = theirs.recv(4096)
            assert b"Sec-WebSocket-Protocol: mqtt\r\n" in request
            assert b"Host: [::1]:8080\r\n" in request
            theirs.sendall(response(request))
            theirs.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return upgrade(ours, "::1", 8080, "/mqtt", secure=False)
        finally:
            thread.join()


def test_the_handshake_accepts_the_right_key_and_keeps_what_came_behind_it() -> None:
    import base64
    import hashlib

    def right(request: bytes) -> bytes:
        key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        return b"HTTP/1.1 101 Switching\r\nsec-websocket-accept:" + accept + b"\r\n\r\nrest"

    assert answer(right) == b"rest"


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "404"),
        (b"HTTP/1.1 101 Fine\r\nSec-WebSocket-Accept: no\r\n\r\n", "wrong key"),
        (b"HTTP/1.1 101 Fi", "cut off"),
        (b"", "the server hangs up on HTTP: if port 8080 speaks none, write mqtt:// in url"),
        (b"nonsense\r\n\r\n", "does not speak websocket"),
    ],
)
def test_a_server_that_is_none_is_refused_in_words(response: bytes, words: str) -> None:
    with pytest.raises(OSError, match=words):
        answer(lambda _request: response)
