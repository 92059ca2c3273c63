"""One loop: descriptor readiness, a heap of deadlines and calls from other threads; it owns every other state here."""

from heapq import heapify, heappop, heappush

from . import port
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_LONGEST_MS = const(3_600_000)  # a wait is cut there: epoll takes a C int, and an hour between wake-ups costs nothing


class Timer:
    """A call that waits for its time; `cancel` may come at any moment, also from inside the call."""

    __slots__ = ("at", "call", "loop")

    def __init__(self, loop: "Loop", at: int, call: "Callable[[], Any]") -> None:
        self.loop = loop
        self.at = at
        self.call: "Callable[[], Any] | None" = call

    def cancel(self) -> None:
        """Make it not happen; no error when it has happened."""
        if self.call is not None:
            self.call = None
            self.loop._lapse()


class Loop:
    """The one place where things happen; every method but `post` and `wake` belongs to the thread that runs it.

    A turn: ready descriptors, calls from other threads, `call_soon`, due timers, then what was asked for at its end.
    An exception of a call goes to `on_error(error, call)` and stops nothing else. Times are milliseconds of
    `port.ticks_ms`; `now` and `wall` (Unix milliseconds) are read once a wake-up.
    """

    if TYPE_CHECKING:
        thread: int  # the identifier of the thread that turns it, set by whoever has threads

    def __init__(self) -> None:
        self.poller = port.Poller()
        self._calls: "dict[Any, Callable[[int], Any]]" = {}
        self._timers: "list[tuple[int, int, Timer]]" = []
        self._lapsed = 0
        self._sequence = 0
        self._soon: "list[Callable[[], Any]]" = []
        self._end: "list[Callable[[], Any]]" = []
        self._posted: "Any" = port.queue(16)
        self._inlets: "list[tuple[Any, Callable[[], Any]]]" = []
        self._sleeping = False
        self.running = False
        self.now = port.ticks_ms()
        self.wall = port.now_ms()
        self.wakeups = 0
        self.on_error: "Callable[[BaseException, Any], Any]" = _raise

    def add(self, descriptor: "Any", call: "Callable[[int], Any]", read: bool = True, write: bool = False) -> None:
        """Call `call(mask)` whenever the descriptor is ready; errors and hang-ups show as IN and OUT together."""
        key = port.key_of(descriptor)
        self.poller.set(descriptor, (port.IN if read else 0) | (port.OUT if write else 0), key in self._calls)
        self._calls[key] = call

    def modify(self, descriptor: "Any", read: bool, write: bool) -> None:
        """Change what a registered descriptor is watched for; with neither, only errors and hang-ups show."""
        self.poller.set(descriptor, (port.IN if read else 0) | (port.OUT if write else 0), True)

    def remove(self, descriptor: "Any") -> None:
        """Forget a descriptor, before it is closed; no error when it is not there."""
        if self._calls.pop(port.key_of(descriptor), None) is not None:
            self.poller.forget(descriptor)

    def call_at(self, at: int, call: "Callable[[], Any]") -> Timer:
        """Call at a time of `port.ticks_ms`; equal times keep their order."""
        timer = Timer(self, at, call)
        self._sequence += 1
        heappush(self._timers, (at, self._sequence, timer))
        return timer

    def call_later(self, delay_ms: int, call: "Callable[[], Any]") -> Timer:
        """Call after so many milliseconds, counted from the present moment rather than from the turn's start."""
        return self.call_at(port.ticks_ms() + delay_ms, call)

    def call_soon(self, call: "Callable[[], Any]") -> None:
        """Call in the next turn, after descriptors had theirs: how a long drain gives the others a chance."""
        self._soon.append(call)

    def at_turn_end(self, call: "Callable[[], Any]") -> None:
        """Call once when this turn ends (the caller keeps count): one write, one hand-over, however many events."""
        self._end.append(call)

    def add_inlet(self, queue: "Any", call: "Callable[[], Any]") -> None:
        """Call `call()` in every turn that finds `queue` not empty; other threads append to it, then `wake`."""
        self._inlets.append((queue, call))

    def post(self, call: "Callable[[], Any]") -> None:
        """Call on the loop's thread; any thread may post."""
        self._posted.append(call)
        self.wake()

    def wake(self) -> None:
        """End the loop's wait if it is in one; any thread. What is to be seen must have been appended before."""
        if self._sleeping:
            self._sleeping = False
            self.poller.wake()

    def run(self) -> None:
        """Turn until `stop`."""
        self.running = True
        while self.running:
            self.turn()

    def stop(self) -> None:
        """End `run` after this turn."""
        self.running = False

    def turn(self, longest_ms: int = _LONGEST_MS) -> None:
        """One wake-up; returns after at most `longest_ms` with nothing to do."""
        # Said before the queues are looked at: a thread that appends after the look finds the flag and wakes us.
        self._sleeping = True
        ready = self.poller.wait(self._wait_ms(longest_ms))
        self._sleeping = False
        self.wakeups += 1
        self.now = port.ticks_ms()
        self.wall = port.now_ms()
        soon: "Any" = ()
        if self._soon:  # before anything is called: what a call of this turn asks for comes in the next one
            soon, self._soon = self._soon, []
        calls = self._calls
        for key, mask in ready:
            call = calls.get(key)
            if call is not None:
                try:
                    # Error, hang-up, closed under our hands: whoever reads or writes finds out.
                    call(mask | port.IN | port.OUT if mask & 0x38 else mask)
                except Exception as error:  # noqa: BLE001 - one bad call stays one bad call
                    self.on_error(error, call)
        for queue, take in self._inlets:
            if queue:
                self._guard(take)
        posted = self._posted
        for _ in range(len(posted)):
            self._guard(posted.popleft())
        for one in soon:
            self._guard(one)
        self._run_timers()
        while self._end:
            end, self._end = self._end, []
            for one in end:
                self._guard(one)

    def close(self) -> None:
        """Give the poller's descriptors back; the loop does not run again."""
        self._timers = []
        self._calls = {}
        self.poller.close()

    def _wait_ms(self, longest_ms: int) -> int:
        if self._soon or self._posted or self._end:
            return 0
        for queue, _ in self._inlets:
            if queue:
                return 0
        timers = self._timers
        while timers and timers[0][2].call is None:
            heappop(timers)
            self._lapsed -= 1
        if timers:
            left = timers[0][0] - port.ticks_ms()
            if left < longest_ms:
                return max(0, left)
        return longest_ms

    def _run_timers(self) -> None:
        timers = self._timers
        now = self.now
        while timers and timers[0][0] <= now:
            timer = heappop(timers)[2]
            call = timer.call
            if call is None:
                self._lapsed -= 1
            else:
                timer.call = None
                self._guard(call)

    def _lapse(self) -> None:
        self._lapsed += 1
        if self._lapsed > 64 and self._lapsed * 2 > len(self._timers):  # bounded: not more cancelled than living ones
            self._timers[:] = [entry for entry in self._timers if entry[2].call is not None]
            heapify(self._timers)
            self._lapsed = 0

    def _guard(self, call: "Callable[[], Any]") -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - one bad call stays one bad call
            self.on_error(error, call)


def _raise(error: BaseException, _call: "Any") -> None:
    raise error
