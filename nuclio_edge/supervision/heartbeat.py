"""Tells systemd that this process lives (sd_notify(3), WatchdogSec=), as long as the loop and the workers really move.

What counts:
- the loop: this runs in it, so that it turns and its deadlines come;
- each function with something queued or running: something must come of it, be it a failure, within its timeout and
  some grace, as no call may take longer. It is our own machinery that is looked after here: a handler that
  hangs is abandoned and replaced, and then something has come of it;
- all functions together: one must be able to run. When all are suspended, and not only for a while, as their threads
  hang and cannot be ended, a new process is the cure. One function that hangs beside others is not reason enough;
- what `watch` was told of: the spool's writer, whose group must reach the disk.

While one of them does not move systemd is not told, and ends the process when WatchdogSec is over; if it moves
again before that, all is well. A stop is not looked after: it has a time limit of its own.

One wake-up in two fifths of WatchdogSec, none without it. Belongs to the loop's thread.
"""

from __future__ import annotations

from nuclio_edge.core import port

from .supervise import notify

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.functions.function import Function
    from nuclio_edge.processor import Processor

GRACE_MS = 5_000  # that something may come later than a function's timeout; a worker process is begun in it, too
DISK_MS = 60_000  # that a group may take to the disk: cards collect their garbage for half a minute
HANGS = "handlers hang"  # why a function is suspended for ever


class Heart:
    """Beats from its making to `close`. `status()` is the line that `systemctl status` shows."""

    def __init__(self, processor: Processor, interval_ms: int, status: Callable[[], str]) -> None:
        self.processor = processor
        self.beats = 0
        self.trouble = ""  # why systemd is not told at present
        self._every = max(interval_ms * 2 // 5, 1)
        self._status = status
        self._said = ""
        self._parts: list[tuple[str, Callable[[], Any], int]] = []
        self._seen: dict[Any, tuple[Any, int]] = {}  # what it was at when it last moved, and when that was
        self._timer: Any = None
        self._beat()

    def watch(self, name: str, at: Callable[[], Any], patience_ms: int) -> None:
        """Look after something more: `at()` says what it is at, None for nothing; the same for so long is stuck."""
        self._parts.append((name, at, patience_ms))

    def close(self) -> None:
        """Beat no more; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _beat(self) -> None:
        self._timer = self.processor.loop.call_later(self._every, self._beat)
        trouble = "" if self.processor.stopping else self.look()
        if trouble != self.trouble:
            self._tell(trouble)
        if trouble:
            return
        self.beats += 1
        status = self._status()
        notify("WATCHDOG=1" if status == self._said else f"WATCHDOG=1\nSTATUS={status}")
        self._said = status

    def _tell(self, trouble: str) -> None:
        logger = self.processor.logger
        self.trouble = trouble
        if trouble:
            logger.error_with("systemd is told no more that this process lives: it will end it", "reason", trouble)
            notify(f"STATUS=stuck: {trouble}")
            self._said = ""
        else:
            logger.info_with("it moves again, and systemd is told so")
        if self.processor.watchdog is not None:
            self.processor.watchdog.slots.note(f"stuck: {trouble}" if trouble else "")

    def look(self) -> str:
        """Why this process does not move; empty when it does."""
        functions = self.processor.functions
        seen: dict[Any, tuple[Any, int]] = {}
        stuck = ""
        now = port.ticks_ms()
        parts = [(f"function {name}", _at, _patience(function), function) for name, function in functions.items()]
        parts += [(name, lambda _, at=at: at(), patience, name) for name, at, patience in self._parts]  # type: ignore[misc]  # bound at once
        for name, at, patience, who in parts:
            present = at(who)
            if present is None:
                continue
            last, since = self._seen.get(who, (None, now))
            if last is None or last != present:
                since = now
            elif now - since > patience:
                stuck = stuck or f"{name} has not moved for more than {patience // 1000} s"
            seen[who] = (present, since)
        self._seen = seen
        if not stuck and functions and all(f.suspended for f in functions.values()):
            hanging = [name for name, function in functions.items() if function.suspended == HANGS]
            if hanging:
                stuck = f"no function can run any more, and these hang: {', '.join(hanging)}"
        return stuck


def _at(function: Function) -> Any:
    """How many outcomes there are of a function that has something to do, None of one that has not."""
    if function.loading or function.suspended is not None or function.runner.drain():
        return None
    return sum(t.handled + t.failed + t.dead_lettered + t.retried + sum(t.shed.values()) for t in function.triggers)


def _patience(function: Function) -> int:
    start = 30_000 if function.spec.isolation == "process" else 0  # a new process, and the import in it
    return function.timeout_ms + start + GRACE_MS
