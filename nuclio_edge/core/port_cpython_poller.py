"""Readiness by epoll; what streams is set aside for a moment, so that more of it comes together.

Laws, see docs/decisions/0011:
- A descriptor is set aside when many of its reads bring several events, in wake-ups that follow each other closely.
  Then it is not watched, but read once a nap; it is watched again when that has brought no more than one for a while.
- Nobody else is made to wait: other descriptors, timers and other threads end a nap.
- A nap lasts longer only where that brings more events, and no fewer a second.
"""

from __future__ import annotations

import os
import select
from time import perf_counter_ns as clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IN = 1
OUT = 4

_STREAM, _MOST = 32, 128  # from which figure on a stream is one, and the highest
_SEVERAL, _ASIDE = 2, 16  # what a read that brings several adds to its descriptor's score, any other takes 1 away;
_MISSES = 16  # from which score on it is set aside, until so many naps in a row have brought no more than one
_SHORTEST_NS = 100_000
_LONGEST_NS = 1_600_000
_STEP = 4
_DENSE = 30_000  # events for each second of the nap, from which on a longer one is tried
_TURNS = 16  # wake-ups between two judgements of how long
_PAYS = 1.25  # the next longer nap brings so many times the events of the shorter one, or it is too long;
_KEEPS = 0.85  # and so many a second
_HOLD, _MOST_PATIENT = 64, 1024  # wake-ups until another length is tried: at first, and after many in vain
_PAUSE_NS = 200_000
_SELECTABLE = 1024  # FD_SETSIZE: select(2), the one call whose limit may be less than a millisecond, takes no more


