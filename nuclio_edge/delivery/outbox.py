"""The outbox of one MQTT source on disk: messages of QoS 1 and 2 that are not with the broker yet.

A message is given to the client at once, while there is a client with room for it. Is it not acknowledged within the
stage's moment, it is stored; what finds no room is on disk alone, and what comes behind it joins it there, until the
client has room again: order is kept over outages and restarts. What cannot be stored, for want of a disk or by its
size, waits in the client alone, ahead of what is on disk. Law: a message is with the broker, waits here, or is counted
in the publisher's `shed` with a reason. Twice it is sent after a crash at most.
"""

from __future__ import annotations

from struct import Struct

from nuclio_edge import clock
from nuclio_edge.core.mqtt_codec import ProtocolError
from nuclio_edge.core.mqtt_properties import MESSAGE_EXPIRY, USER_PROPERTY, pack_properties, unpack_properties

from .backlog import OUTBOX, Backlog
from .outcome import MANY, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from nuclio_edge.clock import Stamp
    from nuclio_edge.core.event import Event
    from nuclio_edge.spool.tallies import Tally

    from .delivery import Delivery

    Message = tuple[str, bytes, int, bool, tuple[tuple[int, Any], ...]]

KEY = "idempotency-key"  # the user property by which a receiver knows a message that comes again
READ = 4096  # bytes that are read back at a time: a turn waits for no more
FEW = 50  # messages in the client at which more are read from the disk
_VERSION = 1
# Of a message: flags (qos, retain << 2, whether it expires << 3), bytes of topic, properties, body.
_HEAD = Struct("<BHII")
_BORN = Struct("<qqIB")  # of one that expires, what its time counts from: the stamp, its quality as a number


class Entry:
    """One message on its way. `sent`: the client has it; `over`: the broker has it, or it was given up."""

    __slots__ = ("_message", "born", "keeper", "outcome", "over", "record", "sent")

    def __init__(self, keeper: Keeper, message: Message, born: Stamp | None) -> None:
        self.keeper = keeper
        self._message: Message | None = message
        self.born = born  # of one that expires: since when it lives
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

    def leave(self) -> None:
        """Be no affair of its event any more, which goes on."""
        outcome, self.outcome = self.outcome, None
        if outcome is not None:
            outcome.entries.remove(self)
            outcome.over()

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
        self._storing = 0  # records that are not durable yet
        self._reading = False
        self._unsent = 0  # messages that are to be on disk alone, and are not stored yet

    def send(self, message: Message, event: Event | None) -> None:
        """Take a message, of a durable event or of somebody else."""
        topic, body, qos, retain, pairs = message
        outcome = self._outcome(event)
        if outcome is not None:
            pairs = (*pairs, (USER_PROPERTY, (KEY, outcome.next_key())))
            message = (topic, body, qos, retain, pairs)
        expires = any(number == MESSAGE_EXPIRY for number, _ in pairs)
        entry = Entry(self, message, clock.present() if expires else None)
        if outcome is not None:
            entry.outcome = outcome
            outcome.add(entry)
        else:
            self.stage.add(entry, self)
        trouble = self.delivery.spool.trouble
        if self.publisher.outbox.takes(len(body)) and (trouble or not (self.backlog.alone or self._unsent)):
            self._give(entry, message)
        elif trouble:
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
        tallies: Iterable[Tally] = (),
    ) -> None:
        """Store a message, with what its record settles and counts; `then(error)` when that is durable or has failed.

        One that is `early` is no affair of its event any more when it is durable.
        """
        payload = pack([(entry.message, entry.born)])
        spool = self.delivery.spool

        def done(error: OSError | None) -> None:
            self._done(number, entry, error, early=early)
            if then is not None:
                then(error)

        number: int = spool.append(OUTBOX, self.backlog.key, payload, done, settles=settles, tallies=tallies)
        self.backlog.held.add(number)
        entry.record = number
        self._storing += 1

    def refill(self) -> None:
        """Give the client what is on disk alone, oldest first, as far as it has room."""
        self._reading = False
        outbox = self.publisher.outbox
        if self.publisher.link is None or not self.backlog.alone or len(outbox.room.sizes) > FEW:
            return
        for record in self.backlog.next(READ):
            try:
                ((message, born),) = unpack(record.payload)  # a gap counts records: there is one message in each
            except ValueError:
                self.delivery.damaged(record)
                self.backlog.take(record.id)
                self.backlog.settle(record.id)
                continue
            if not outbox.takes(len(message[1])):
                return
            self.backlog.take(record.id)
            entry = Entry(self, message, born)
            entry.record = record.id
            left = time_left(message, born)
            if left is None:
                self.publisher.drop("expired")
                entry.end()
            else:
                self._give(entry, left)
            if len(outbox.room.sizes) > FEW:
                return
        self.look()

    def look(self) -> None:
        """The client has room, perhaps: soon read what is on disk alone; by the source that has the name now."""
        now = self.delivery.keepers.get(self.backlog.key, self)
        if self.backlog.alone and not now._reading:
            now._reading = True
            self.delivery.loop.call_soon(now.refill)

    def take_over(self, entry: Entry, message: Any) -> None:
        """A message of the source that this one's has taken the place of; it may arrive twice."""
        entry.keeper.stage.remove(entry)
        entry.keeper = self
        if entry.record is None and entry.outcome is None:
            self.stage.add(entry, self)
        self._give(entry, (*message,))

    def kept(self) -> int:
        """How many of the client's messages are on disk, too."""
        return sum(entry.record is not None for entry in self.publisher.outbox.entries.values())

    def unsafe(self) -> int:
        """How many messages are on their way to the disk, or wait for it."""
        return self._storing + len(self.stage)

    def _give(self, entry: Entry, message: Message) -> None:
        entry.sent = True
        self.publisher.outbox.send(*message, entry)

    def _done(self, number: int, entry: Entry, error: OSError | None, *, early: bool) -> None:
        self._storing -= 1
        if not entry.sent:
            self._unsent -= 1
        if error is None:
            entry.forget()
            if early:
                entry.leave()
            if not entry.sent:
                self.backlog.put_back(number)
                self.look()
            return
        self.backlog.held.discard(number)
        entry.record = None
        if not entry.sent and self.publisher.outbox.takes(len(entry.message[1])):
            self._give(entry, entry.message)
        if not entry.sent:
            self.publisher.drop("outbox-full")
            entry.end()
        elif not entry.over:
            if early:
                entry.leave()
            entry.outcome = None  # that of its event is over, as without a disk
            self.stage.refuse(entry, self, error)

    def _outcome(self, event: Event | None) -> Outcome | None:
        """Where the messages of a durable event that is in work are gathered."""
        if event is None or event._trigger is None:
            return None
        side: Any = getattr(event._trigger.source, "durable_side", None)
        if side is None or not side.waits(event):
            return None
        outcomes = self.delivery.outcomes
        found = outcomes.get(event)
        if found is None:
            found = outcomes[event] = Outcome(side, event)
        return found


