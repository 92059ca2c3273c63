"""Reading that may block, on threads that are left behind when it does: the other sensors go on without the one.

A round reads its sensors one after the other on a thread of its own, which ends with the round. When one read takes
longer than the timeout, its thread is abandoned and another one takes the rest; the sensor is left out until the read
returns.
"""

from __future__ import annotations

from _thread import allocate_lock, start_new_thread
from collections import deque

from nuclio_edge.core import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from nuclio_edge.core.loop import Loop

MOST_STUCK = 8  # threads that may hang at a time
LISTING = ""  # looking for the sensors is a read as well: a folder may hang


class Run:
    """One thread's work."""

    __slots__ = ("abandoned", "began", "current", "lock", "todo")

    def __init__(self, todo: deque[str] | None) -> None:
        self.lock = allocate_lock()
        self.todo = todo  # None: to be listed first
        self.current: str | None = None
        self.began = 0
        self.abandoned = False


class Rounds:
    """Rounds of reads, one at a time. Everything but `_work` is on the loop's thread.

    `list_` gives the sensors, `read` one reading; both run on the round's thread. On the loop: `found(sensors)` once
    they are listed, `took(sensor, result)` for each, an exception being a result too, `hangs(sensor)` when one is left
    behind, `over()` at the end of a round.
    """

    def __init__(
        self,
        loop: Loop,
        timeout_ms: int,
        list_: Callable[[], Iterable[str]],
        read: Callable[[str], Any],
        found: Callable[[list[str]], Any],
        took: Callable[[str, Any], Any],
        hangs: Callable[[str], Any],
        over: Callable[[], Any],
    ) -> None:
        self._loop = loop
        self._timeout = timeout_ms
        self._list = list_
        self._read = read
        self._found = found
        self._took = took
        self._hangs = hangs
        self._over = over
        self._run: Run | None = None
        self._timer: Any = None
        self._closed = False
        self.stuck: set[str] = set()

    @property
    def busy(self) -> bool:
        """Whether a round is not over."""
        return self._run is not None

    def begin(self) -> None:
        """A round, unless one is still going on or too many reads hang."""
        self._closed = False
        if self._run is None and len(self.stuck) < MOST_STUCK and LISTING not in self.stuck:
            self._start(Run(None))

    def close(self) -> None:
        """Leave whatever is going on behind; nothing more is told."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        run, self._run = self._run, None
        if run is not None:
            with run.lock:
                run.abandoned = True

    def _start(self, run: Run) -> None:
        self._run = run
        run.began = port.ticks_ms()
        self._timer = self._loop.call_later(self._timeout, self._look)
        start_new_thread(self._work, (run,))

    def _look(self) -> None:
        """Whether the present read takes too long."""
        self._timer = None
        run = self._run
        if run is None:
            return
        with run.lock:
            sensor, left = run.current, run.began + self._timeout - port.ticks_ms()
            if sensor is not None and left <= 0:
                run.abandoned = True
        if sensor is None or left > 0:
            self._timer = self._loop.call_later(max(left, 1), self._look)
            return
        self.stuck.add(sensor)
        self._run = None
        self._hangs(sensor)
        if run.todo and len(self.stuck) < MOST_STUCK:
            self._start(Run(run.todo))
        else:
            self._over()

    def _work(self, run: Run) -> None:
        """The thread."""
        if run.todo is None:
            listed = self._one(run, LISTING, lambda _: list(self._list()))
            if run.abandoned:
                return
            if isinstance(listed, BaseException):
                listed = []
            self._loop.post(lambda: run is self._run and self._found(listed))
            run.todo = deque(sensor for sensor in listed if sensor not in self.stuck)
        while run.todo:
            sensor = run.todo.popleft()
            result = self._one(run, sensor, self._read)
            if run.abandoned:
                return
            self._loop.post(lambda sensor=sensor, result=result: run is self._run and self._took(sensor, result))  # type: ignore[misc]
        self._loop.post(lambda: self._end(run))

    def _one(self, run: Run, sensor: str, read: Callable[[str], Any]) -> Any:
        with run.lock:
            run.current, run.began = sensor, port.ticks_ms()
        try:
            result = read(sensor)
        except BaseException as error:  # noqa: BLE001 - a reader may call sys.exit; a thread has nobody to tell
            result = error
        with run.lock:
            run.current = None
            abandoned = run.abandoned
        if abandoned and not self._closed:
            self._loop.post(lambda: self.stuck.discard(sensor))
        return result

    def _end(self, run: Run) -> None:
        if run is self._run:
            self._run = None
            self._timer.cancel()
            self._timer = None
            self._over()
