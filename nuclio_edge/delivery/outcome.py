"""What came of a durable event and is not yet with others: the messages that its handler and outputs sent.

While they are not with the broker the event is not over: a moment after it was concluded they are stored, in one group
of records, the last of which settles the event. A power cut before that runs the event again, one after that sends the
messages again.
"""

from __future__ import annotations

from .ledger import FAILED, HANDLED

MANY = 16_384  # bytes of messages of one event that wait in memory for its end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.response import Response

    from .outbox import Entry
    from .trigger import Durable


class Outcome:
    """Of one event, from its first message to the moment in which nothing of it needs memory. Loop thread only.

    `left`: messages that are not yet with the broker. `number`: how many there were in this attempt, by which each has
    a key of its own that is the same when the attempt is repeated.
    """

    __slots__ = (
        "_concluded", "_error", "_response", "_slot", "_storing", "attempt", "entries", "event", "left", "number",
        "side", "unsent",
    )  # fmt: skip

    def __init__(self, side: Durable, event: Event) -> None:
        self.side = side
        self.event = event
        self.attempt = event._attempt
        self.number = 0
        self.entries: list[Entry] = []
        self.left = 0
        self.unsent = 0  # bytes of messages that the client has no room for
        self._concluded = False
        self._slot = 0
        self._storing = False  # the record that settles the event is on its way
        self._response: Response | None = None
        self._error: BaseException | None = None

    def next_key(self) -> str:
        """The idempotency key of the next message."""
        if self.event._attempt != self.attempt:
            self.attempt = self.event._attempt
            self.number = 0
        self.number += 1
        return f"{self.event.id}/{self.number}"

    def add(self, entry: Entry) -> None:
        """Another message, sent or kept."""
        self.entries.append(entry)
        self.left += 1

    def over(self) -> None:
        """One of the messages is with the broker, or was given up and counted."""
        self.left -= 1
        if not self.left and self._concluded and not self._storing:
            self.side.stage.remove(self)
            self._end()  # nothing has to be stored any more

    def conclude(self, response: Response | None, error: BaseException | None) -> bool:
        """The event has come to its end; whether this one sees to the rest."""
        side = self.side
        del side.delivery.outcomes[self.event]
        if not self.left:
            return False
        self._concluded = True
        self._response = response
        self._error = error
        side.leave(self.event)
        side.stage.add(self, self)
        self._slot = HANDLED if response is None or response.status_code < 400 else FAILED
        side.delivery.ledger.hold(side.backlog.key, self._slot)
        return True

    def store(self, _item: Any = None) -> None:
        """Store the messages that are left, a record each; the last one settles the event. By the stage."""
        left = self._unstored()
        if not left:
            return  # all of them are on their way to the disk
        number = self.side.ids.pop(self.event, 0)
        if number:
            self.side.backlog.let_go(number)
        self._storing = True
        for entry in left[:-1]:
            entry.keeper.store(entry)
        tallies = self.side.delivery.ledger.release(self.side.backlog.key, self._slot)

        def stored(error: OSError | None) -> None:
            if error is not None:
                self.side.delivery.spool.settle(number)  # it is pending again, and over all the same
            self._stored()

        left[-1].keeper.store(left[-1], (number,) if number else (), stored, tallies=tallies)

    def store_early(self) -> None:
        """Store what the client has no room for before the event is over: a handler may send a great deal."""
        self.unsent = 0
        for entry in self._unstored():
            if not entry.sent:
                entry.keeper.store(entry, early=True)

    def _unstored(self) -> list[Entry]:
        return [entry for entry in self.entries if not entry.over and entry.record is None]

    def apart(self) -> None:
        """The event is settled by another record: each message goes its own way."""
        for entry in self.entries:
            if not entry.over:
                entry.outcome = None
                entry.keeper.stage.add(entry, entry.keeper)

    def _stored(self) -> None:
        """The record is durable; or there is no disk, and what can be done without has been done."""
        self.side.tell(self.event, self._response, self._error)

    def _end(self) -> None:
        self.side.delivery.ledger.release(self.side.backlog.key, self._slot)
        number = self.side.ids.pop(self.event, 0)
        if number:
            self.side.backlog.settle(number)
        self.side.tell(self.event, self._response, self._error)
