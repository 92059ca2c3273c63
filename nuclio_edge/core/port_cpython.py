"""The port for CPython >= 3.10: epoll, eventfd, nanosecond clocks; JSON and the Event have files of their own."""

from __future__ import annotations

import os
import select
import sys
import time
from collections import deque

from .port_cpython_event import aside, boot, lean, new_id, next_number, on_demand, slot
from .port_cpython_json import json_bytes, json_dumps, json_loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

IN = 1
OUT = 4

clock = time.perf_counter_ns
_monotonic_ns, _time_ns = time.monotonic_ns, time.time_ns
TICKS_PER_MS = 1_000_000
bucket = int.bit_length


def ticks_ms() -> int:
    """Milliseconds that only grow."""
    return _monotonic_ns() // 1_000_000


def now_ms() -> int:
    """The wall clock in milliseconds since 1970."""
    return _time_ns() // 1_000_000


def utc(ms: int) -> Any:
    """A point of the wall clock as the naive UTC datetime of Nuclio's SDK."""
    from datetime import datetime, timedelta

    return datetime(1970, 1, 1) + timedelta(milliseconds=ms)  # noqa: DTZ001 - the SDK's are naive


def error_text(error: BaseException) -> str:
    """A traceback as text."""
    import traceback

    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def current_error() -> BaseException | None:
    """The exception that the calling thread is handling."""
    return sys.exc_info()[1]


def msgpack_library() -> Any:
    """The library of MessagePack where it is installed, else None."""
    try:
        import msgpack  # type: ignore[import-untyped]
    except ImportError:
        return None
    return msgpack


def slots(names: str) -> tuple[str, ...]:
    """The names as `__slots__`."""
    return tuple(names.split())


def queue(limit: int) -> Any:
    """An empty deque, which grows as it must: who appends keeps the bound."""
    return deque()


def key_of(descriptor: Any) -> Any:
    """What the poller reports for a registered descriptor: here its number."""
    return descriptor if isinstance(descriptor, int) else descriptor.fileno()


_MODERATE_FROM = 32
_SHORTEST_S = 0.0001
_LONGEST_S = 0.0008
_DENSE = 30_000  # events for each second of the nap, from which on a longer one is tried; docs/decisions/0011
_TURNS = 16  # wake-ups between two judgements of how long
_PAYS = 1.4  # a nap of twice the length brings so many times the events of the shorter one, or it is too long
_HOLD = 256  # wake-ups until another length is tried
_PAUSE_NS = 200_000


class Poller:
    """Readiness by epoll, with an eventfd through which other threads end a wait."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._stream = 0  # grows with wake-ups that bring several events, shrinks with others and with pauses
        self._nap = _SHORTEST_S
        self._turns = 0  # wake-ups that brought several since the last judgement,
        self._sum = 0  # the events that came with them,
        self._base = 0  # and that sum before the length that is being tried; 0: none is
        self._longer = True  # whether a longer one is tried, or is to be the next to be tried
        self._hold = 0
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._event, IN | select.EPOLLET)  # each write is told once: nobody has to read it

    def set(self, descriptor: Any, mask: int, known: bool) -> None:
        """Ask for the conditions in `mask`."""
        if known:
            self._poll.modify(descriptor, mask)
        else:
            self._poll.register(descriptor, mask)

    def forget(self, descriptor: Any) -> None:
        """Ask for nothing more."""
        try:
            self._poll.unregister(descriptor)
        except (OSError, ValueError):
            pass  # closed already: epoll forgot it with the close

    def wait(self, timeout_ms: int, several: int) -> list[tuple[Any, int]]:
        """The ready descriptors with their conditions, after at most `timeout_ms` (-1: whenever); one may be our own.

        A stream that comes faster than the loop turns would be handled piecemeal, and the time go into system calls.
        When wake-ups follow each other closely and `several` events came with many of them, more may come together
        first, as network cards moderate their interrupts; for longer, if more of them come then. A peer that sends one
        event and waits for the answer is never made to wait, nor is an event that follows a pause.
        """
        if self._stream > _MODERATE_FROM and timeout_ms:
            time.sleep(self._nap)
            if timeout_ms > 0:
                timeout_ms -= 1  # what is due by then has waited already
        elif not timeout_ms:
            return self._poll.poll(0)
        start = clock()
        ready = self._poll.poll(None if timeout_ms < 0 else timeout_ms / 1000)
        if clock() - start > _PAUSE_NS:
            self._stream >>= 1
            if self._stream <= _MODERATE_FROM:
                self._nap = _SHORTEST_S
                self._turns = self._sum = self._base = self._hold = 0
                self._longer = True
        elif several:
            self._stream = min(self._stream + 4, 128)
            self._sum += several
            self._turns += 1
            if self._turns == _TURNS:
                self._judge()
        elif self._stream:
            self._stream -= 1
        return ready

    def _judge(self) -> None:
        """Let events come together for twice as long, or half, as a trial; stay with that if it was the better length.

        Whoever waits for answers or acknowledgements sends no more before them, however long the nap.
        """
        brought, before, dense = self._sum, self._base, _DENSE * _TURNS * self._nap
        self._turns = self._sum = self._base = 0
        if before and self._longer:
            if brought < before * _PAYS:
                self._nap /= 2
                self._hold = _HOLD
                self._longer = False
        elif before:
            if brought * _PAYS < before:
                self._nap *= 2
            self._hold = _HOLD
            self._longer = True
        elif brought < dense / 2:
            self._nap = max(self._nap / 2, _SHORTEST_S)
        elif self._hold:
            self._hold -= _TURNS
        elif self._longer and brought >= dense and self._nap < _LONGEST_S:
            self._nap *= 2
            self._base = brought
        elif self._nap > _SHORTEST_S:
            self._longer = False
            self._nap /= 2
            self._base = brought
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


__all__ = [
    "IN",
    "OUT",
    "TICKS_PER_MS",
    "Poller",
    "aside",
    "boot",
    "bucket",
    "clock",
    "current_error",
    "error_text",
    "json_bytes",
    "json_dumps",
    "json_loads",
    "key_of",
    "lean",
    "msgpack_library",
    "new_id",
    "next_number",
    "now_ms",
    "on_demand",
    "queue",
    "slot",
    "slots",
    "ticks_ms",
    "utc",
]
