"""A stream of events is let come together, for longer while more of them come; nobody else is made to wait."""

from __future__ import annotations

import os
import select
import socket
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core import port_cpython_poller
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.port_cpython_poller import IN, OUT, Poller
from nuclio_edge.sources.mqtt_link import Link
from tests.mqtt_packets import publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHORTEST, STEP, LONGEST = 0.0001, 4, 0.0016
AN_HOUR = 3_600_000_000_000


class Clocked:
    """A poller with something to read at every look, its naps, and a clock that only naps and pauses move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.naps: list[float] = []
        self.now = 0
        self.pause = 0  # nanoseconds that each look takes
        self.poller = Poller()
        self.epoll: Any = self.poller._poll
        self.looks: list[float | None] = []
        self._pipes: list[tuple[int, int]] = []
        monkeypatch.setattr(port_cpython_poller, "select", SimpleNamespace(select=self._select))
        monkeypatch.setattr(port_cpython_poller, "clock", lambda: self.now)
        proxy = SimpleNamespace(poll=self._look, **{n: getattr(self.epoll, n) for n in ("modify", "register", "close")})
        monkeypatch.setattr(self.poller, "_poll", proxy)
        self.stream = self.pipe()

    def pipe(self) -> int:
        """One more descriptor with something to read."""
        self._pipes.append(os.pipe())
        reader, writer = self._pipes[-1]
        os.write(writer, b"x")
        self.poller.set(reader, IN, known=False)
        return reader

    def writer(self, reader: int) -> int:
        """The other end of a pipe."""
        return dict(self._pipes)[reader]

    def _select(self, reading: list[int], _writing: Any, _broken: Any, seconds: float) -> tuple[list[int], ...]:
        if select.select(reading, [], [], 0)[0]:
            return reading, [], []
        self.naps.append(seconds)
        self.now += round(seconds * 1e9)
        return [], [], []

    def _look(self, seconds: float | None) -> list[tuple[int, int]]:
        self.looks.append(seconds)
        self.now += self.pause
        return self.epoll.poll(0)  # type: ignore[no-any-return]  # of an Any

    def wake_ups(self, several: int, count: int = 100, *, after_ms: float = 0, timeout_ms: int = 1000) -> list[float]:
        """The naps of so many wake-ups, each of which brings so many events after such a pause."""
        self.pause = int(after_ms * 1e6)
        return self.flow(count, lambda _nap: several, timeout_ms=timeout_ms)

    def flow(self, count: int, *brings: Callable[[float], int], timeout_ms: int = 1000) -> list[float]:
        """The naps of so many wake-ups, in which each descriptor brings what its function says of the nap before."""
        del self.naps[:]
        readers = [reader for reader, _ in self._pipes]
        assert len(readers) == len(brings)
        for _ in range(count):
            assert sorted(self.poller.wait(timeout_ms)) == [(reader, IN) for reader in readers]
            nap = self.naps[-1] if self.naps else SHORTEST
            for reader, bring in zip(readers, brings, strict=True):
                if bring(nap) > 1:
                    self.poller.several[reader] = bring(nap)
        return [*self.naps]

    def close(self) -> None:
        """Give all descriptors back."""
        self.poller.close()
        for ends in self._pipes:
            for end in ends:
                os.close(end)


@pytest.fixture
def clocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clocked]:
    """One of them."""
    made = Clocked(monkeypatch)
    yield made
    made.close()


def streaming(nap: float) -> int:
    """What a stream of 60,000 a second brings after a nap, with a tenth of a millisecond for what else a turn takes."""
    return int(60_000 * (nap + 0.0001))


def test_a_peer_that_sends_one_event_and_waits_is_never_made_to_wait(clocked: Clocked) -> None:
    assert clocked.wake_ups(0, 10_000) == []


def test_a_stream_of_several_at_a_time_comes_together_for_a_tenth_of_a_millisecond(clocked: Clocked) -> None:
    naps = clocked.wake_ups(2)
    assert len(naps) > 80 and set(naps) == {SHORTEST}


def test_a_stream_that_brings_more_the_longer_it_is_let_come_together_is_let_for_longer_up_to_a_bound(
    clocked: Clocked,
) -> None:
    naps = clocked.flow(5000, streaming)
    reached = naps.index(LONGEST)
    assert reached < 100 and naps[:reached] == sorted(naps[:reached])
    tried = sum(nap < LONGEST for nap in naps[reached:])  # whether a shorter one would do as well
    assert max(naps) == LONGEST and min(naps[reached:]) == LONGEST / STEP and 0 < tried < len(naps) / 20


def test_a_stream_that_turns_into_a_peer_that_waits_has_its_naps_shortened_again(clocked: Clocked) -> None:
    clocked.flow(400, streaming)
    naps = clocked.flow(4000, lambda _nap: 64)[-2000:]
    assert max(naps) == STEP * SHORTEST and sum(nap > SHORTEST for nap in naps) < len(naps) / 20


@pytest.mark.parametrize("outstanding", [2, 3, 8, 20, 64, 1000])
def test_a_peer_that_waits_for_answers_is_let_come_together_for_the_shortest_time_but_for_trials(
    clocked: Clocked, outstanding: int
) -> None:
    naps = clocked.flow(5000, lambda _nap: outstanding)
    assert set(naps) <= {SHORTEST, STEP * SHORTEST}
    assert sum(nap > SHORTEST for nap in naps) < len(naps) / 20


def test_a_stream_beside_a_peer_that_waits_is_let_come_together_for_no_longer_than_serves_both(
    clocked: Clocked,
) -> None:
    clocked.pipe()
    naps = clocked.flow(5000, streaming, lambda _nap: 20)
    assert set(naps) <= {SHORTEST, STEP * SHORTEST}
    assert sum(nap > SHORTEST for nap in naps) < len(naps) / 20


def test_a_stream_of_few_events_is_let_come_together_for_no_longer_than_they_are_many(clocked: Clocked) -> None:
    assert set(clocked.flow(1000, lambda nap: max(int(14_000 * (nap + 0.0001)), 2))) == {SHORTEST}


def test_a_stream_that_thins_out_has_its_naps_shortened_again(clocked: Clocked) -> None:
    assert clocked.flow(400, streaming)[-1] > SHORTEST
    assert clocked.wake_ups(2, 200)[-20:] == [SHORTEST] * 20


def test_a_timer_is_not_made_to_wait_for_a_nap(clocked: Clocked) -> None:
    assert clocked.flow(100, streaming)[-1] == LONGEST
    del clocked.naps[:]
    assert clocked.poller.wait(1) == []
    assert clocked.poller.wait(5) == [(clocked.stream, IN)]  # the nap goes on where it was
    assert clocked.naps == pytest.approx([0.001, 0.0006])


def test_a_stream_that_ends_is_watched_again_at_once(clocked: Clocked) -> None:
    assert clocked.wake_ups(50)
    clocked.poller.several.clear()
    del clocked.looks[:]
    assert clocked.poller.wait(1000) == [(clocked.stream, IN)]
    assert clocked.looks == [1.0]


def test_after_a_pause_or_two_nobody_waits(clocked: Clocked) -> None:
    assert clocked.wake_ups(50)
    clocked.poller.several.clear()
    clocked.wake_ups(0, 3, after_ms=1)
    assert clocked.wake_ups(50, 3) == []


def test_events_with_pauses_between_them_never_wait(clocked: Clocked) -> None:
    assert clocked.wake_ups(50, 1000, after_ms=0.3) == []


def test_a_turn_that_has_something_to_do_does_not_wait(clocked: Clocked) -> None:
    assert clocked.wake_ups(50)
    del clocked.naps[:]
    clocked.poller.wait(0)
    assert not any(clocked.naps)


def test_a_loop_that_never_waits_reads_a_stream_that_was_set_aside_all_the_same(clocked: Clocked) -> None:
    clocked.wake_ups(50)
    clocked.poller.wait(1000)
    clocked.poller.several[clocked.stream] = 50
    clocked.poller._look_back()  # the nap has begun
    assert clocked.poller.wait(0) == []
    clocked.now += 200_000
    assert clocked.poller.wait(0) == [(clocked.stream, IN)]
    assert clocked.poller.wait(0) == []  # until it was judged what that has brought


def test_one_that_brings_several_now_and_then_is_not_set_aside_beside_a_stream(clocked: Clocked) -> None:
    other = clocked.pipe()
    os.read(other, 1)
    seen = 0
    for turn in range(1000):
        if turn % 10 == 0:
            os.write(clocked.writer(other), b"x")
        for reader, _ in clocked.poller.wait(1000):
            clocked.poller.several[reader] = 2 if reader == other else 50
            if reader == other:
                os.read(other, 1)
                seen += 1
        assert other not in clocked.poller._aside
    assert seen == 100 and clocked.naps and clocked.stream in clocked.poller._aside


class Aside:
    """A real poller that has set one end of a socket pair aside, for an hour; `other` is a pair that it watches."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.ours, self.theirs = socket.socketpair()
        self.other, self.far = socket.socketpair()
        for one in (self.ours, self.other):
            one.setblocking(False)
            self.poller.set(one.fileno(), IN, known=False)
        self.theirs.send(b"x")
        while not self.poller._aside:
            self.poller.wait(1000)
            self.poller.several[self.ours.fileno()] = 5
        self.poller._until += AN_HOUR

    def close(self) -> None:
        """Give all descriptors back."""
        self.poller.close()
        for one in (self.ours, self.theirs, self.other, self.far):
            one.close()


