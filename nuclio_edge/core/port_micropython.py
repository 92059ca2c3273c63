"""The port for MicroPython >= 1.25: 30-bit tick counters, `select.poll`, no threads."""

import io
import json
import os
import select
import sys
import time
from collections import deque

const = int  # for `X = const(1)`: the compiler puts 1 where X is used
TYPE_CHECKING = const(0)
if TYPE_CHECKING:
    from typing import Any

IN = 1
OUT = 4
# Milliseconds since 1970 are ints: the single-precision floats of boards cannot hold a time (2^24 s is half a year).
_EPOCH_S = 0 if time.gmtime(0)[0] == 1970 else 946_684_800  # boards that count from 2000

clock = time.ticks_us  # type: ignore[attr-defined]  # MicroPython only
TICKS_PER_MS = 1000
_raw = time.ticks_ms()  # type: ignore[attr-defined]  # MicroPython only
_total = 0
_count = 0


def ticks_ms() -> int:
    """Milliseconds that only grow; the wrap of the 30-bit hardware counter is taken out."""
    global _raw, _total
    raw = time.ticks_ms()  # type: ignore[attr-defined]  # MicroPython only
    _total += time.ticks_diff(raw, _raw)  # type: ignore[attr-defined]  # MicroPython only
    _raw = raw
    return _total  # type: ignore[no-any-return]  # an int


def now_ms() -> int:
    """The wall clock in milliseconds since 1970."""
    return int(time.time_ns() // 1_000_000 + _EPOCH_S * 1000)


def bucket(duration_ns: int) -> int:
    """The number of bits of a duration: the index of its latency bucket."""
    bits = 0
    while duration_ns:
        duration_ns >>= 1
        bits += 1
    return bits


try:
    boot = os.urandom(4).hex()
except (AttributeError, OSError):  # the webassembly build has none
    boot = "%08x" % (now_ms() * 2_654_435_761 & 0xFFFFFFFF)


def new_id(_event: "Any") -> str:
    """The id of an event that has none yet."""
    global _count
    _count += 1
    return boot + "-" + str(_count)


def utc(ms: int) -> "Any":
    """A point of the wall clock as the tuple of `time.gmtime`."""
    return time.gmtime(ms // 1000 - _EPOCH_S)


def error_text(error: BaseException) -> str:
    """A traceback as text."""
    out = io.StringIO()
    sys.print_exception(error, out)  # type: ignore[attr-defined]  # MicroPython only
    return out.getvalue()


def current_error() -> "Any":
    """Nothing: the exception being handled cannot be asked for here."""
    return None


msgpack_library = current_error  # nothing either: core/msgpack.py does it itself


def json_dumps(value: "Any") -> str:
    """Compact JSON; what JSON cannot say is made sayable first (`json.dumps` would write a repr unasked)."""
    from .plain import plain  # only who writes JSON pays for it

    return json.dumps(plain(value), separators=(",", ":"))


def json_loads(text: "bytes | str") -> "Any":
    """The value of a JSON text; ValueError when it is none."""
    return json.loads(text)


def slots(*_: "Any") -> "tuple[str, ...]":
    """No slots: they have no effect here, and the names would cost 50 bytes each."""
    return ()


aside = on_demand = slots  # nothing either: without slots any attribute can be set, and the Event has its `__getattr__`


def queue(limit: int) -> "Any":
    """An empty deque; here it is allocated whole, and one event too many raises IndexError."""
    return deque((), limit, 1)  # type: ignore[call-overload]  # MicroPython's own flags


def key_of(descriptor: "Any") -> "Any":
    """What the poller reports for a registered descriptor: here the object itself."""
    return descriptor


class Poller:
    """Readiness by `select.poll`, which returns the registered objects."""

    def __init__(self) -> None:
        self._poll = select.poll()

    def set(self, descriptor: "Any", mask: int, known: bool) -> None:
        """Ask for the conditions in `mask`."""
        self._poll.register(descriptor, mask)

    def forget(self, descriptor: "Any") -> None:
        """Ask for nothing more."""
        self._poll.unregister(descriptor)

    def wait(self, timeout_ms: int) -> "list[tuple[Any, int]]":
        """The ready descriptors with their conditions, after at most `timeout_ms` (-1: whenever)."""
        return self._poll.poll(timeout_ms)

    def wake(self) -> None:
        """Nothing: no other thread exists that could have called, and nothing is held."""

    close = wake
