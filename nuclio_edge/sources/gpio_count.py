"""A counter: one event an interval with the number of edges in it, for inputs that are too fast for an event an edge.

An interval begins with the first edge after a rest. Each in which edges came is told, and one more with 0 when they
have stopped; then nothing happens, and nothing wakes the device, before the next edge.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Counter:
    """The edges of one trigger; `tell(count, total)` ends an interval, `later(ms, call)` makes a timer to cancel."""

    __slots__ = ("_later", "_tell", "_timer", "count", "interval_ms", "total")

    def __init__(
        self, interval_ms: int, tell: Callable[[int, int], Any], later: Callable[[int, Callable[[], Any]], Any]
    ) -> None:
        self.interval_ms = interval_ms
        self._tell = tell
        self._later = later
        self._timer: Any = None
        self.count = 0
        self.total = 0

    def add(self, edges: int) -> None:
        """So many more."""
        self.count += edges
        if self._timer is None:
            self._timer = self._later(self.interval_ms, self._end)

    def stop(self) -> None:
        """Wait for nothing; what was counted in the present interval is told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if self.count:
                self._flush()

    def _end(self) -> None:
        self._timer = self._later(self.interval_ms, self._end) if self.count else None
        self._flush()

    def _flush(self) -> None:
        count, self.count = self.count, 0
        self.total += count
        self._tell(count, self.total)