@pytest.fixture
def aside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aside]:
    """One of them."""
    begin = Poller._nap_through
    monkeypatch.setattr(Poller, "_nap_through", lambda poller, ms: [] if ms == 1000 else begin(poller, ms))
    made = Aside()
    yield made
    made.close()


def test_another_descriptor_ends_a_nap(aside: Aside) -> None:
    aside.far.send(b"x")
    assert aside.poller.wait(60_000) == [(aside.other.fileno(), IN)]


def test_another_thread_ends_a_nap(aside: Aside) -> None:
    waker = threading.Timer(0.05, aside.poller.wake)
    waker.start()
    assert [mask for _, mask in aside.poller.wait(60_000)] == [IN]
    waker.join()


def test_that_what_is_set_aside_hung_up_ends_a_nap(aside: Aside) -> None:
    aside.theirs.close()
    ((descriptor, mask),) = aside.poller.wait(60_000)
    assert descriptor == aside.ours.fileno() and mask & select.EPOLLHUP


def test_what_is_set_aside_is_watched_again_as_soon_as_somebody_asks_for_it(aside: Aside) -> None:
    aside.poller.set(aside.ours.fileno(), IN | OUT, known=True)
    assert aside.poller.wait(60_000) == [(aside.ours.fileno(), IN | OUT)]


def test_what_is_watched_for_more_than_reading_is_not_set_aside(aside: Aside) -> None:
    aside.poller.set(aside.ours.fileno(), IN | OUT, known=True)
    for _ in range(50):
        aside.poller.several[aside.ours.fileno()] = 5
        assert aside.poller.wait(60_000) == [(aside.ours.fileno(), IN | OUT)]


def test_what_is_set_aside_and_forgotten_is_not_told(aside: Aside) -> None:
    aside.poller.forget(aside.ours.fileno())
    assert aside.poller.wait(0) == []
    assert aside.poller.wait(1) == []


def test_without_a_descriptor_that_select_takes_nothing_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_cpython_poller, "_SELECTABLE", 0)
    clocked = Clocked(monkeypatch)
    assert clocked.wake_ups(50, 200) == []
    clocked.close()


def test_a_link_says_how_many_events_a_read_has_brought_unless_it_is_one() -> None:
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
    assert sorted(loop.poller.several.values()) == [2, 5]
    for link, theirs in zip(links, others, strict=True):
        link._ready(IN)  # nothing is there, and nothing comes of it
        link.close()
        theirs.close()
    loop.close()