class Poller:
    """The descriptors of one loop, and an eventfd by which other threads end a wait.

    `several`: the descriptors of which a read has brought several events since the last wait, and how many; said by who
    reads them, who has to bear that nothing is there to read. Where more at a time would be of no use, 1 is said.
    """

    def __init__(self) -> None:
        self._poll = select.epoll()
        self.several: dict[Any, int] = {}
        self._masks: dict[Any, int] = {}
        self._scores: dict[Any, int] = {}  # above 0, of what is not aside
        self._aside: dict[Any, int] = {}  # and naps in a row that brought no more than one, of what is
        self._last: list[tuple[Any, int]] = []  # what the last wait has told
        self._due = False  # what is aside was told to be read, and what that has brought is not judged yet
        self._until = 0  # when the nap is over
        self._stream = 0  # grows with wake-ups that bring several events, shrinks with others and with pauses
        self._nap = _SHORTEST_NS
        self._turns = 0  # wake-ups that brought several since the last judgement,
        self._sums: dict[Any, int] = {}  # the events that each descriptor brought with them,
        self._before: dict[Any, int] = {}  # and those sums before the length that is being tried, if one is;
        self._began = self._span = 0  # when those wake-ups began, and how long those before the trial took
        self._longer = True  # whether a longer one is tried, or is to be the next to be tried
        self._hold = 0  # wake-ups until the next trial,
        self._patience = _HOLD  # and how many it will be after that
        self._selectable = ([self._poll.fileno()], (), ()) if self._poll.fileno() < _SELECTABLE else None
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._event, IN | select.EPOLLET)  # each write is told once: nobody has to read it

    def set(self, descriptor: Any, mask: int, known: bool) -> None:
        """Ask for the conditions in `mask`."""
        if known:
            self._poll.modify(descriptor, mask)
        else:
            self._poll.register(descriptor, mask)
        self._aside.pop(descriptor, None)
        self._masks[descriptor] = mask

    def forget(self, descriptor: Any) -> None:
        """Ask for nothing more."""
        for known in (self._masks, self._aside, self._scores, self.several):
            known.pop(descriptor, None)
        try:
            self._poll.unregister(descriptor)
        except (OSError, ValueError):
            pass  # closed already: epoll forgot it with the close

    def wait(self, timeout_ms: int) -> list[tuple[Any, int]]:
        """The ready descriptors with their conditions, after at most `timeout_ms` (-1: whenever); one may be our own.

        A stream that comes faster than the loop turns would be handled piecemeal, and the time go into system calls.
        When wake-ups follow each other closely and several events came with many of them, more may come together
        first, as network cards moderate their interrupts. A peer that sends one event and waits for the answer is never
        made to wait, nor is an event that follows a pause.
        """
        brought = bool(self.several)
        scores = self._scores
        if scores:
            for descriptor, _ in self._last:
                if descriptor in scores and descriptor not in self.several:
                    scores[descriptor] -= 1
                    if not scores[descriptor]:
                        del scores[descriptor]
        if (brought or self._due) and (timeout_ms or self._aside):
            self._look_back()
        if self._aside:
            ready = self._nap_through(timeout_ms)
        elif not timeout_ms:
            ready = self._poll.poll(0)
        else:
            start = clock()
            ready = self._poll.poll(None if timeout_ms < 0 else timeout_ms / 1000)
            if clock() - start > _PAUSE_NS:
                self._stream >>= 1
                if self._stream <= _STREAM:
                    self._begin_anew()
            elif self._stream and not brought:
                self._stream -= 1
        self._last = ready
        return ready

    def _begin_anew(self) -> None:
        """The stream has ended: what was found out about it says nothing of the next one."""
        self._nap = _SHORTEST_NS
        self._turns = self._hold = 0
        self._sums, self._before = {}, {}
        self._patience = _HOLD
        self._longer = True

    def _look_back(self) -> None:
        """Judge what the last turn has brought: set aside what streams, and watch again what does no more."""
        several, aside, scores, sums = self.several, self._aside, self._scores, self._sums
        for descriptor, count in several.items():
            sums[descriptor] = sums.get(descriptor, 0) + count
            if descriptor not in aside:
                scores[descriptor] = min(scores.get(descriptor, 0) + _SEVERAL, _ASIDE)
        if self._due or not aside:  # else only others were read, in the midst of a nap, or the rest of a read
            self._stream += 4 if several and self._stream < _MOST else -1
            for descriptor in [*aside]:
                aside[descriptor] = misses = 0 if descriptor in several else aside[descriptor] + 1
                if misses == _MISSES or self._stream <= _STREAM:
                    del aside[descriptor]
                    self._watch(descriptor, IN)
            if several:
                if not self._turns:
                    self._began = clock()
                self._turns += 1
                if self._turns == _TURNS:
                    self._judge()
            self._until = clock() + self._nap
            self._due = False
        if self._stream > _STREAM and self._selectable:
            for descriptor in [*several]:
                if scores.get(descriptor, 0) >= _ASIDE and self._masks.get(descriptor) == IN:
                    del scores[descriptor]
                    aside[descriptor] = 0
                    self._watch(descriptor, 0)  # that it is hung up or broken is still told
        several.clear()

    def _watch(self, descriptor: Any, mask: int) -> None:
        try:
            self._poll.modify(descriptor, mask)
        except (OSError, ValueError):  # closed behind our back: whoever reads it finds out
            self.forget(descriptor)

    def _nap_through(self, timeout_ms: int) -> list[tuple[Any, int]]:
        """`wait` while something is aside."""
        left = self._until - clock()
        ready: list[tuple[Any, int]] = []
        if left > 0 and self._selectable:
            limit = timeout_ms * 1_000_000
            sooner = 0 <= limit < left
            if select.select(*self._selectable, (limit if sooner else left) / 1e9)[0]:
                return self._poll.poll(0)
            if sooner:
                return ready
        else:
            ready = self._poll.poll(0)
        self._due = True
        for descriptor in self._aside:
            ready.append((descriptor, IN))
        return ready

    def _judge(self) -> None:
        """Let events come together for longer, or shorter, as a trial; stay with that if it was the better length.

        Whoever waits for answers or acknowledgements sends no more before them, however long the nap: it brings no more
        at a time, or fewer a second.
        """
        sums, before, span, before_span = self._sums, self._before, clock() - self._began, self._span
        self._sums, self._before = {}, {}
        self._turns = 0
        brought, dense = sum(sums.values()), _DENSE * _TURNS * self._nap / 1e9
        if before:
            pays = _pays(sums, span, before, before_span) if self._longer else _pays(before, before_span, sums, span)
            if pays == self._longer:
                self._patience = _HOLD
            else:  # the length before the trial was the better one
                self._nap = self._nap // _STEP if self._longer else self._nap * _STEP
                self._hold, self._patience = self._patience, min(2 * self._patience, _MOST_PATIENT)
                self._longer = not self._longer
        elif brought < dense / 2:
            self._nap = max(self._nap // _STEP, _SHORTEST_NS)
        elif self._hold:
            self._hold -= _TURNS
        elif self._longer and brought >= dense and self._nap < _LONGEST_NS:
            self._nap *= _STEP
            self._before, self._span = sums, span
        elif self._nap > _SHORTEST_NS:
            self._longer = False
            self._nap //= _STEP
            self._before, self._span = sums, span
        else:
            self._longer = True

    def wake(self) -> None:
        """End the wait; callable from any thread and from a signal handler."""
        os.eventfd_write(self._event, 1)

    def close(self) -> None:
        """Give the two descriptors back."""
        self._poll.close()
        if self._event >= 0:
            os.close(self._event)
            self._event = -1


def _pays(longer: dict[Any, int], longer_ns: int, shorter: dict[Any, int], shorter_ns: int) -> bool:
    """Whether the longer nap brought more at a time and no fewer a second: altogether, and of each that brings much.

    Of each with the benefit of the doubt: what comes by chance varies by the square root of what there is, and of ten
    streams one would have had bad luck in nearly every trial.
    """
    pairs: list[tuple[float, int]] = [(sum(longer.values()), sum(shorter.values()))]
    for one, count in shorter.items():
        if count >= _TURNS:
            more = longer.get(one, 0)
            pairs.append((more + more**0.5, count))
    return all(more >= _PAYS * count and more * shorter_ns >= _KEEPS * count * longer_ns for more, count in pairs)
