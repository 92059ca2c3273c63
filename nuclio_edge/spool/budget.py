"""A budget of bytes that may be written in any 24 hours: what it does to the time between two commits.

A bucket holds an eighth of the day's bytes, and the rest flows in over the day. While it is more than half full nothing
is held back. Below, a commit comes only as often as its bytes flow in; what comes and goes meanwhile is never written.
A commit that is asked for waits for a second at most, however empty the bucket.
"""

from __future__ import annotations

DAY_MS = 86_400_000
LONGEST_MS = 30_000  # that a group waits to be written
ASKED_MS = 1_000  # that one waits which somebody waits for


class Budget:
    """Bytes as the disk has to take them: whole pages. Times are milliseconds of `port.ticks_ms`.

    `spent` in all; `stretched`: commits that came later for it; `over`: commits that were more than there was.
    """

    __slots__ = ("_at", "_cost", "_last", "level", "over", "per_day", "spent", "stretched")

    def __init__(self, per_day: int, now: int) -> None:
        self.per_day = per_day
        self.level = per_day / 8
        self.spent = self.stretched = self.over = 0
        self._at = now
        self._last = now - ASKED_MS
        self._cost = 4096.0

    def rate(self) -> float:
        """Bytes a millisecond that flow in."""
        return self.per_day * 7 / 8 / DAY_MS

    def refill(self, now: int) -> None:
        """Let in what is due since the last time."""
        self.level = min(self.per_day / 8, self.level + (now - self._at) * self.rate())
        self._at = now

    def spend(self, size: int, now: int) -> None:
        """So many bytes went to the disk."""
        self.refill(now)
        self.level -= size
        self.spent += size
        self._cost += (size - self._cost) / 8
        self._last = now
        if self.level < 0:
            self.over += 1

    def wait(self, flush_ms: int, now: int) -> int:
        """How long a group that begins now may wait for more, in ms."""
        self.refill(now)
        if self.level > self.per_day / 16:
            return flush_ms
        wait = (self._cost + max(0.0, -self.level)) / self.rate()
        if wait <= flush_ms:
            return flush_ms
        self.stretched += 1
        return min(int(wait), LONGEST_MS)

    def hold(self, now: int) -> int:
        """How long a commit that is asked for has to wait, in ms; 0: it goes at once."""
        self.refill(now)
        if self.level > 0:
            return 0
        return max(0, self._last + ASKED_MS - now)

    def restore(self, level: float, passed_ms: int) -> None:
        """Go on from what an earlier process had, so long ago."""
        self.level = min(self.per_day / 8, level + max(0, passed_ms) * self.rate())
