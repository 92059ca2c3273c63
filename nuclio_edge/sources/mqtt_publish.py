"""What goes out: from any thread, in order, QoS 0 as bytes of our own in the turn's one write, QoS 1 and 2 by paho.

Law: of everything given to `publish`, `sent` + `shed` by reason is the sum, when nothing is waiting. QoS 0 while the
broker is away is shed("offline"); QoS 1 and 2 wait in memory (paho keeps and repeats them) within the bounds of
mqtt_room, beyond them shed("outbox-full"). One that the broker closes every connection at is shed("closes-connection").
"""

from __future__ import annotations

from _thread import get_ident
from collections import deque

from nuclio_edge.core.encode import to_json
from nuclio_edge.core.mqtt_compose import string, variable
from nuclio_edge.core.mqtt_properties import (
    CONTENT_TYPE,
    RESPONSE_TOPIC,
    pack_properties,
)
from nuclio_edge.core.response import JSON, TEXT
from nuclio_edge.sources.mqtt_outbox import Outbox
from nuclio_edge.sources.mqtt_reasons import REFUSAL, explain
from nuclio_edge.sources.mqtt_room import LIMIT_BYTES, LIMIT_COUNT, SMALL, UNDISPUTED, fits
from nuclio_edge.sources.mqtt_text import check_topic_name, property_pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.sources.mqtt_event import MqttEvent
    from nuclio_edge.sources.mqtt_link import Link

_HEADS = 512  # topics whose header is kept
_SHORT = 128
_LARGEST = 268_000_000  # bytes of payload: what a packet's length can say (2.1.4), less the largest head

REFUSED = 500  # the status of a response whose body cannot be had
PASSING: Any = object()  # in the place of an event: the message is about this connection, and nothing after it
JSON_SAID = ((CONTENT_TYPE, JSON),)
_AS_JSON = (dict, list, tuple, int, float)
_UNSAYABLE = "a payload of type %s cannot be published: make it bytes, text, None, a number, or a dict or list of such"


class MqttBinding:
    """What `context.bindings["<source>"]` is; its calls may come from any thread."""

    __slots__ = ("_context", "_publisher")

    def __init__(self, publisher: Publisher, context: Context) -> None:
        self._publisher = publisher
        self._context = context

    def publish(
        self,
        topic: str,
        payload: Any = b"",
        qos: int = 0,
        retain: bool = False,
        content_type: str | None = None,
        **properties: Any,
    ) -> None:
        """Publish to any topic; bytes and text go as they are, None is empty, dict, list, tuple and numbers are JSON.

        `properties`: message_expiry (seconds), response_topic, correlation_data (bytes), user_properties (a dict); they
        and `content_type` are left out before MQTT 5. Returns at once; ValueError for what cannot be sent.
        """
        self._context.check()
        self._publisher.publish(topic, payload, qos, retain, content_type, properties, self._context._event)


