"""A clock that stands still until a test moves it."""

from __future__ import annotations

from nuclio_edge import clock
from nuclio_edge.core import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.core.loop import Loop


class Clock:
    """The time of everything in this process that asks `nuclio_edge.core.port` or `nuclio_edge.clock`, while entered.

    Two clocks, as on a device: `ticks` only grows (milliseconds), `wall` is Unix time (milliseconds) and may be set to
    anything. Real waiting goes on: threads, sockets and a loop that has nothing due are not concerned.

    Close under it what ran under it: afterwards the time is that of the computer again, which may be an earlier one.
    """

    def __init__(self, wall: int = 1_700_000_000_000, ticks: int = 1_000_000) -> None:
        self.wall = wall
        self.ticks = ticks

    def __enter__(self) -> Clock:
        self._real = port.ticks_ms, port.now_ms, clock.boot_ms
        port.ticks_ms, port.now_ms, clock.boot_ms = self._read_ticks, self._read_wall, self._read_ticks
        clock.CLOCK.forget()
        return self

    def __exit__(self, *_: object) -> None:
        port.ticks_ms, port.now_ms, clock.boot_ms = self._real
        clock.CLOCK.forget()

    def skip(self, ms: int) -> None:
        """Let so much time pass in which nothing runs, as in a device that sleeps."""
        self.ticks += ms
        self.wall += ms

    def advance(self, ms: int, loop: Loop) -> None:
        """Let so much time pass, in which the loop runs whatever is due, each at its time."""
        end = self.ticks + ms
        while True:
            wait = loop._wait_ms(end - self.ticks + 1)
            if wait and self.ticks + wait > end:
                break
            self.skip(wait)
            loop.turn(0)
        self.skip(end - self.ticks)
        loop.turn(0)

    def _read_ticks(self) -> int:
        return self.ticks

    def _read_wall(self) -> int:
        return self.wall
