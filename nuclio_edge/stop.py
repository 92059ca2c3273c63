"""The stop of a processor: nothing more comes in, what was admitted comes to its end, then all is closed.

Laws:
- It ends within `device.stop_timeout`, whatever hangs; of that a part is for the last words of those that are done.
- What is on disk waits for the next start. What is lost all the same is named, and the exit code says so.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
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
        self._processor = processor
        self._deadline = processor.loop.now
        self._last_words_ms = 0

    def begin(self) -> None:
        """Take nothing more in; from now on the time runs."""
        processor = self._processor
        for source in processor.sources.values():
            source.stop_receiving()
        if processor.delivery is not None:
            processor.delivery.stop()
        timeout = processor.manifest.device.stop_timeout_ms
        self._deadline = processor.loop.now + timeout
        self._last_words_ms = min(timeout // 4, LAST_WORDS_MS)
        self.look()

    def look(self) -> None:
        """Close everything if all have come to their end, or the time is up; else look again soon.

        Where nothing has begun, this is the whole stop.
        """
        processor = self._processor
        busy = [f for f in processor.all_functions() if not f.runner.drain() or self._unsafe(f)]
        left = self._deadline - processor.loop.now
        speaking = (not busy or left < self._last_words_ms) and not self._last_words(busy, max(left, 0))
        sending = self._sending()
        if (busy or speaking or sending) and left > 0:
            processor.loop.call_later(LOOK_MS, self.look)
            return
        for farewell in processor.assembly.farewells.values():
            farewell.expire()
        lost = [f for f in busy if self._unsafe(f) or not any(t.spec.durable for t in f.triggers)]
        if lost:
            processor.exit_code = UNDRAINED
            processor.logger.warn_with(
                "stopped with events undrained", "functions", ", ".join(sorted({f.name for f in lost}))
            )
        processor.close()
        self.over = True
        processor.loop.stop()

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
        unsent = [source for source in processor.sources.values() if not getattr(source, "sent", _yes)()]
        unanswered = processor.admin is not None and not processor.admin.answered()
        storing = processor.delivery is not None and processor.delivery.busy()
        return bool(unsent) or unanswered or storing


def _yes() -> bool:
    return True
