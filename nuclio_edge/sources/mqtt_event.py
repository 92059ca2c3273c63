"""The Event of an MQTT PUBLISH: the raw packet's parts, everything else made when it is asked for."""

from __future__ import annotations

from nuclio_edge.core.event import Event
from nuclio_edge.core.mqtt_codec import ProtocolError
from nuclio_edge.core.mqtt_properties import (
    CONTENT_TYPE,
    CORRELATION_DATA,
    MESSAGE_EXPIRY,
    RESPONSE_TOPIC,
    SUBSCRIPTION_ID,
    TOPIC_ALIAS,
    USER_PROPERTY,
    unpack_properties,
)
from nuclio_edge.core.port import aside, json_loads, lean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.url import Url


_make_fields = Event._lazy["fields"]  # at hand for the property
_SAID = bytes((CONTENT_TYPE,))  # only where it is among the properties they need be looked through
_SMALL = 4096  # bytes: of a longer one the two calls that are saved are nothing
_BROKEN = "the properties are broken: "
_PAYLOAD_FORMAT = 1
_ONCE = sum(
    1 << identifier
    for identifier in (_PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA, TOPIC_ALIAS)
)
_OFTEN = 1 << USER_PROPERTY | 1 << SUBSCRIPTION_ID


class MqttEvent(Event):
    """An event of one PUBLISH for one function; body and raw properties are shared with those of the other functions.

    Beside what every event has: `qos` (0..2, as delivered), `retain` (the broker kept it: it may be old), `duplicate`
    (the broker says that it may have sent it before), and of version 5 `message_expiry` (seconds, None without one),
    `response_topic` ("" without one), `correlation_data` (bytes or None), `properties` ((identifier, value) in order).
    User properties are `headers`; of one that comes twice the last counts. Malformed properties, which the way in lets
    not pass, read as absent, which `decode_error` tells.
    """

    __slots__ = ("_fields", "_first", "_props", "_topic", "content_type", "timestamp_ms")  # always set: it is lean

    if TYPE_CHECKING:
        content_type: str
        timestamp_ms: int
        _fields: dict[str, Any] | None
        _first: int
        _props: bytes
        _topic: bytes
        correlation_data: bytes | None
        duplicate: bool
        message_expiry: int | None
        properties: list[tuple[int, Any]]
        qos: int
        response_topic: str
        retain: bool

    # Made empty, without a call of Python code (150 ns against 300), and filled by `mqtt_event` or the intake.
    __init__ = object.__init__

    # What most handlers read, and dear: made as the other attributes are it costs 0.3 us more at the first time, for
    # the exception behind that. `_fields` is None until then. The way of most bodies through decode.py is spelled out:
    # 0.15 us less.
    @property
    def fields(self) -> dict[str, Any]:
        """What the body says, by its content type or its looks; see Event."""
        fields = self._fields
        if fields is None:
            raw = self.raw_body
            if raw[:1] != b"{" or self.content_type or len(raw) > _SMALL:
                fields = _make_fields(self)
            else:
                try:
                    fields = json_loads(raw)
                except (ValueError, RuntimeError, MemoryError):  # decode.py has the words for it
                    fields = _make_fields(self)
            self._fields = fields
        return fields

    @fields.setter
    def fields(self, value: dict[str, Any]) -> None:
        self._fields = value


def mqtt_event(
    trigger: Trigger | None,
    token: int | None,
    first: int,
    topic: bytes,
    props: bytes,
    body: bytes,
    wall: int,
    content_type: str | None = None,
) -> MqttEvent:
    """The event of a PUBLISH that came at `wall`, for one function; the intake's inner loop spells it out.

    `content_type` spares looking for it.
    """
    event: MqttEvent = MqttEvent()
    event._trigger = trigger
    event._token = token
    event._fields = None
    event._first = first
    event._topic = topic
    event._props = props
    event.raw_body = body
    event.timestamp_ms = wall
    event.content_type = _content_type(event) if content_type is None else content_type
    return event


def content_type_of(raw: bytes) -> str:
    """The content type that properties say, "" without one; ProtocolError where a PUBLISH must not have them."""
    said = ""
    seen = 0
    for identifier, value in unpack_properties(raw):
        bit = 1 << identifier
        if not bit & (_ONCE | _OFTEN):
            raise ProtocolError(0x82, f"property {identifier} in a PUBLISH")
        if bit & seen:
            raise ProtocolError(0x82, f"property {identifier} twice in a PUBLISH")
        seen |= bit & _ONCE
        if identifier == CONTENT_TYPE:
            said = value
    return said


def _properties(event: MqttEvent) -> list[tuple[int, Any]]:
    try:
        return unpack_properties(event._props)
    except ProtocolError as error:
        event.decode_error = _BROKEN + str(error)
        return []


def _property(event: MqttEvent, wanted: int) -> Any:
    for identifier, value in event.properties:
        if identifier == wanted:
            return value
    return None


def _content_type(event: MqttEvent) -> str:
    said = _property(event, CONTENT_TYPE) if _SAID in event._props else ""
    trigger = event._trigger
    return said or (trigger.content_type if trigger is not None else "") or ""


def _decode_error(event: MqttEvent) -> str | None:
    try:
        unpack_properties(event._props)
    except ProtocolError as error:
        return _BROKEN + str(error)
    return None


def _url(event: MqttEvent) -> Url:
    from nuclio_edge.url import Url

    return Url(event._trigger.source.url if event._trigger is not None else "")


def _broker(event: MqttEvent) -> str:
    url = _url(event)
    host = f"[{url.host}]" if ":" in url.host else url.host
    return f"{host}:{url.port}" if host else ""


lean(MqttEvent)
aside(MqttEvent, "correlation_data duplicate message_expiry properties qos response_topic retain")
MqttEvent._lazy = {
    **Event._lazy,
    "decode_error": _decode_error,
    "correlation_data": lambda event: _property(event, CORRELATION_DATA),
    "duplicate": lambda event: event._first & 8 != 0,
    "headers": lambda event: dict(value for identifier, value in event.properties if identifier == USER_PROPERTY),
    "message_expiry": lambda event: _property(event, MESSAGE_EXPIRY),
    "properties": _properties,
    "qos": lambda event: event._first >> 1 & 3,
    "response_topic": lambda event: _property(event, RESPONSE_TOPIC) or "",
    "retain": lambda event: event._first & 1 != 0,
    "source_address": _broker,
    "topic": lambda event: event._topic.decode(),
    "url": _url,
}


def to_parts(event: MqttEvent) -> tuple[int, bytes, bytes]:
    """What `stored` keeps beside body and time: the packet's first byte, the raw topic, the raw properties."""
    return event._first, event._topic, event._props


def from_parts(trigger: Trigger | None, first: int, topic: bytes, props: bytes, body: bytes, wall: int) -> MqttEvent:
    """The event of what was kept of it."""
    return mqtt_event(trigger, None, first, topic, props, body, wall)
