"""The stop of a processor: nothing more comes in, what was admitted comes to its end, then all is closed.

Laws:
- It ends within `device.stop_timeout`, whatever hangs; of that a part is for the last words of those that are done.
- What is on disk waits for the next start. What is lost all the same is named, and the exit code says so.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .functions.function import Function
    from .processor import Processor

UNDRAINED = 5  # the exit code of a stop that has lost events
LOOK_MS = 5  # how often it is looked whether all have come to their end
# Of the timeout so much, at most a quarter, is kept for the last words of those that are done when one hangs.
LAST_WORDS_MS = 1_000


class Stop:
    """One stop; `over` when everything is closed. Loop thread only."""

    def __init__(self, processor: Processor) -> None:
        self.over = False
        self.busy: list[Function] = []  # those that had something to do when it was looked last
        self._processor = processor
        self._deadline = processor.loop.now
        self._last_words_ms = 0

    def begin(self) -> None:
        """Take nothing more in; from now on the time runs."""
        processor = self._processor
        for source in processor.sources.values():
            processor.attempt(source.stop_receiving)
        if processor.delivery is not None:
            processor.attempt(processor.delivery.stop)
        for function in processor.all_functions():
            processor.attempt(function.hasten)
        timeout = processor.manifest.device.stop_timeout_ms
        self._deadline = processor.loop.now + timeout
        self._last_words_ms = min(timeout // 4, LAST_WORDS_MS)
        self.look()

    def look(self) -> None:
        """Close everything if all have come to their end, or the time is up; else look again soon.

        Where nothing has begun, this is the whole stop. One that cannot tell who is busy does not wait.
        """
        processor = self._processor
        try:
            waits = self._waits()
        except Exception as error:  # noqa: BLE001 - nobody would look again: it would run on for ever
            processor.loop.on_error(error, self.look)
            waits = False
        if waits:
            processor.loop.call_later(LOOK_MS, self.look)
            return
        for farewell in processor.assembly.farewells.values():
            processor.attempt(farewell.expire)
        processor.attempt(self._tell_lost)
        processor.close()
        self.over = True
        processor.loop.stop()

    def waits_for(self) -> list[str]:
        """Functions that have something to do or to say, else sources that have something to send; none: the disk."""
        speaking = [f for f, farewell in self._processor.assembly.farewells.items() if not farewell.over]
        return sorted({f.name for f in [*self.busy, *speaking]} or {source.name for source in self._unsent()})

    def _waits(self) -> bool:
        """Whether there is something to wait for, and time left."""
        processor = self._processor
        self.busy = [f for f in processor.all_functions() if not f.runner.drain() or self._unsafe(f)]
        left = self._deadline - processor.loop.now
        speaking = (not self.busy or left < self._last_words_ms) and not self._last_words(self.busy, max(left, 0))
        sending = self._sending()
        return (bool(self.busy) or speaking or sending) and left > 0

    def _tell_lost(self) -> None:
        """Name the functions whose events are lost; the exit code says that there are some."""
        processor = self._processor
        lost = [f for f in self.busy if self._unsafe(f) or not any(t.spec.durable for t in f.triggers)]
        if lost:
            processor.exit_code = UNDRAINED
            processor.logger.warn_with(
                "stopped with events undrained", "functions", ", ".join(sorted({f.name for f in lost}))
            )

    def _unsafe(self, function: Function) -> int:
        """How many of a function's events would be lost now: those that are pending and not on disk."""
        delivery = self._processor.delivery
        if delivery is not None:
            return delivery.unsafe(function)
        return sum(t.pending for t in function.triggers)

    def _last_words(self, busy: list[Function], left_ms: int) -> bool:
        """Have every function that is done call its drain and termination callbacks; whether all have."""
        processor = self._processor
        try:
            begun = [processor.assembly.farewell(f, left_ms) for f in processor.all_functions() if f not in busy]
        except Exception as error:  # noqa: BLE001 - the stop goes on all the same
            processor.loop.on_error(error, self._last_words)
            return True
        return all(farewell.over for farewell in begun)

    def _sending(self) -> bool:
        """Whether something is on its way out, or to the disk; what waits for its moment is sent there."""
        processor = self._processor
        unanswered = processor.admin is not None and not processor.admin.answered()
        storing = processor.delivery is not None and processor.delivery.busy()
        return bool(self._unsent()) or unanswered or storing

    def _unsent(self) -> list[Any]:
        """The sources that have something on its way out."""
        return [source for source in self._processor.sources.values() if not getattr(source, "sent", _yes)()]


def _yes() -> bool:
    return True
