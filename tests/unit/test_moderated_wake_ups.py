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
from tests.mqtt_packets import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHORTEST, LONGEST = 0.0001, 0.0008


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

    def flow(self, brings: Callable[[float], int], count: int) -> list[float]:
        """The naps of so many wake-ups, each of which brings what `brings` says of the nap before it."""
        self.waits = 0
        del self.naps[:]
        for _ in range(count):
            self.poller.wait(1000, brings(self.naps[-1] if self.naps else SHORTEST))
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


def test_a_stream_that_brings_more_the_longer_it_is_let_come_together_is_let_for_longer_up_to_a_bound(
    clocked: Clocked,
) -> None:
    naps = clocked.flow(lambda nap: int(60_000 * (nap + 0.0001)), 5000)
    assert naps[:100] == sorted(naps[:100]) and naps[100] == pytest.approx(LONGEST)
    tried = sum(nap < LONGEST * 0.9 for nap in naps[100:])  # whether a shorter one would do as well
    assert min(naps[100:]) >= LONGEST * 0.49 and 0 < tried < len(naps) / 10


def test_a_stream_that_turns_into_a_peer_that_waits_has_its_naps_shortened_again(clocked: Clocked) -> None:
    clocked.flow(lambda nap: int(60_000 * (nap + 0.0001)), 400)
    naps = clocked.flow(lambda _nap: 64, 3000)[-1000:]
    assert max(naps) <= 2 * SHORTEST and sum(nap > SHORTEST * 1.1 for nap in naps) < len(naps) / 10


@pytest.mark.parametrize("outstanding", [2, 3, 8, 20, 64, 1000])
def test_a_peer_that_waits_for_answers_is_let_come_together_for_the_shortest_time_but_for_trials(
    clocked: Clocked, outstanding: int
) -> None:
    naps = clocked.flow(lambda _nap: outstanding, 5000)[40:]
    assert max(naps) <= 2 * SHORTEST
    assert sum(nap > SHORTEST for nap in naps) < len(naps) / 10


def test_a_stream_of_few_events_is_let_come_together_for_no_longer_than_they_are_many(clocked: Clocked) -> None:
    naps = clocked.flow(lambda nap: max(int(15_000 * (nap + 0.0001)), 2), 1000)
    assert max(naps) <= 2 * SHORTEST


def test_a_stream_that_thins_out_has_its_naps_shortened_again(clocked: Clocked) -> None:
    clocked.flow(lambda nap: int(60_000 * (nap + 0.0001)), 400)
    assert clocked.wake_ups(2, 200)[-20:] == [pytest.approx(SHORTEST)] * 20


def test_a_timer_is_no_later_for_a_nap_than_by_the_nap(clocked: Clocked, monkeypatch: pytest.MonkeyPatch) -> None:
    clocked.wake_ups(50)
    waited: list[float] = []

    def poll(seconds: float) -> list[Any]:
        waited.append(seconds)
        return []

    monkeypatch.setattr(clocked.poller, "_poll", SimpleNamespace(poll=poll, close=clocked.poller._poll.close))
    clocked.poller.wait(1, 2)
    clocked.poller.wait(5, 2)
    clocked.poller.wait(-1, 2)
    assert waited == [0.0, 0.004, None]


def test_of_what_several_connections_bring_in_a_turn_the_fewest_counts_but_one_is_none() -> None:
    loop = Loop()
    links, others = [], []
    sink: Any = SimpleNamespace(
        on_publish=lambda *_: False, on_packet=print, on_oversize=print, on_lost=print, on_broken=print
    )
    for count in (1, 2, 5):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.sendall(b"".join(publish("a", b"x", version=4) for _ in range(count)))
        links.append(Link(loop, ours, sink, v5=False, max_packet=1000, alias_max=0))
        others.append(theirs)
    loop.turn(1000)
    assert loop.several == 2
    for link, theirs in zip(links, others, strict=True):
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
