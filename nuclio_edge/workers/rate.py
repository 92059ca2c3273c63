"""`rate_limit`: a token bucket before a trigger's inbox, with room for one second.

An event for which there is no token finds a full inbox, whatever its runner: `block` makes the source wait for the
next token, `drop-oldest` and `thin` give it the place of events that still wait (their tokens come back, as nobody
will handle them), and where none waits, or by the other policies, it is turned away. All of it is counted under
"rate-limit". Time is the loop's, which is monotonic: setting the clock changes nothing.
"""

from __future__ import annotations

from nuclio_edge.core.overflow import GRACE_MS, tell, thin
from nuclio_edge.core.response import Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.event import Event

    from .shaped import ShapedTrigger


class Rate:
    """The bucket of one trigger, and what its `submit` is instead of its runner's; loop thread only."""

    reason = "rate-limit"

    def __init__(self, trigger: ShapedTrigger, per_second: float) -> None:
        self.wrapped = trigger.submit
        self.refused = False  # whether it was for want of a token that the last event was not taken
        self._trigger = trigger
        self._per_ms = per_second / 1000
        self._burst = max(per_second, 1.0)
        self._tokens = self._burst
        self._at = trigger.loop.now
        self._timer: Any = None

    def submit(self, event: Event) -> bool:
        """Take an event if there is a token, else do with it what a full inbox asks for; see Trigger."""
        if self._short():
            return self._excess(event)
        self.refused = False
        if not self.wrapped(event):
            return False
        self._tokens -= 1
        return True

    def wait(self) -> None:
        """Tell who waits when there is a token again."""
        if self._timer is None:
            # Not for each of many tokens: a wake-up for all that come within a few milliseconds.
            self._timer = self._trigger.loop.call_later(max(self._due_ms(), GRACE_MS), self._room)

    def answer(self, status: int) -> Response:
        """What a requester is told, with when to come again in whole seconds."""
        headers = {"Retry-After": str(max(-(-(self._due_ms() - 1) // 1000), 1))}
        return Response(headers, b"shed: " + self.reason.encode(), status_code=status)

    def _short(self) -> bool:
        now = self._trigger.loop.now
        if now > self._at:
            self._tokens = min(self._tokens + (now - self._at) * self._per_ms, self._burst)
            self._at = now
        return self._tokens < 1

    def _due_ms(self) -> int:
        # No clock jump makes it longer than the pause between two tokens, and the last one is a matter of rounding.
        return int((1 - min(self._tokens, 0.999)) / self._per_ms) + 1

    def _excess(self, event: Event) -> bool:
        trigger = self._trigger
        policy = trigger.when_full
        if policy == "block":
            self.refused = True
            return False
        gone = []
        if policy in ("drop-oldest", "thin") and trigger.box is not None:
            gone = thin(trigger.box) if policy == "thin" else []
            if not gone:
                try:
                    gone = [trigger.box.popleft()]
                except IndexError:
                    pass  # all that is pending is being worked on
        for old in gone:
            trigger.drop(old, self.reason)
        if not gone:
            trigger.turn_away(event, self.reason)
        tell(trigger, self.reason)
        if not gone:
            return True
        self._tokens = min(self._tokens + len(gone), self._burst)
        return self.submit(event)

    def _room(self) -> None:
        self._timer = None
        self._trigger._room()


def limit(trigger: ShapedTrigger, per_second: float) -> None:
    """Hold what a trigger takes to so many events a second, after its runner has been attached to it."""
    trigger.rate = Rate(trigger, per_second)
    trigger.submit = trigger.rate.submit
