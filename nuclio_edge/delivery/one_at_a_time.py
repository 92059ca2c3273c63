"""After a crash: which event killed the process is found out by running one at a time, with a mark on disk.

An event that was in work when the last process died is either on disk, or its broker sends it again, marked as a
duplicate. Both are stored first, then run alone: nothing else of that function runs, and a mark that says so is durable
before it begins. Dies the process again, the mark names the culprit; after its attempts it becomes a dead letter. When
all have run, and brokers have had their time, it is over for the life of the process.
"""

from __future__ import annotations

from .backlog import EVENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.functions.function import Function

    from .delivery import Delivery
    from .trigger import Durable

# So many events of a function run alone after a crash. More may have been in work, but each start ends this many for
# good: a culprit behind them is reached in the end.
MANY = 64
WARY_MS = 60_000  # how long a broker may take to send again what was not acknowledged
LOOK_MS = 20


class OneAtATime:
    """Those of one function. Loop thread only.

    `before` are those of the version before: what runs alone there comes to its end first.
    """

    def __init__(self, delivery: Delivery, function: Function, before: OneAtATime | None = None) -> None:
        self.delivery = delivery
        self.function = function
        self.left: dict[Durable, int] = {}  # how many events of each trigger are still to run alone
        # event's record -> how often the process died while it ran alone
        self.deaths: dict[int, int] = {} if before is None else before.deaths
        self._before = before
        self._more = 0  # sent again by brokers, and taken for suspects
        self._running: tuple[Durable, Any, int] | None = None  # trigger, event, mark
        self._marking = False
        self._gates: list[tuple[Any, Any]] = []
        self._timer: Any = None

    def begin(self, side: Durable) -> None:
        """A trigger of the function is in its place."""
        spool = self.delivery.spool
        most = max(1, side.trigger.attempts - 1)  # the first attempt was the one in company
        for mark, number, attempt in self.delivery.marks(side.backlog.key):
            record = spool.read(number)
            spool.settle(mark)
            if record is None:
                continue
            if attempt >= most:
                self._give_up(side, record, attempt)
            else:
                self.deaths[number] = attempt
        self.left[side] = min(side.backlog.alone, MANY)
        side.because("wary")
        self.delivery.loop.call_later(WARY_MS, lambda: self._trust(side))
        if self.left[side] or self._is_second():
            side.because("backlog")
            self._gate()
            self.look()

    def wants(self, side: Durable, event: Event) -> bool:
        """Whether an event that comes now is to be stored before it runs."""
        if self._more < MANY and side in self.left and getattr(event, "duplicate", False):
            self._more += 1
            self.left[side] += 1
            self._gate()
            self.look()
        return self._active()

    def alone(self, side: Durable) -> bool:
        """Whether events are run one at a time."""
        if self._active():
            self.look()
            return True
        return False

    def over(self, side: Durable, event: Event) -> None:
        """An event of the function is concluded."""
        running = self._running
        if running is not None and running[1] is event:
            self._running = None
            self._ended(side, running[2])

    def _ended(self, side: Durable, mark: int) -> None:
        """One has run alone; the next one waits until the disk knows: else that one's death would be laid to it."""

        def durable(_error: Any) -> None:
            self._marking = False
            self.delivery.spool.settle(end)
            self.left[side] -= 1
            self.look()

        self._marking = True
        self.delivery.spool.settle(mark)
        end = self.delivery.mark(side.backlog.key, 0, 0, durable)

    def look(self) -> None:
        """Soon let the next one run, if it is time."""
        if self._timer is None:
            self._timer = self.delivery.loop.call_later(0, self._next)

    def close(self) -> None:
        """Nothing more runs."""
        if self._timer is not None:
            self._timer.cancel()

    def _active(self) -> bool:
        return self._running is not None or self._marking or any(self.left.values()) or self._is_second()

    def _runs(self) -> bool:
        """Whether an event runs alone, or is about to, here or in a version before."""
        running = self._running
        return self._marking or (running is not None and running[1] in running[0].ids) or self._is_second()

    def _is_second(self) -> bool:
        if self._before is not None and not self._before._runs():
            self._before = None
        return self._before is not None

    def _next(self) -> None:
        self._timer = None
        if self.delivery.stopping or self._marking:
            return
        running = self._running
        if running is not None:
            if running[1] in running[0].ids:
                return
            self._running = None  # it went back to the disk: the function is suspended
            self.delivery.spool.settle(running[2])
        function = self.function
        busy = not function.runner.drain() or any(t.pending for t in function.triggers)
        if busy or self._is_second() or function.suspended:
            self._timer = self.delivery.loop.call_later(LOOK_MS, self._next)
            return
        oldest: tuple[int, Durable, Any] | None = None
        for side, left in self.left.items():
            mine = left > 0 and self.delivery.sides.get(side.backlog.key) is side
            records = side.backlog.next(1) if mine else []
            if not records:
                self.left[side] = 0
            elif oldest is None or records[0].id < oldest[0]:
                oldest = records[0].id, side, records[0]
        if oldest is None:
            self._end()
            return
        self._run(*oldest)

    def _run(self, number: int, side: Durable, record: Any) -> None:
        attempt = self.deaths.get(number, 0) + 1
        mark = 0

        def marked() -> None:
            self._marking = False
            if self.delivery.stopping:
                self.delivery.spool.settle(mark)
                return
            here = self.delivery.sides.get(side.backlog.key) is side
            if not here or not self.delivery.spool.numbers(number - 1, number, EVENT):
                self.delivery.spool.settle(mark)  # a new version's meanwhile; or the disk has not taken it after all
                self.look()
                return
            before = set(side.ids)
            if not side.overflow.bring(record):
                self.delivery.spool.settle(mark)
                self._timer = self.delivery.loop.call_later(LOOK_MS, self._next)
                return
            event = next((one for one in side.ids if one not in before), None)
            if event is None:  # it was over at once, or could not be read
                self._ended(side, mark)
                return
            event._attempt = max(event._attempt, attempt if number in self.deaths else 0)
            self._running = side, event, mark

        self._marking = True
        # In the next turn: that the event is stored is told at the end of this one. Else its sender would send it again
        # to the process after the one that it kills, as an event that nobody has tried alone.
        loop = self.delivery.loop
        mark = self.delivery.mark(side.backlog.key, number, attempt, lambda _error: loop.call_soon(marked))

    def _give_up(self, side: Durable, record: Any, attempt: int) -> None:
        side.backlog.alone -= 1
        side.trigger.dead_lettered += 1
        times = "once" if attempt == 1 else f"{attempt} times"
        reason = f"the process died {times} while it ran alone"
        self.delivery.bury_record(side, record.id, record.payload, reason, lambda: None)

    def _gate(self) -> None:
        """While one runs alone, the function's other triggers make their sources wait."""
        if self._gates:
            return
        for trigger in self.function.triggers:
            if getattr(trigger.source, "durable_side", None) not in self.left:
                self._gates.append((trigger, trigger.submit))
                trigger.submit = lambda event: False

    def _end(self) -> None:
        for trigger, submit in self._gates:
            trigger.submit = submit
            trigger._room()
        self._gates = []
        for side in self.left:
            side.trigger.loop.call_soon(side.overflow.refill)
        self._acquit()

    def _trust(self, side: Durable) -> None:
        side.because("wary", holds=False)
        self._acquit()

    def _acquit(self) -> None:
        """Nothing is left to run alone, and no broker sends anything again: the quick ways are open to all."""
        if not self._active() and not any("wary" in side.reasons for side in self.left):
            for side in self.left:
                side.suspects = None
            self.delivery.acquit(self)
