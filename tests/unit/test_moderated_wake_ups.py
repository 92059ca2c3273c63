"""A stream of events is let come together, the longer the more of them come; nobody else is made to wait."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core import port_cpython
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.port_cpython import Poller
from nuclio_edge.sources.mqtt_link import Link
from nuclio_edge.sources.mqtt_session import Session
from tests.mqtt_packets import publish

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORTEST, LONGEST = 0.0001, 0.001


class Clocked:
    """A poller with something to read at every look, its naps, and a clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.naps: list[float] = []
        self.now = 0
        self.waits = 0  # nanoseconds that the next look takes
        monkeypatch.setattr(port_cpython, "time", SimpleNamespace(sleep=self.naps.append))
        monkeypatch.setattr(port_cpython, "clock", self._clock)
        self.poller = Poller()
        self._ends = os.pipe()
        os.write(self._ends[1], b"x")
        self.poller.set(self._ends[0], port_cpython.IN, known=False)

    def _clock(self) -> int:
        self.now, now = self.now + self.waits, self.now
        return now

    def wake_ups(self, several: int, count: int = 100, *, after_ms: float = 0, timeout_ms: int = 1000) -> list[float]:
        """The naps of so many wake-ups, each of which brings so many events after such a pause."""
        self.waits = int(after_ms * 1e6)
        del self.naps[:]
        for _ in range(count):
            assert self.poller.wait(timeout_ms, several) == [(self._ends[0], port_cpython.IN)]
        return [*self.naps]

    def close(self) -> None:
        """Give all descriptors back."""
        self.poller.close()
        for end in self._ends:
            os.close(end)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clocked]:
    """One of them."""
    made = Clocked(monkeypatch)
    yield made
    made.close()


def test_a_peer_that_sends_one_event_and_waits_is_never_made_to_wait(clocked: Clocked) -> None:
    assert clocked.wake_ups(0, 10_000) == []


def test_a_stream_of_several_at_a_time_comes_together_for_a_tenth_of_a_millisecond(clocked: Clocked) -> None:
    naps = clocked.wake_ups(2)
    assert len(naps) > 80 and set(naps) == {SHORTEST}


def test_a_stream_of_many_at_a_time_comes_together_for_longer_up_to_a_bound(clocked: Clocked) -> None:
    naps = clocked.wake_ups(50)
    assert naps == sorted(naps) and naps[-1] == pytest.approx(LONGEST) and max(naps) <= LONGEST


@pytest.mark.parametrize("several", [3, 7, 12, 20])
def test_a_nap_is_no_longer_than_the_events_that_come_with_it_are_many(clocked: Clocked, several: int) -> None:
    clocked.wake_ups(50)
    naps = clocked.wake_ups(several)[-20:]
    assert max(naps) <= several / 30_000 + SHORTEST * 1.001
    assert min(naps) >= SHORTEST * 0.999


def test_a_stream_that_thins_out_has_its_naps_shortened_again(clocked: Clocked) -> None:
    clocked.wake_ups(50)
    naps = clocked.wake_ups(1)
    assert naps[-1] == pytest.approx(SHORTEST) and naps == sorted(naps, reverse=True)


@pytest.mark.parametrize(
    ("qos", "count", "several"), [(0, 20, 20), (0, 2, 2), (1, 20, 1), (2, 20, 1), (1, 21, 12), (0, 1, 0)]
)
def test_a_peer_that_waits_for_its_acknowledgements_is_let_come_together_for_a_shorter_time(
    qos: int, count: int, several: int
) -> None:
    loop = Loop()
    session = Session(len, loop.at_turn_end)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)

    def on_publish(first: int, _topic: bytes, packet_id: int, _props: bytes, _body: bytes) -> bool:
        if packet_id:
            session.acknowledge(session.token(first, packet_id))
        return False

    sink: Any = SimpleNamespace(
        on_publish=on_publish, on_packet=print, on_oversize=print, on_lost=print, on_broken=print
    )
    link = Link(loop, ours, sink, v5=False, max_packet=1000, alias_max=0)
    link.session = session
    theirs.sendall(b"".join(publish("a", b"x", qos, at + 1 if qos else 0, version=4) for at in range(count)))
    loop.turn(1000)
    assert loop.several == several
    link.close()
    theirs.close()
    loop.close()


def test_after_a_pause_or_two_nobody_waits(clocked: Clocked) -> None:
    assert len(clocked.wake_ups(50)) > 80
    assert len(clocked.wake_ups(50, 2, after_ms=1)) == 2  # decided before the pause is known
    assert clocked.wake_ups(0) == []


def test_events_with_pauses_between_them_never_wait(clocked: Clocked) -> None:
    assert clocked.wake_ups(50, 1000, after_ms=0.3) == []


def test_a_turn_that_has_something_to_do_does_not_wait(clocked: Clocked) -> None:
    clocked.wake_ups(50)
    assert clocked.wake_ups(50, timeout_ms=0) == []
