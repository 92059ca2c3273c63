"""From the kernel's records to events: the way of an edge, what is counted on it, and what finds no room."""

from __future__ import annotations

import os
import time

from nuclio_edge.core import port
from nuclio_edge.sources.gpio_count import Counter
from nuclio_edge.sources.gpio_event import GpioEvent
from nuclio_edge.sources.gpio_kernel import EVENT
from nuclio_edge.sources.gpio_press import CLICK_GAP_MS, HOLD_AFTER_MS, Presses

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.sources.gpio_request import Line, Request

BUDGET = 256 * EVENT.size  # a read: about a millisecond's work, then the other sources have their turn
GONE = 0x18  # POLLERR, POLLHUP
DROPPED = "dropped by the kernel"
SAY_AGAIN_MS = 60_000  # of edges that are dropped all the time, once a minute
_unpack = EVENT.iter_unpack
_LEVEL = {1: b"1", 2: b"0"}
_WORD = {1: "rising", 2: "falling"}


class Intake:
    """The books of a source, and the hot path. Law: received = routed + unrouted + sum(rejected).

    `received` are the edges of the kernel, by its own numbers: also those that it dropped, which are `rejected`.
    """

    def __init__(self, loop: Any, log: Any, lost: Callable[[Request, str], Any], *, realtime: bool) -> None:
        self.loop = loop
        self.log = log
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.receiving = True
        self._lost = lost
        self._realtime = realtime
        self._quiet_until = 0
        self._unsaid = 0

    # -- routes -------------------------------------------------------------------------------------------------------

    def route(self, line: Line, triggers: Iterable[Trigger]) -> None:
        """Send a line's edges to these triggers: each edge once a function; counters and buttons keep their state."""
        before = {derived.trigger.ledger_id: derived for derived in line.derived}
        rising: list[Trigger] = []
        falling: list[Trigger] = []
        derived: list[Any] = []
        told: set[tuple[Any, str]] = set()
        for trigger in triggers:
            address: Any = trigger.address
            if address.count is None and address.press is None:
                for edge, wanted in (("rising", rising), ("falling", falling)):
                    if address.edge in (None, "both", edge) and all(t.function is not trigger.function for t in wanted):
                        wanted.append(trigger)
                continue
            old = before.get(trigger.ledger_id)
            if old is not None and old.trigger.address == address:
                old.trigger = trigger
                derived.append(before.pop(trigger.ledger_id))
            elif address.count is not None:
                derived.append(Counting(self, line, trigger))
            else:
                words = {word for word in address.press if (trigger.function, word) not in told}
                told.update((trigger.function, word) for word in words)
                derived.append(Button(self, line, trigger, words))
        for gone in before.values():
            gone.stop()
        line.rising, line.falling, line.derived = tuple(rising), tuple(falling), tuple(derived)
        line.exact = any(isinstance(one, Counting) and one.edge == (line.about.get("edge")) for one in derived)

    def reroute(self, requests: Iterable[Request], triggers: Iterable[Trigger]) -> None:
        """Give what waits for room to the new versions of its functions."""
        here = {trigger.ledger_id: trigger for trigger in triggers}
        for request in requests:
            for _ in range(len(request.kept)):
                event = request.kept.popleft()
                old: Any = event._trigger
                if old.ledger_id in here:
                    event._trigger = here[old.ledger_id]
                    request.kept.append(event)
                else:
                    old.turn_away(event, "closed")
            if request.kept or request.rest:
                self.loop.call_soon(lambda request=request: self._room(request))

    # -- reading ------------------------------------------------------------------------------------------------------

    def listen(self, request: Request) -> None:
        """Be called when there is something to read, or when the chip goes."""
        if not request.listening and request.handle is not None and self.receiving:
            request.listening = True
            self.loop.add(request.handle.fd, lambda mask: self._ready(request, mask), read=request.reads)

    def deaf(self, request: Request) -> None:
        """Leave what comes to the kernel."""
        if request.listening:
            request.listening = False
            self.loop.remove(request.handle.fd)

    def _ready(self, request: Request, mask: int) -> None:
        try:
            data = os.read(request.handle.fd, BUDGET)
        except BlockingIOError:
            if mask & GONE:
                self._lost(request, "its chip is gone")
            return
        except OSError as error:
            self._lost(request, f"its chip is gone ({error.strerror})")
            return
        if data:
            self._take(request, data)
        else:
            self._lost(request, "its chip is gone")

    def _take(self, request: Request, data: bytes) -> None:
        """Make events of records, in the kernel's order, up to the first for which there is no room."""
        loop = self.loop
        wall_less = 0 if self._realtime else port.now_ms() * 1_000_000 - time.monotonic_ns()
        by_offset = request.by_offset
        expected = request.seqno
        kept = request.kept
        at = 0
        for stamp, edge, offset, seqno, line_seqno in _unpack(data):
            at += 48
            expected = (expected + 1) & 0xFFFFFFFF
            if seqno != expected:
                self._dropped(request, (seqno - expected) & 0xFFFFFFFF)
                expected = seqno
            line = by_offset[offset]
            self.received += 1
            triggers = line.rising if edge == 1 else line.falling
            if triggers:
                word, body = _WORD[edge], _LEVEL[edge]
                numbers = (stamp, seqno, line_seqno)
                wall = (stamp + wall_less) // 1_000_000
                for trigger in triggers:
                    event = GpioEvent(trigger, line.names, word, body, wall, numbers)
                    if not trigger.submit(event):
                        kept.append(event)
            if line.derived:
                missed = (line_seqno - line.seen - 1) & 0xFFFFFFFF
                if missed and line.exact:
                    self.rejected[DROPPED] -= missed  # not lost: the counter has them
                    self.routed += missed
                for derived in line.derived:
                    derived.edge_came(edge, stamp, missed)
                self.routed += 1
            elif triggers:
                self.routed += 1
            else:
                self.unrouted += 1
            line.seen = line_seqno
            if kept:
                break
        request.seqno = expected
        if at > 48:
            loop.poller.several[request.handle.fd] = 1
        if kept:
            request.rest = data[at:]
            self._wait(request)
        else:
            request.rest = b""

    def _dropped(self, request: Request, count: int) -> None:
        self.received += count
        self.rejected[DROPPED] = self.rejected.get(DROPPED, 0) + count
        self._unsaid += count
        now = self.loop.now
        if now >= self._quiet_until:
            self._quiet_until = now + SAY_AGAIN_MS
            names = ", ".join(line.name for line in request.lines)
            self.log.warn_with(
                "the kernel dropped edges that were not read in time", "lines", names, "edges", self._unsaid,
                "hint", 'count = "1s" counts fast edges without loss',
            )  # fmt: skip
            self._unsaid = 0

    # -- room ---------------------------------------------------------------------------------------------------------

    def offer(self, line: Line, event: GpioEvent) -> None:
        """Hand in an event that is no edge itself, after those that wait for room."""
        kept = line.request.kept
        trigger: Any = event._trigger
        if kept or not trigger.submit(event):
            kept.append(event)
            if len(kept) == 1:
                self._wait(line.request)

    def _wait(self, request: Request) -> None:
        self.deaf(request)
        trigger: Any = request.kept[0]._trigger
        trigger.on_room(lambda: self._room(request))

    def _room(self, request: Request) -> None:
        if not self.receiving:
            return
        kept = request.kept
        while kept:
            trigger: Any = kept[0]._trigger
            if not trigger.submit(kept[0]):
                self._wait(request)
                return
            kept.popleft()
        if request.rest:
            self._take(request, request.rest)
        if not kept:
            self.listen(request)

    def stop(self, requests: Iterable[Request]) -> None:
        """Take nothing more in; what waits for room is turned away, and counted."""
        self.receiving = False
        for request in requests:
            if request.listening and request.reads:
                self._last(request)
            self.deaf(request)
            for line in request.lines:
                for derived in line.derived:
                    derived.stop()
            self.discard(request)

    def _last(self, request: Request) -> None:
        """Count what the kernel still holds of a request that nobody will read."""
        waiting = 0
        try:
            while data := os.read(request.handle.fd, BUDGET):
                waiting += len(data) // EVENT.size
                last = EVENT.unpack_from(data, len(data) - EVENT.size)[3]
        except OSError:
            pass  # nothing more
        if waiting:
            dropped = (last - request.seqno - waiting) & 0xFFFFFFFF
            if dropped:
                self._dropped(request, dropped)
            request.seqno = last
            self.received += waiting
            self.rejected["closed"] = self.rejected.get("closed", 0) + waiting

    def discard(self, request: Request) -> None:
        """Turn away what waits for room."""
        while request.kept:
            event = request.kept.popleft()
            trigger: Any = event._trigger
            trigger.turn_away(event, "closed")
        self._reject_rest(request, "closed")

    def lost(self, request: Request) -> None:
        """The chip is gone: its numbers begin anew, and what a button did meanwhile nobody knows."""
        self.deaf(request)
        self._reject_rest(request, "chip gone")
        for line in request.lines:
            for derived in line.derived:
                derived.lost()

    def _reject_rest(self, request: Request, reason: str) -> None:
        count = len(request.rest) // EVENT.size
        request.rest = b""
        if count:
            self.received += count
            self.rejected[reason] = self.rejected.get(reason, 0) + count


