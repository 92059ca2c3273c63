"""What was published with QoS 1 or 2 and is not yet with the broker: bounded, kept and repeated by paho.

Reads and puts right what paho keeps, by private names that every version 2 has. Without them (`missing` in mqtt_client
names those that the fast path needs besides) paho sends everything at once after a reconnect, and a message that a
broker closes the connection at comes again for ever.
"""

from __future__ import annotations

from nuclio_edge.core.mqtt_compose import variable
from nuclio_edge.core.mqtt_properties import (
    CONTENT_TYPE,
    CORRELATION_DATA,
    MESSAGE_EXPIRY,
    RESPONSE_TOPIC,
    USER_PROPERTY,
    pack_properties,
    unpack_properties,
)
from nuclio_edge.sources.mqtt_culprit import Culprit
from nuclio_edge.sources.mqtt_room import Room

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.delivery.outbox import Entry
    from nuclio_edge.sources.mqtt_publish import Publisher

    Message = tuple[str, bytes, int, bool, tuple[tuple[int, Any], ...], Entry | None]

INFLIGHT = 100  # messages sent and not yet acknowledged, at most
# paho.mqtt.enums.MessageState
_PUBLISH, _FOR_PUBACK, _FOR_PUBREC, _RESEND_PUBREL, _QUEUED = 1, 2, 3, 4, 9
_QUEUE_SIZE = 15  # paho's MQTT_ERR_QUEUE_SIZE
_PAHO_NAMES = {
    MESSAGE_EXPIRY: "MessageExpiryInterval",
    CONTENT_TYPE: "ContentType",
    RESPONSE_TOPIC: "ResponseTopic",
    CORRELATION_DATA: "CorrelationData",
    USER_PROPERTY: "UserProperty",
}


