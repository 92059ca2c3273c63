"""The port for CPython >= 3.10: nanosecond clocks; the poller, JSON and the Event have files of their own."""

from __future__ import annotations

import sys
import time
from collections import deque

from .port_cpython_event import aside, boot, lean, new_id, next_number, on_demand, slot
from .port_cpython_json import json_bytes, json_dumps, json_loads
from .port_cpython_poller import IN, OUT, Poller

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

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
