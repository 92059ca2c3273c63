"""The outbox of one MQTT source on disk: messages of QoS 1 and 2 that are not with the broker yet.

A message is given to the client at once, while there is a client with room for it. Is it not acknowledged within the
stage's moment, it is stored; what finds no room is on disk alone, and what comes behind it joins it there, until the
client has room again: order is kept over outages and restarts. Law: a message is with the broker, waits here, or is
counted in the publisher's `shed` with a reason. Twice it is sent after a crash at most.
"""

from __future__ import annotations

from collections import deque
from struct import Struct

from .backlog import OUTBOX, Backlog
from .core.mqtt_codec import ProtocolError
from .core.mqtt_properties import MESSAGE_EXPIRY, USER_PROPERTY, pack_properties, unpack_properties
from .outcome import MANY, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from .core.event import Event
    from .delivery import Delivery

    Message = tuple[str, bytes, int, bool, tuple[tuple[int, Any], ...]]

KEY = "idempotency-key"  # the user property by which a receiver knows a message that comes again
READ = 65_536
FEW = 50  # messages in the client at which more are read from the disk
_VERSION = 1
# Version, flags (qos, retain << 2), when it expires (ms since 1970, 0: never), bytes of topic and of properties.
_HEAD = Struct("<BBqHI")


class Entry:
    """One message on its way. `sent`: the client has it; `over`: the broker has it, or it was given up."""

    __slots__ = ("_message", "expires", "keeper", "outcome", "over", "record", "sent")

    def __init__(self, keeper: Keeper, message: Message, expires: int) -> None:
        self.keeper = keeper
        self._message: Message | None = message
        self.expires = expires
        self.outcome: Outcome | None = None
        self.record: int | None = None  # on disk
        self.sent = False
        self.over = False

    @property
    def message(self) -> Message:
        """Topic, body, QoS, retain, properties; until it is stored."""
        assert self._message is not None  # noqa: S101 - it is not stored yet
        return self._message

    def forget(self) -> None:
        """The disk has the message, or the client."""
        self._message = None

    def end(self) -> None:
        """The broker has it, or it was given up and counted."""
        if self.over:
            return
        self.over = True
        self.forget()
        backlog = self.keeper.backlog
        if self.record is not None:
            if self.record in backlog.held:
                backlog.settle(self.record)
        elif self.outcome is None:
            self.keeper.stage.remove(self)
        if self.outcome is not None:
            self.outcome.over()