def time_left(message: Message, born: Stamp | None) -> Message | None:
    """A message with what is left of its time (MQTT 5, 3.3.2.3.3), None when that is over; whoever set the clock.

    Of one that a boot without a clock has left, nobody knows how long it has waited: it has its whole time again.
    """
    if born is None:
        return message
    age = clock.age_ms(*born) or 0
    pairs = tuple((n, -((age - v * 1000) // 1000) if n == MESSAGE_EXPIRY else v) for n, v in message[4])
    over = any(number == MESSAGE_EXPIRY and value <= 0 for number, value in pairs)
    return None if over else (*message[:4], pairs)


def pack(messages: list[tuple[Message, Stamp | None]]) -> bytes:
    """Messages, each with since when it lives if it expires, as one record's payload."""
    parts = [bytes((_VERSION,))]
    for (topic, body, qos, retain, pairs), born in messages:
        name, props = topic.encode(), pack_properties(pairs)
        flags = qos | retain << 2 | (born is not None) << 3
        parts.append(_HEAD.pack(flags, len(name), len(props), len(body)))
        if born is not None:
            wall, mono, boot, quality = born
            parts.append(_BORN.pack(wall, mono, int(boot, 16), clock.QUALITIES.index(quality)))
        parts += (name, props, body)
    return b"".join(parts)


def unpack(payload: bytes) -> list[tuple[Message, Stamp | None]]:
    """What `pack` packed; ValueError when it is something else."""
    if payload[:1] != bytes((_VERSION,)):
        raise ValueError("messages of another version")
    found: list[tuple[Message, Stamp | None]] = []
    at = 1
    while at < len(payload):
        if at + _HEAD.size > len(payload):
            raise ValueError("a message is cut off")
        flags, name, props, body = _HEAD.unpack_from(payload, at)
        at += _HEAD.size
        born = _born(payload, at) if flags & 8 else None
        at += _BORN.size if flags & 8 else 0
        end = at + name + props + body
        if end > len(payload) or flags & 3 == 3 or flags >> 4:
            raise ValueError("a message is cut off")
        try:
            pairs = tuple(unpack_properties(payload[at + name : at + name + props]))
        except ProtocolError as error:
            raise ValueError(str(error)) from None
        topic = payload[at : at + name].decode()
        found.append(((topic, payload[at + name + props : end], flags & 3, bool(flags & 4), pairs), born))
        at = end
    if not found:
        raise ValueError("no message")
    return found


def _born(payload: bytes, at: int) -> Stamp:
    if at + _BORN.size > len(payload):
        raise ValueError("a message is cut off")
    wall, mono, boot, quality = _BORN.unpack_from(payload, at)
    if quality >= len(clock.QUALITIES):
        raise ValueError("a quality of the clock that there is not")
    return wall, mono, f"{boot:08x}", clock.QUALITIES[quality]
