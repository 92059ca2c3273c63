"""A trigger of a function and its bounded queue: admit, shed by policy or push back, and count every one of them.

Law (the ledger at the trigger): admitted = handled + failed + dead_lettered + the sum of shed + pending, whenever the
loop is between two calls. Only the loop's thread calls anything here; workers take events off the queue
by an atomic `popleft` and nothing else.
"""

from . import port
from .event import TriggerInfo
from .port import const
from .response import Response

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .event import Event
    from .loop import Loop

# A queued small event costs about this much beside its body: itself 200, the headers of two bytes objects, a topic of
# some 50 characters (measured on CPython 3.10 to 3.13).
EVENT_COST = const(320)


class Budget:
    """The memory that all inboxes together may hold: `limit` bytes, of which each has `floor` for itself."""

    __slots__ = ("floor", "limit", "used")

    def __init__(self, limit: int, floor: int) -> None:
        self.limit = limit
        self.floor = floor
        self.used = 0


class Trigger:
    """One trigger of one function at run time.

    `submit(event)` is set by the function's runner: True means taken (the event will be settled exactly once, or was
    already), False that there is no room now: the source keeps the event, stops reading, and submits it again when the
    callback given to `on_room` comes. `function` needs name, outputs, may_retry() and on_failure(event, error,
    status, result), which raises nothing.
    """

    __slots__ = port.slots(
        "_grace _waiting address admitted attempts backoff_ms box buckets budget busy content_type dead_lettered"
        " duplicates failed function handled held info kind late ledger_id loop max_backoff_ms name pending"
        " retried shed size source spec submit when_full"
    )

    def __init__(
        self,
        function: "Any",
        source: "Any",
        loop: "Loop",
        ledger_id: str = "",
        name: str = "",
        size: int = 1024,
        when_full: str = "block",
        attempts: int = 1,
        backoff_ms: int = 1000,
        max_backoff_ms: int = 60_000,
        spec: "Any" = None,
        budget: "Budget | None" = None,
    ) -> None:
        self.function = function
        self.source = source
        self.loop = loop
        self.ledger_id = ledger_id
        self.kind: str = source.kind
        self.name: str = name or source.name
        self.content_type: str = getattr(spec, "content_type", None) or getattr(source, "content_type", None) or ""
        self.info = TriggerInfo(self.kind, self.name)
        self.spec = spec
        self.address = getattr(spec, "address", None)
        self.size = size
        self.when_full = when_full
        self.attempts = attempts
        self.backoff_ms = backoff_ms
        self.max_backoff_ms = max_backoff_ms
        self.budget = budget
        self.box: "Any" = None  # the queue; its runner makes one where it queues
        self.submit: "Callable[[Event], bool]" = self._closed
        self.admitted = 0
        self.handled = 0
        self.failed = 0
        self.dead_lettered = 0
        self.shed: "dict[str, int]" = {}
        self.pending = 0
        self.retried = 0
        self.duplicates = 0
        self.late = 0  # inline calls that took longer than the function's timeout
        self.held = 0  # bytes
        self.busy = 0  # clock ticks in the handler; see port.clock
        self.buckets: "list[int]" = []  # calls by the number of bits of their ticks; 64 of them after the first call
        self._grace = -1  # until when a full inbox makes its source wait, 0 before; less: not full, see overflow.py
        self._waiting: "tuple[Callable[[], Any], ...]" = ()

    def enter(self, event: "Event") -> int:
        """Admit an event to the queue's count: 1 go on and queue it, 0 no room (refused), -1 taken and shed."""
        budget = self.budget
        if self.pending >= self.size or (
            budget is not None and budget.used + len(event.raw_body) > budget.limit and self.held > budget.floor
        ):
            verdict = self._full(event)
            if verdict != 1:
                return verdict
        self.admitted += 1
        self.charge(event)
        return 1

    def charge(self, event: "Event") -> None:
        """Take an event into the count of pending ones, with the memory that it holds."""
        self.pending += 1
        budget = self.budget
        if budget is not None:
            cost = len(event.raw_body) + EVENT_COST
            self.held += cost
            budget.used += cost

    def leave(self, count: int, size: int, event: "Event | None") -> None:
        """Take settled events, `size` bytes in all, out of the count; a waiting source is told of room at the half.

        `event` is the one that it is, None for several; triggers of another class (workers/shaped.py) want to know.
        """
        self.pending -= count
        budget = self.budget
        if budget is not None:
            # With nothing pending all of it: a handler may have changed a body, and no memory stays taken for ever.
            cost = size + count * EVENT_COST if self.pending else self.held
            self.held -= cost
            budget.used -= cost
        if self._grace >= 0 and self.pending <= self.size >> 1:
            from .overflow import relieve

            relieve(self)

    def turn_away(self, event: "Event", reason: str, status: int = 503) -> None:
        """Settle an event that was not counted as pending without running it: counted under `reason`."""
        self.admitted += 1
        self._shed(event, reason, status)

    def drop(self, event: "Event", reason: str, status: int = 503) -> None:
        """Settle a pending event without running it (again): counted under `reason`."""
        self.leave(1, len(event.raw_body), event)
        self._shed(event, reason, status)

    def on_room(self, call: "Callable[[], Any]") -> None:
        """Call once when a refused event may be submitted again."""
        from .overflow import wait

        self._waiting += (call,)
        wait(self)

    def _full(self, event: "Event") -> int:
        from .overflow import make_room

        return make_room(self, event)

    def _shed(self, event: "Event", reason: str, status: int) -> None:
        self.shed[reason] = self.shed.get(reason, 0) + 1
        if event._token is not None:
            self.source.settle(event, Response(status_code=status, body=b"shed: " + reason.encode()), None)

    def _room(self) -> None:
        waiting, self._waiting = self._waiting, ()
        for call in waiting:
            self.loop.call_soon(call)

    def _closed(self, event: "Event") -> bool:
        self.turn_away(event, "closed")
        return True