class Keeper:
    """The outbox of one publisher. Loop thread only."""

    def __init__(self, delivery: Delivery, publisher: Any, backlog: Backlog, stage: Any) -> None:
        self.delivery = delivery
        self.publisher = publisher
        self.backlog = backlog
        self.stage = stage
        self._storing: deque[tuple[int, Entry, Callable[[Any], Any] | None, bool]] = deque()
        self._reading = False
        self._unsent = 0  # messages that are to be on disk alone, and are not stored yet

    def send(self, message: Message, event: Event | None) -> None:
        """Take a message, of a durable event or of somebody else."""
        topic, body, qos, retain, pairs = message
        outcome = self._outcome(event)
        if outcome is not None:
            pairs = (*pairs, (USER_PROPERTY, (KEY, outcome.next_key())))
            message = (topic, body, qos, retain, pairs)
        entry = Entry(self, message, self._expiry(pairs))
        if outcome is not None:
            entry.outcome = outcome
            outcome.add(entry)
        else:
            self.stage.fresh[entry] = self
            self.stage.arm()
        if not self.backlog.alone and not self._unsent and self.publisher.outbox.takes(len(body)):
            self._give(entry, message)
        elif self.delivery.spool.trouble:
            self.publisher.drop("outbox-full")
            entry.end()
        else:
            self._unsent += 1  # what comes next joins it on the disk
            if outcome is not None:
                outcome.unsent += len(body)
                if outcome.unsent > MANY:
                    outcome.store_early()

    def store(
        self,
        entry: Entry,
        settles: Iterable[int] = (),
        then: Callable[[Any], Any] | None = None,
        *,
        early: bool = False,
    ) -> None:
        """Store a message, with what its record settles; `then(error)` when that is durable or has failed.

        One that is `early` is no affair of its event any more when it is durable.
        """
        payload = pack(entry.message, entry.expires)
        number = self.delivery.spool.append(OUTBOX, self.backlog.key, payload, self._done, settles=settles)
        self.backlog.held.add(number)
        entry.record = number
        self._storing.append((number, entry, then, early))

    def refill(self) -> None:
        """Give the client what is on disk alone, oldest first, as far as it has room."""
        self._reading = False
        outbox = self.publisher.outbox
        if self.publisher.link is None or not self.backlog.alone or len(outbox.room.sizes) > FEW:
            return
        for record in self.backlog.next(READ):
            try:
                message, expires = unpack(record.payload)
            except ValueError:
                self.delivery.damaged(record)
                self.backlog.take(record.id)
                self.backlog.settle(record.id)
                continue
            if not outbox.takes(len(message[1])):
                return
            self.backlog.take(record.id)
            entry = Entry(self, message, expires)
            entry.record = record.id
            left = self._time_left(message, expires)
            if left is None:
                self.publisher.drop("expired")
                entry.end()
            else:
                self._give(entry, left)
            if len(outbox.room.sizes) > FEW:
                return
        self.look()

    def look(self) -> None:
        """The client has room, perhaps: soon read what is on disk alone."""
        if self.backlog.alone and not self._reading:
            self._reading = True
            self.delivery.loop.call_soon(self.refill)

    def take_over(self, entry: Entry, message: Any) -> None:
        """A message of the source that this one's has taken the place of; it may arrive twice."""
        entry.keeper.stage.remove(entry)
        entry.keeper = self
        if entry.record is None and entry.outcome is None:
            self.stage.fresh[entry] = self
            self.stage.arm()
        self._give(entry, (*message,))

    def kept(self) -> int:
        """How many of the client's messages are on disk, too."""
        return sum(entry.record is not None for entry in self.publisher.outbox.entries.values())

    def unsafe(self) -> int:
        """How many messages would be lost if the process ended now."""
        return len(self._storing) + len(self.stage)

    def _give(self, entry: Entry, message: Message) -> None:
        entry.sent = True
        self.publisher.outbox.send(*message, entry)

    def _done(self, error: OSError | None) -> None:
        number, entry, then, early = self._storing.popleft()
        if not entry.sent:
            self._unsent -= 1
        if error is None:
            entry.forget()
            outcome = entry.outcome
            if early and outcome is not None:
                entry.outcome = None
                outcome.entries.remove(entry)
                outcome.over()
            if not entry.sent:
                self.backlog.put_back(number)
                self.look()
        else:
            self.backlog.held.discard(number)
            entry.record = None
            if not entry.sent:
                self.publisher.drop("outbox-full")
                entry.end()
            elif not entry.over:
                entry.outcome = None  # that of its event is over, as without a disk
                self.stage.refuse(entry, self)
        if then is not None:
            then(error)

    def _outcome(self, event: Event | None) -> Outcome | None:
        """Where the messages of a durable event that is in work are gathered."""
        if event is None or event._trigger is None:
            return None
        side: Any = getattr(event._trigger.source, "durable_side", None)
        if side is None or not (event in side.ids or event in side.stage):
            return None
        outcomes = self.delivery.outcomes
        found = outcomes.get(event)
        if found is None:
            found = outcomes[event] = Outcome(side, event)
        return found

    def _expiry(self, pairs: tuple[tuple[int, Any], ...]) -> int:
        for number, value in pairs:
            if number == MESSAGE_EXPIRY:
                return int(self.delivery.loop.wall + value * 1000)
        return 0

    def _time_left(self, message: Message, expires: int) -> Message | None:
        if not expires:
            return message
        left = expires - self.delivery.loop.wall
        if left <= 0:
            return None
        pairs = tuple((n, -(-left // 1000) if n == MESSAGE_EXPIRY else value) for n, value in message[4])
        return (*message[:4], pairs)


def pack(message: Message, expires: int) -> bytes:
    """A message and when it expires, as a record's payload."""
    topic, body, qos, retain, pairs = message
    name, props = topic.encode(), pack_properties(pairs)
    head = _HEAD.pack(_VERSION, qos | retain << 2, expires, len(name), len(props))
    return b"".join((head, name, props, body))


def unpack(payload: bytes) -> tuple[Message, int]:
    """What `pack` packed; ValueError when it is something else."""
    if len(payload) < _HEAD.size:
        raise ValueError("not a message: cut off")
    version, flags, expires, name, props = _HEAD.unpack_from(payload)
    at = _HEAD.size + name
    if version != _VERSION or flags & 3 == 3 or flags >> 3 or at + props > len(payload):
        raise ValueError("not a message of this version")
    try:
        pairs = tuple(unpack_properties(payload[at : at + props]))
    except ProtocolError as error:
        raise ValueError(f"not a message: {error}") from None
    return (payload[_HEAD.size : at].decode(), payload[at + props :], flags & 3, bool(flags & 4), pairs), expires