class Publisher:
    """The outgoing half of one source. `publish` is for any thread, the rest for the loop's.

    `link` is that of the open connection, or None. `say(key, message, *pairs)` warns once of a key in each.
    """

    def __init__(self, loop: Loop, log: Any, say: Callable[..., Any]) -> None:
        self.loop = loop
        self.log = log
        self.say = say
        self.link: Link | None = None
        self.outbox = Outbox(self)
        self.keeper: Any = None  # the outbox on disk, where there is one
        self.v5 = True
        self.max_qos = 2
        self.may_retain = True
        self.max_packet = 0  # the broker's; 0: no limit
        self.sent = 0
        self.shed: dict[str, int] = {}
        self._given: deque[tuple[str, bytes, int, bool, tuple[tuple[int, Any], ...], Event | None]] = deque()
        self._given_bytes = 0
        self._given_largest = 0
        self._posted = False
        self._heads: dict[tuple[str, Any], bytes] = {}
        self._largest_queued = 0  # the largest message that may be in the socket's queue

    # -- any thread ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: Any,
        qos: int,
        retain: bool,
        content_type: str | None,
        properties: Mapping[str, Any] | None = None,
        event: Event | None = None,
    ) -> None:
        """Take a message of an event's handler. ValueError for a topic, QoS, payload or property that cannot be."""
        check_topic_name(topic)
        if qos not in (0, 1, 2):
            raise ValueError(f"qos is 0, 1 or 2, not {qos!r}")
        if type(payload) is not bytes:
            if isinstance(payload, str):
                payload = payload.encode()
            elif payload is None:
                payload = b""
            elif isinstance(payload, (bytearray, memoryview)):
                payload = bytes(payload)
            else:
                if not isinstance(payload, _AS_JSON) and not hasattr(payload, "__log__"):
                    raise ValueError(_UNSAYABLE % type(payload).__name__)
                payload = to_json(payload)
                content_type = content_type or JSON
        if len(payload) > _LARGEST:
            raise ValueError(f"a payload of {len(payload)} bytes does not fit in one message")
        pairs: tuple[tuple[int, Any], ...] = JSON_SAID if content_type == JSON else ()
        if properties or (content_type and not pairs):
            pairs = property_pairs(content_type, properties)
        if get_ident() == self.loop.thread and not self._given:  # an inline function, an output: no detour by the queue
            self.send(topic, payload, int(qos), bool(retain), pairs, event)
            return
        size = len(payload)
        # Read without a lock: a few messages more than the limit do no harm.
        full = self._given_bytes + size > UNDISPUTED and not fits(self._given_bytes, self._given_largest, size)
        if full or len(self._given) >= LIMIT_COUNT:
            self.loop.post(lambda: self.drop("outbox-full"))
            return
        self._given.append((topic, payload, int(qos), bool(retain), pairs, event))
        self._given_bytes += size
        if size > SMALL:
            self._given_largest = max(self._given_largest, size)
        if not self._posted:
            self._posted = True
            self.loop.post(self.take)

    # -- loop thread --------------------------------------------------------------------------------------------------

    def take(self) -> None:
        """Send what threads have given."""
        self._posted = False
        given = self._given
        self._given_bytes = self._given_largest = 0
        for _ in range(len(given)):
            message = given.popleft()
            try:
                self.send(*message)
            except Exception as error:  # noqa: BLE001 - one bad thing stays one bad thing
                self.drop("defect")
                self.loop.on_error(error, self.take)

    def send(
        self,
        topic: str,
        body: bytes,
        qos: int,
        retain: bool,
        pairs: tuple[tuple[int, Any], ...] = (),
        event: Event | None = None,
    ) -> None:
        """Send a message now, or keep it, or count why not."""
        if qos > self.max_qos or (retain and not self.may_retain):
            qos, retain = self.allowed(topic, qos, retain)
        if (
            self.max_packet
            and (len(body) + len(topic) * 4 + 64 > self.max_packet or (pairs and pairs is not JSON_SAID))
            and self._too_big(topic, body, pairs)
        ):
            self.drop("too-big")
            return
        if qos:
            if self.keeper is not None and event is not PASSING:
                self.keeper.send((topic, body, qos, retain, pairs), event)
            else:
                self.outbox.send(topic, body, qos, retain, pairs)
            self._largest_queued = max(self._largest_queued, len(body))
            return
        link = self.link
        if link is None:
            self.drop("offline")
            return
        if (len(body) > SMALL or link.queued > LIMIT_BYTES) and not self._queue_takes(link.queued, len(body)):
            self.drop("outbox-full")
            return
        head = self._heads.get((topic, pairs)) or self.head(topic, pairs)
        size = len(head) + len(body)
        first = 0x31 if retain else 0x30
        if size < _SHORT:
            link.write(bytes((first, size)) + head + body)
        else:
            link.write(bytes((first,)) + variable(size) + head + body)
        self.sent += 1

    def allowed(self, topic: str, qos: int, retain: bool) -> tuple[int, bool]:
        """QoS and retain as far as the broker takes them; that it takes less than was asked for is said."""
        if qos > self.max_qos:
            text = "the broker takes a lower QoS than was asked for"
            self.say("maximum qos", text, "topic", topic, "asked", qos, "sent", self.max_qos)
            qos = self.max_qos
        if retain and not self.may_retain:
            self.say("no retain", "the broker retains no messages: they are sent without", "topic", topic)
            retain = False
        return qos, retain

    def farewell(self, will: Values) -> None:
        """Publish the will's message; the DISCONNECT comes right behind it in the same stream.

        So no acknowledgement is waited for: a broker that the message does not reach publishes the will by itself, as
        the DISCONNECT does not reach it either. Of QoS 2 it would keep the message until a PUBREL: that goes as QoS 1.
        """
        body = will.payload.encode()
        if not min(will.qos, self.max_qos):
            self.send(will.topic, body, 0, will.retain)
        elif self.outbox.send_last(will.topic, body, will.retain and self.may_retain):
            self.sent += 1

    def output(self, output: Values, response: Response, event: Event | None = None) -> None:
        """What a function returned, to the topic of one of its outputs."""
        if self._given:
            self.take()  # what the handler published comes first
        said = response.content_type
        pairs: tuple[tuple[int, Any], ...] = JSON_SAID if said == JSON else ()
        if said not in (JSON, TEXT):
            try:
                pairs = property_pairs(said, None)
            except ValueError:
                self.drop("content-type")
                return
        body = response.body
        if type(body) is not bytes:
            body = _whole(response)
            if response.status_code >= REFUSED:
                self.drop("broken-body")
                return
        if len(body) > _LARGEST:
            self.drop("too-big")
            return
        self.send(output.topic, body, output.qos, output.retain, pairs, event)

    def reply(self, event: MqttEvent, response: Response | None, *, alone: bool) -> None:
        """Answer a request (4.10): the response to its response topic, the status as a user property.

        One of several functions (not `alone`) that has nothing to say leaves the answer to the others.
        """
        body, content_type, said = b"", None, {"status": "200"}
        if response is not None:
            body, content_type = _whole(response), response.content_type
            said = {**response.headers, "status": str(response.status_code)}
        elif not alone:
            return
        if len(body) > _LARGEST:
            self.drop("too-big")
            return
        properties = {"correlation_data": event.correlation_data, "user_properties": said}
        qos = min(event._first >> 1 & 3, 1)  # as it came: `event.qos` is the handler's to set
        try:
            self.publish(event.response_topic, body, qos, False, content_type, properties, event)
        except ValueError:  # a header or content type that MQTT cannot say: better an answer without
            properties["user_properties"] = {"status": said["status"]}
            try:
                self.publish(event.response_topic, body, qos, False, None, properties, event)
            except ValueError:
                self.drop("no-topic")  # the requester wants its answer where no message can go

    def drop(self, reason: str) -> None:
        """Count a message that is not sent."""
        self.shed[reason] = self.shed.get(reason, 0) + 1

    def head(self, topic: str, pairs: tuple[tuple[int, Any], ...]) -> bytes:
        """What a PUBLISH of QoS 0 has between its length and its body."""
        head = string(topic)
        if self.v5:
            props = pack_properties(pairs)
            head += variable(len(props)) + props
        if len(self._heads) >= _HEADS:
            self._heads.clear()
        if all(number in (CONTENT_TYPE, RESPONSE_TOPIC) for number, _ in pairs):  # others differ from time to time
            self._heads[topic, pairs] = head
        return head

    def _too_big(self, topic: str, body: bytes, pairs: tuple[tuple[int, Any], ...]) -> bool:
        head = self._heads.get((topic, pairs)) or self.head(topic, pairs)
        return 7 + len(head) + len(body) > self.max_packet

    def _queue_takes(self, queued: int, size: int) -> bool:
        """Whether the socket's queue has room for a message, which then joins it."""
        largest = min(self._largest_queued, queued)
        if not fits(queued, largest, size):
            return False
        self._largest_queued = max(largest, size)
        return True

    def begin(
        self, link: Link, *, session_present: bool, max_qos: int, may_retain: bool, max_packet: int, window: int
    ) -> None:
        """A connection is open, with what its broker allows; what waits is sent right after this."""
        self.link = link
        self.max_qos = max_qos
        self.may_retain = may_retain
        self.max_packet = max_packet
        self.outbox.begin(session_present=session_present, window=window)
        self._largest_queued = self.outbox.room.largest
        if not max_qos:
            for topic, body, qos, retain, pairs, entry in self.outbox.take_back():
                self.send(topic, body, qos, retain, pairs)
                if entry is not None:
                    entry.end()
        if self.keeper is not None:
            self.keeper.look()

    def use(self, client: Any, *, v5: bool) -> None:
        """Publish by this client from now on: the first one, or that of another protocol version."""
        self._heads.clear()
        self.loop.thread = get_ident()
        self.v5 = v5
        self.outbox.use(client, v5=v5)

    def end(self, *, closed: bool = False, proven: bool = False) -> str:
        """The connection is gone; see Outbox.end."""
        link, self.link = self.link, None
        return "" if link is None else self.outbox.end(closed=closed, proven=proven)

    def acknowledged(self, mid: int, reason: int) -> None:
        """The broker has taken (or refused) a message of QoS 1 or 2."""
        if not self.outbox.acknowledged(mid):
            return
        if self.keeper is not None:
            self.keeper.look()
        if reason >= REFUSAL:
            self.drop("refused")
            topic = self.outbox.topic(mid)
            text = "the broker refused a message that was published"
            self.say(f"puback {reason} {topic}", text, "topic", topic, "reason", explain(reason, v5=True))
        else:
            self.sent += 1

    def close(self, successor: Publisher | None) -> None:
        """The source is closed; once. What waits, and what is published from now on, goes to its successor.

        Handlers that are not replaced keep the binding that they have. A message that was in flight may arrive twice.
        Without a successor what waits is told, and what comes later is counted, and said once.
        """
        if "send" in vars(self):
            return
        self.say = _nothing  # the source itself can go
        if successor is None:
            self._tell(self.waiting - (self.keeper.kept() if self.keeper is not None else 0))
            for name in ("send", "output", "reply"):
                setattr(self, name, self._too_late)
            setattr(self, "publish", lambda *_, **__: self.loop.post(self._too_late))  # noqa: B010 - mypy
            return
        waiting = self.outbox.take_back()
        for name in ("publish", "send", "output", "reply", "drop"):
            setattr(self, name, _forwarded(successor, name))
        for message in waiting:
            if message[5] is not None and successor.keeper is not None:
                successor.keeper.take_over(message[5], message[:5])
            else:
                successor.send(*message[:5])
        self.take()  # which a thread that is in `publish` at this moment will post once more
        self._tell(0)

    def _too_late(self, *_: Any, **__: Any) -> None:
        self.drop("closed")
        if self.shed["closed"] == 1:
            self.log.warn("messages are published to a source that is closed, and are lost; said once")

    def _tell(self, waiting: int) -> None:
        """Say what was never sent, by reason: nothing is lost silently; at the end."""
        lost = dict(self.shed)
        if waiting > 0:
            lost["unacknowledged"] = waiting
        if lost:
            self.log.warn_with("messages were not sent", *(part for pair in sorted(lost.items()) for part in pair))

    @property
    def waiting(self) -> int:
        """How many messages are not yet with the broker."""
        return len(self._given) + len(self.outbox.room.sizes)


_QUEUE_SIZE = 15  # paho's MQTT_ERR_QUEUE_SIZE


def _forwarded(successor: Publisher, name: str) -> Callable[..., None]:
    """A call that asks anew each time where it goes: the successor may have one, too."""

    def forward(*args: Any, **named: Any) -> None:
        getattr(successor, name)(*args, **named)

    return forward


def _nothing(*_: Any) -> None:
    pass


def _whole(response: Response) -> bytes:
    """A response's body; one that comes in parts is put together, once. Where that fails it becomes a 500."""
    body = response.body
    if type(body) is not bytes:
        try:
            body = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in body)
        except BaseException as error:  # noqa: BLE001 - a generator is the handler's code
            response.status_code = REFUSED
            body = f"the handler's answer broke off: {type(error).__name__}".encode()
        response.body = body
    return body