class Counting:
    """The counter of one trigger."""

    def __init__(self, intake: Intake, line: Line, trigger: Trigger) -> None:
        address: Any = trigger.address
        self.trigger = trigger
        self.edge: str = address.edge or "rising"
        self._intake = intake
        self._line = line
        self._counter = Counter(address.count, self._tell, intake.loop.call_later)
        self.stop = self._counter.stop

    def edge_came(self, edge: int, stamp: int, missed: int) -> None:
        """An edge of the line, and so many before it that were dropped."""
        if self.edge in ("both", _WORD[edge]):
            self._counter.add(1 + missed if self._line.exact else 1)

    def lost(self) -> None:
        """What was counted stays."""

    def _tell(self, count: int, total: int) -> None:
        event = GpioEvent(self.trigger, self._line.names, "count", b"%d" % count, port.now_ms(), (0, 0, 0))
        event.interval_ms = self._counter.interval_ms
        event.total = total
        self._intake.offer(self._line, event)


class Button:
    """The button of one trigger."""

    def __init__(self, intake: Intake, line: Line, trigger: Trigger, words: set[str]) -> None:
        address: Any = trigger.address
        self.trigger = trigger
        self._intake = intake
        self._line = line
        # A button on a pull-up connects to ground: pressed is low, unless active_low has turned that already.
        self._down = 2 if line.about.get("bias") == "pull-up" and not line.about.get("active_low") else 1
        self._presses = Presses(
            words, address.hold_after or HOLD_AFTER_MS, address.click_gap or CLICK_GAP_MS, self._tell,
            intake.loop.call_later,
        )  # fmt: skip
        self.stop = self._presses.stop
        self.lost = self._presses.forget

    def edge_came(self, edge: int, stamp: int, missed: int) -> None:
        """An edge of the line."""
        self._presses.edge(edge == self._down, stamp)

    def _tell(self, word: str) -> None:
        body = b'"' + word.encode() + b'"'
        event = GpioEvent(self.trigger, self._line.names, word, body, port.now_ms(), (0, 0, 0))
        self._intake.offer(self._line, event)
