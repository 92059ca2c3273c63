"""A stream of events is let come together, for longer while more of them come; nobody else is made to wait."""

from __future__ import annotations

import os
import random
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
TURN_NS = 100_000  # what a turn takes beside its nap


class Clocked:
    """A poller with something to read at every look, its naps, and a clock that only naps and pauses move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.naps: list[float] = []
        self.now = 0
        self.pause = 0  # nanoseconds that each look takes
        self.turn = TURN_NS
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
            napped = len(self.naps)
            assert sorted(self.poller.wait(timeout_ms)) == [(reader, IN) for reader in readers]
            self.now += self.turn
            nap = self.naps[-1] if len(self.naps) > napped else 0.0
            for reader, bring in zip(readers, brings, strict=True):
                several = bring(nap)
                if several > 1:
                    self.poller.several[reader] = several
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
    """What a stream of 60,000 a second brings in a turn with such a nap."""
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
    naps = clocked.flow(5000, lambda nap: 10 * streaming(nap), lambda _nap: 20)
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


def test_a_stream_that_ends_is_watched_again_after_a_few_naps_in_vain(clocked: Clocked) -> None:
    assert clocked.wake_ups(50)
    naps = clocked.wake_ups(0, 40)
    assert 10 < len(naps) < 20
    del clocked.looks[:]
    assert clocked.poller.wait(1000) == [(clocked.stream, IN)]
    assert clocked.looks == [1.0]


def test_a_stream_that_skips_a_few_naps_stays_set_aside(clocked: Clocked) -> None:
    assert clocked.wake_ups(50)
    skips = iter(range(10_000))
    assert len(clocked.flow(1000, lambda _nap: 2 if next(skips) % 8 < 2 else 1)) == 1000


def test_after_a_pause_or_two_nobody_waits_and_the_next_stream_begins_with_the_shortest_nap(clocked: Clocked) -> None:
    assert clocked.flow(200, streaming)[-1] == LONGEST
    clocked.wake_ups(0, 40, after_ms=1)
    assert clocked.wake_ups(50, 3) == []
    assert clocked.flow(20, streaming)[0] == SHORTEST


def test_several_events_now_and_then_among_many_single_ones_are_no_stream(clocked: Clocked) -> None:
    single = clocked.pipe()
    os.read(clocked.stream, 1)
    for turn in range(1000):
        if turn % 10 == 0:
            os.write(clocked.writer(clocked.stream), b"x")
        for reader, _ in clocked.poller.wait(1000):
            if reader != single:
                clocked.poller.several[reader] = 50
                os.read(reader, 1)
        assert not clocked.poller._aside


def test_events_with_pauses_between_them_never_wait(clocked: Clocked) -> None:
    assert clocked.wake_ups(50, 1000, after_ms=0.3) == []


def test_a_turn_that_has_something_to_do_does_not_wait(clocked: Clocked) -> None:
    assert clocked.wake_ups(50)
    del clocked.naps[:]
    clocked.poller.wait(0)
    assert not any(clocked.naps)


def test_a_loop_that_never_waits_reads_what_is_set_aside_once_a_nap_all_the_same(clocked: Clocked) -> None:
    clocked.wake_ups(50)
    told = 0
    for _ in range(1000):
        clocked.now += 10_000
        if clocked.poller.wait(0):
            told += 1
            clocked.poller.several[clocked.stream] = 2
    assert told == pytest.approx(1000 * 10_000 / (SHORTEST * 1e9), rel=0.2)


def test_one_that_brings_several_now_and_then_is_not_set_aside_beside_a_stream(clocked: Clocked) -> None:
    other = clocked.pipe()
    os.read(other, 1)
    seen = 0
    for turn in range(1000):
        if turn % 2 == 0:
            os.write(clocked.writer(other), b"x")
            clocked.now += 2_000_000  # the nap is over: it is told together with the stream
        for reader, _ in clocked.poller.wait(1000):
            if reader != other or turn % 8 == 0:
                clocked.poller.several[reader] = 2 if reader == other else 50
            if reader == other:
                os.read(other, 1)
                seen += 1
        assert other not in clocked.poller._aside
    assert seen == 500 and clocked.naps and clocked.stream in clocked.poller._aside


def test_one_that_often_brings_several_is_set_aside_beside_a_stream_though_it_is_woken_for_single_ones_too(
    clocked: Clocked,
) -> None:
    other = clocked.pipe()
    for turn in range(200):
        clocked.now += 2_000_000
        for reader, _ in clocked.poller.wait(1000):
            if reader != other or turn % 2:
                clocked.poller.several[reader] = 2 if reader == other else 50
    assert set(clocked.poller._aside) == {clocked.stream, other}


def test_streams_that_come_by_chance_are_let_come_together_for_long_all_the_same(clocked: Clocked) -> None:
    chance = random.Random(1)
    streams = 1 + len([clocked.pipe() for _ in range(4)])

    def brought(nap: float) -> int:
        return sum(chance.random() < 0.1 for _ in range(round(80_000 * (nap + 0.0001))))

    clocked.flow(100, *[lambda _nap: 3] * streams)
    naps = clocked.flow(4000, *[brought] * streams)
    assert sum(nap == LONGEST for nap in naps[1000:]) > 0.8 * len(naps[1000:])


def test_many_small_streams_are_let_come_together_as_one(clocked: Clocked) -> None:
    clocked.pipe()
    clocked.pipe()
    naps = clocked.flow(1000, *[lambda nap: int(20_000 * (nap + 0.0001))] * 3)
    assert naps[-1] == LONGEST


@pytest.mark.parametrize(("peers", "think_ms"), [(8, 0.15), (20, 0.6), (40, 0.6), (100, 0.6), (100, 1.2), (200, 1.2)])
def test_peers_that_think_before_they_ask_again_are_not_taken_for_a_stream(
    clocked: Clocked, peers: int, think_ms: float
) -> None:
    def asked(nap: float) -> int:
        return round(peers * (nap + 0.0001) / (nap + 0.0001 + think_ms / 1000))

    naps = clocked.flow(5000, asked)
    assert sum(naps) / len(naps) < 2 * SHORTEST


def test_a_peer_that_waits_for_answers_that_take_long_is_not_taken_for_a_stream(clocked: Clocked) -> None:
    clocked.turn = 3_000_000
    naps = clocked.flow(5000, lambda _nap: 200)
    assert sum(naps) / len(naps) < 1.2 * SHORTEST


def test_many_peers_that_wait_for_answers_are_not_taken_for_a_stream(clocked: Clocked) -> None:
    peers = 1 + len([clocked.pipe() for _ in range(29)])
    assert clocked.flow(100, *[lambda _nap: 2] * peers)
    turns = [0] * peers

    def asked(peer: int) -> int:
        turns[peer] += 1
        return 2 if turns[peer] % 5 == peer % 5 else 1

    naps = clocked.flow(3000, *[lambda _nap, peer=peer: asked(peer) for peer in range(peers)])
    assert sum(naps[1000:]) / len(naps[1000:]) < 1.2 * SHORTEST


def test_others_are_told_when_a_turn_took_longer_than_the_nap(clocked: Clocked) -> None:
    clocked.wake_ups(50)
    other = clocked.pipe()
    for _ in range(10):
        clocked.now += 2_000_000
        assert (other, IN) in clocked.poller.wait(1000)
        clocked.poller.several[clocked.stream] = 50


def test_without_a_timer_the_nap_is_as_long_as_it_was_to_be(clocked: Clocked) -> None:
    assert clocked.flow(200, streaming, timeout_ms=-1)[-1] == LONGEST


def test_a_descriptor_that_was_closed_behind_our_back_ends_nothing() -> None:
    for when in range(2, 60):
        poller = Poller()
        reader, writer = os.pipe()
        os.write(writer, b"x")
        poller.set(reader, IN, known=False)
        for turn in range(80):
            if turn == when:
                os.close(reader)
            poller.wait(1)
            if turn < 50:
                poller.several[reader] = 50
        assert reader not in poller._aside
        poller.close()
        os.close(writer)


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


def test_others_that_bring_several_in_the_midst_of_a_nap_do_not_end_it(aside: Aside) -> None:
    aside.poller.set(aside.other.fileno(), IN | OUT, known=True)
    until = aside.poller._until
    for _ in range(50):
        assert aside.poller.wait(60_000) == [(aside.other.fileno(), OUT)]
        aside.poller.several[aside.other.fileno()] = 5
    assert list(aside.poller._aside) == [aside.ours.fileno()] and aside.poller._until == until


def test_another_thread_ends_a_nap(aside: Aside) -> None:
    waker = threading.Timer(0.05, aside.poller.wake)
    waker.start()
    assert [mask for _, mask in aside.poller.wait(60_000)] == [IN]
    waker.join()


def test_that_what_is_set_aside_hung_up_ends_a_nap(aside: Aside) -> None:
    aside.theirs.close()
    ((descriptor, mask),) = aside.poller.wait(60_000)
    assert descriptor == aside.ours.fileno() and mask & select.EPOLLHUP


def test_of_what_is_set_aside_only_what_was_asked_for_last_is_told(aside: Aside) -> None:
    aside.poller.set(aside.ours.fileno(), OUT, known=True)
    aside.poller._until = 0
    for _ in range(30):
        assert aside.poller.wait(60_000) == [(aside.ours.fileno(), OUT)]


def test_what_is_set_aside_and_paused_is_not_told(aside: Aside) -> None:
    aside.poller.set(aside.ours.fileno(), 0, known=True)
    aside.poller._until = 0
    assert [aside.poller.wait(timeout) for timeout in (0, 1, 0)] == [[]] * 3


def test_what_is_watched_for_more_than_reading_is_not_set_aside(aside: Aside) -> None:
    aside.poller.set(aside.ours.fileno(), IN | OUT, known=True)
    for _ in range(50):
        aside.poller.several[aside.ours.fileno()] = 5
        assert aside.poller.wait(60_000) == [(aside.ours.fileno(), IN | OUT)]


def test_what_is_set_aside_and_forgotten_is_not_told_and_leaves_nothing(aside: Aside) -> None:
    poller, ours = aside.poller, aside.ours.fileno()
    poller.several[ours] = 5
    poller.forget(ours)
    poller._until = 0
    assert [poller.wait(timeout) for timeout in (0, 1, 0)] == [[]] * 3
    assert all(ours not in known for known in (poller._masks, poller._aside, poller._scores, poller.several))


def test_without_a_descriptor_that_select_takes_nothing_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(port_cpython_poller, "_SELECTABLE", 0)
    clocked = Clocked(monkeypatch)
    assert clocked.wake_ups(50, 200) == []
    clocked.close()


@pytest.mark.parametrize("what", ["pause", "close"])
def test_a_link_that_was_paused_or_closed_by_what_it_read_brings_no_stream(what: str) -> None:
    loop = Loop()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.sendall(publish("a", b"x", version=4) * 5)
    sink: Any = SimpleNamespace(on_packet=print, on_oversize=print, on_lost=print, on_broken=print)
    link = Link(loop, ours, sink, v5=False, max_packet=1000, alias_max=0)
    told: list[None] = []

    def on_publish(*_: Any) -> bool:
        told.append(None)
        if len(told) == 3:
            getattr(link, what)()
        return len(told) == 3

    sink.on_publish = on_publish
    loop.turn(1000)
    assert len(told) == 3 and not loop.poller.several
    link.close()
    theirs.close()
    loop.close()


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