class Outbox:
    """The messages of QoS 1 and 2 of one publisher, which counts those that are not sent. Loop thread only."""

    def __init__(self, publisher: Publisher) -> None:
        self.loop = publisher.loop
        self.client: Any = None
        self.v5 = True
        self.room = Room()  # by paho's message id
        self.entries: dict[int, Entry] = {}  # by paho's message id, of those that the disk knows or will know
        self._expires: dict[int, int] = {}  # message id -> when, of those that have a message expiry
        self._publisher = publisher
        self._offline: list[Message] = []  # before there is a client
        self._culprit = Culprit()
        self._window = INFLIGHT
        self._limited = False  # whether a broker is there that does not take every message

    def takes(self, size: int) -> bool:
        """Whether there is room for another message."""
        return self.room.takes(size)

    def send(
        self,
        topic: str,
        body: bytes,
        qos: int,
        retain: bool,
        pairs: tuple[tuple[int, Any], ...],
        entry: Entry | None = None,
    ) -> int:
        """Send a message, now or when it is its turn; its message id, or 0 after counting why not."""
        size = len(body)
        if entry is None and not self.room.takes(size):
            self._publisher.drop("outbox-full")
            return 0
        if entry is not None and self._limited:  # it has a key more, or comes from the disk
            publisher = self._publisher
            qos, retain = publisher.allowed(topic, qos, retain)
            if not qos:
                publisher.send(topic, body, qos, retain, pairs)
                entry.end()
                return 0
            props = len(pack_properties(pairs))
            if not self._fits(topic, body, len(variable(props)) + props):
                publisher.drop("too-big")
                entry.end()
                return 0
        client = self.client
        if client is None:
            self._offline.append((topic, body, qos, retain, pairs, entry))
            mid = -len(self._offline)
        else:
            while True:
                info = client.publish(topic, body, qos, retain, paho_properties(pairs) if self.v5 else None)
                if int(info.rc) != _QUEUE_SIZE:  # an identifier that is still in use; the next one may be free
                    break
            mid = info.mid
        self.room.add(mid, size)
        if entry is not None:
            self.entries[mid] = entry
        for number, value in pairs:
            if number == MESSAGE_EXPIRY:
                self._expires[mid] = self.loop.now + value * 1000
        return mid

    def send_last(self, topic: str, body: bytes, retain: bool) -> bool:
        """Send a message of QoS 1 before a goodbye; whether it is on its way, and then it waits for no answer.

        What is told of the others, or given to a successor, does not have it.
        """
        mid = self.send(topic, body, 1, retain, ())
        message = _kept(self.client).get(mid)
        if message is None or message.state != _FOR_PUBACK:
            return False
        del _kept(self.client)[mid]
        return self.room.remove(mid)

    def use(self, client: Any, *, v5: bool) -> None:
        """Give what waits to another client: the first one, or that of another protocol version."""
        left = self.take_back()
        self.client = client
        self.v5 = v5
        for message in left:
            self.send(*message)

    def take_back(self) -> list[Message]:
        """All that waits, which waits here no more."""
        waiting = {-at: message for at, message in enumerate(self._offline, 1)}
        self._offline = []
        if self.client is not None:
            waiting = {
                m.mid: (m.topic, bytes(m.payload), m.qos, m.retain, _pairs(m.properties), self.entries.get(m.mid))
                for m in self.client.drop_out_messages()
            }
        left = []
        for mid, message in waiting.items():
            when = self._expires.get(mid)
            if when is None:
                left.append(message)
            elif when <= self.loop.now:
                self._publisher.drop("expired")
                if message[5] is not None:
                    message[5].end()
            else:
                seconds = -(-(when - self.loop.now) // 1000)
                pairs = tuple((number, seconds if number == MESSAGE_EXPIRY else value) for number, value in message[4])
                left.append((*message[:4], pairs, message[5]))
        self.room.clear()
        self.entries.clear()
        self._expires.clear()
        return left

    def begin(self, *, session_present: bool, window: int) -> None:
        """The broker has accepted a connection, and takes `window` unacknowledged messages.

        paho sends again what waits right after this; it would send all of it, however small the window. PUBRELs that
        are due go first: they are no new messages, and paho stops at the first message that is to wait. A broker that
        has lost its session has lost the messages that they are about: those are sent anew.
        """
        client = self.client
        client.accepted = True
        self._window = window
        if not session_present:
            for message in _kept(client).values():
                if message.state == _RESEND_PUBREL:
                    message.state = _PUBLISH
                    message.dup = False
        self._expire()
        publisher = self._publisher
        self._limited = bool(publisher.max_packet) or publisher.max_qos < 2 or not publisher.may_retain
        if self._limited:
            for mid, message in [*_kept(client).items()]:
                if message.state == _RESEND_PUBREL:
                    continue
                message.qos, message.retain = publisher.allowed(message.topic, message.qos, message.retain)
                props = 1 if message.properties is None else len(message.properties.pack())
                if not self._fits(message.topic, message.payload, props):
                    self._give_up(mid, "too-big")
        if self._culprit.alone:
            window = 1
        self._open_window(window)
        kept = _kept(client)
        for mid in [mid for mid, message in kept.items() if message.state == _RESEND_PUBREL][::-1]:
            kept.move_to_end(mid, last=False)
        sent = 0
        for message in kept.values():
            if message.state == _PUBLISH:
                sent += 1
                if sent > window:
                    message.state = _QUEUED

    def end(self, *, closed: bool, proven: bool) -> str:
        """The connection is gone; `closed` and `proven` as mqtt_culprit has them.

        Returns the topic of the oldest message that was not answered when it closed, or nothing.
        """
        client = self.client
        client.accepted = False
        self._limited = False
        flying = [(mid, m.topic) for mid, m in _kept(client).items() if m.state in (_FOR_PUBACK, _FOR_PUBREC)]
        topics = [topic for _, topic in flying]
        found = self._culprit.lost([mid for mid, _ in flying], topics, closed=closed, proven=proven)
        if found:
            self._give_up(found, "closes-connection")
            if self._culprit.gave_up(topics[0]):
                text = "a message was given up: the broker closes every connection at it"
                self._publisher.log.warn_with(text, "topic", topics[0])
        return topics[0] if closed and topics else ""

    @property
    def suspects(self) -> bool:
        """Whether messages are sent one at a time, to find the one at which the broker closes the connection."""
        return bool(self._culprit.alone)

    def topic(self, mid: int) -> str:
        """The topic of a message that waits, or nothing."""
        message = _kept(self.client).get(mid)
        return "" if message is None else str(message.topic)

    def acknowledged(self, mid: int) -> bool:
        """A message is with the broker, or was refused; whether it is one that waited."""
        if not self.room.remove(mid):
            return False  # of QoS 0, which stock paho tells too, or dropped before
        self._expires.pop(mid, None)
        self._end(mid)
        if self._culprit.settled():
            self._open_window(self._window)
        return True

    def _fits(self, topic: str, body: bytes, props: int) -> bool:
        """Whether the broker takes a message of that size; its properties have `props` bytes with their length."""
        size = 4 + len(topic.encode()) + props + len(body)
        size += 2 if size < 128 else 3 if size < 16_384 else 4 if size < 2_097_152 else 5
        return size <= (self._publisher.max_packet or size)

    def _give_up(self, mid: int, reason: str) -> None:
        del _kept(self.client)[mid]
        self.room.remove(mid)
        self._expires.pop(mid, None)
        self._culprit.settled()
        self._publisher.drop(reason)
        self._end(mid)

    def _end(self, mid: int) -> None:
        """Nothing of the message is left to be done, on disk neither."""
        entry = self.entries.pop(mid, None)
        if entry is not None:
            entry.end()

    def _expire(self) -> None:
        """What has waited longer than it may is not sent; the others have the rest of their time (3.3.2.3.3)."""
        kept = _kept(self.client)
        for mid, when in [*self._expires.items()]:
            message = kept.get(mid)
            if message is None or message.state == _RESEND_PUBREL:
                continue
            left = when - self.loop.now
            if left <= 0:
                self._give_up(mid, "expired")
            elif self.v5:
                message.properties.MessageExpiryInterval = -(-left // 1000)

    def _open_window(self, window: int) -> None:
        """By a private name: paho's own setter refuses while it is connected."""
        if hasattr(self.client, "_max_inflight_messages"):
            self.client._max_inflight_messages = max(1, min(window, INFLIGHT))


def _kept(client: Any) -> Any:
    """Paho's messages by id, in the order in which they were published."""
    return getattr(client, "_out_messages", {})


def _pairs(properties: Any) -> tuple[tuple[int, Any], ...]:
    """Paho's properties as ours."""
    if properties is None:
        return ()
    packed = properties.pack()
    head = 1
    while packed[head - 1] > 127:
        head += 1
    return tuple(unpack_properties(packed[head:]))


def paho_properties(pairs: tuple[tuple[int, Any], ...]) -> Any:
    """The same properties as paho wants them."""
    if not pairs:
        return None
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    made: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for number, value in pairs:
        setattr(made, _PAHO_NAMES[number], value)
    return made
