"""What bounds a connection: time in each state, what it is sent, what it may have in flight, whom it gives way to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.port import IN
from nuclio_edge.sources.http_connection import PIPELINE, Connection
from nuclio_edge.sources.http_head import Heads
from nuclio_edge.sources.http_limits import BODY, FOREVER, HEAD, IDLE, LEAST_RATE, LINGER, due
from tests.rig import Rig
from tests.unit.test_http_source import ECHO, GET, MANIFEST, Wire, source

if TYPE_CHECKING:
    from pathlib import Path

SERVER: Any = SimpleNamespace(header_timeout=10, body_timeout=20_000, idle_timeout=75, write_timeout=1000)
SLOW = """
import threading
go = threading.Event()
def handler(context, event):
    go.wait(30)
    return "done"
"""


def test_a_body_has_its_time_and_a_second_more_for_each_least_rate_that_came() -> None:
    def of(moved: int) -> int:
        return due(SERVER, BODY, 5, moved, reads=True, answering=False)

    assert of(0) == 5 + 20_000
    assert of(LEAST_RATE) == of(0) + 1000
    assert of(100 * LEAST_RATE) == of(0) + 100_000


@pytest.mark.parametrize(
    ("state", "reads", "answering", "at"),
    [
        (HEAD, True, False, 15),
        (IDLE, True, False, 80),
        (LINGER, True, False, 2005),
        (IDLE, True, True, FOREVER),  # the function has a timeout of its own
        (IDLE, False, True, FOREVER),
        (BODY, False, True, FOREVER),  # nobody reads the body as long as answers are due
        (HEAD, False, True, FOREVER),
        (HEAD, True, True, 15),  # the next request has begun to come
    ],
)
def test_every_state_has_its_limit_but_for_the_time_in_which_a_function_is_waited_for(
    state: int, reads: bool, answering: bool, at: int
) -> None:
    assert due(SERVER, state, 5, 0, reads=reads, answering=answering) == at


class Takes:
    """A socket that takes as many bytes as it is told to."""

    room = 0

    def recv(self, size: int) -> bytes:
        raise BlockingIOError

    def send(self, data: bytes) -> int:
        taken, self.room = min(self.room, len(data)), 0
        if not taken:
            raise BlockingIOError
        return taken


def connected() -> tuple[Connection, Takes, Any]:
    """A connection with its socket and loop; it is 1000 ms."""
    loop = SimpleNamespace(now=1000, modify=lambda *_: None)
    server: Any = SimpleNamespace(
        loop=loop, respond=print, heads=Heads(), max_body=1, hold=len, watch=lambda _: None, **vars(SERVER)
    )
    sock = Takes()
    return Connection(server, sock, "x"), sock, loop


def test_for_the_time_in_which_it_was_not_read_the_client_is_not_to_blame() -> None:
    connection, _, loop = connected()
    connection.stalled = True
    connection._want()
    loop.now = 9000
    connection.stalled = False
    connection._want()
    assert connection.deadline() == 9000 + SERVER.header_timeout


def test_a_client_that_reads_slowly_has_the_whole_time_again_with_each_step() -> None:
    connection, sock, loop = connected()
    connection.sending = b"x" * 100
    connection._flush()
    assert connection.deadline() == 2000
    loop.now = 1900
    connection._flush()  # still no room
    assert connection.deadline() == 2000
    sock.room = 10
    connection._flush()
    assert connection.deadline() == 2900
    sock.room = 90
    connection._flush()
    assert connection.deadline() == 1000 + SERVER.header_timeout  # as before it was blocked


def rig(folder: Path, params: str = "", isolation: str = "inline", code: str = ECHO) -> Rig:
    return Rig(folder, MANIFEST.format(params=params, isolation=isolation, function="", trigger=""), f=code)


def test_a_client_that_does_not_go_is_left_a_moment_after_the_last_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.sources.http_limits.LINGER_MS", 50)
    with rig(tmp_path) as running, Wire(running) as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert wire.closed().endswith(b"\r\n\r\n/")
        running.until(lambda: not source(running).server.connections, "the end, though the client never closes")


def test_the_connection_that_was_idle_for_the_longest_time_makes_room(tmp_path: Path) -> None:
    with rig(tmp_path, "max_connections = 2") as running, Wire(running) as old, Wire(running) as young:
        old.send(GET % b"/old").answers(1)
        running.turn_for(5)
        young.send(GET % b"/young").answers(1)
        with Wire(running) as new:
            new.send(GET % b"/new").answers(1)
            old.closed()
            assert young.send(GET % b"/again").answers(2)[1] == (200, b"/again")


def test_a_client_with_enough_requests_in_flight_is_not_read(tmp_path: Path) -> None:
    with rig(tmp_path, isolation="thread", code=SLOW) as running, Wire(running) as wire:
        wire.send(GET % b"/" * PIPELINE)
        running.until(lambda: source(running).received == PIPELINE, "all of them")
        (connection,) = source(running).server.connections
        assert not connection._interest & IN
        wire.send(GET % b"/one-more")
        running.turn_for(30)
        assert (len(connection.flight), connection._intake.buffer) == (PIPELINE, b"")
        running.processor.functions["f"].handler.__globals__["go"].set()
        assert wire.answers(PIPELINE + 1) == [(200, b"done")] * (PIPELINE + 1)
