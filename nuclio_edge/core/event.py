"""The common Event: one shape for what every source brings in, each attribute made when it is first asked for.

An attribute that nobody set is missing from its slot, so `__getattr__` is called, makes it by the class's table `_lazy`
and keeps it. A source kind derives a class whose `__init__` stores only what it has at hand and whose table knows how
to make the rest: an event whose handler reads nothing costs little more than its allocation (0.5 us against 1.4 us for
an eager one).
"""

from . import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .inbox import Trigger
    from .response import Response


class TriggerInfo:
    """What Nuclio's SDK tells about the trigger of an event: the source's kind, and the trigger's or source's name."""

    __slots__ = ("kind", "name")

    def __init__(self, kind: str = "", name: str = "") -> None:
        self.kind = kind
        self.name = name


class EventSource:
    """What the slides' GetEventSource tells: class, kind, version and schema of the source, and its name."""

    __slots__ = ("kind", "klass", "name", "schema", "version")

    def __init__(self, kind: str, name: str) -> None:
        self.klass = "edge"
        self.kind = kind
        self.name = name
        self.version = "1"
        self.schema = ""


class Event:
    """An event as a handler sees it: every attribute of Nuclio's SDK and every accessor of the slides' interface.

    Made by a source, or by hand as with the SDK (all arguments optional). `body` is bytes, or the parsed value when the
    content type is exactly application/json (the SDK's rule; text that does not parse stays bytes); `raw_body` is
    always bytes. `fields` are what the body says by its content type, or by sniffing without one; {} when it says
    nothing, with the reason in `decode_error`. `timestamp` is a naive UTC datetime, `timestamp_ms` the same as an int.
    Attributes may be set; an event belongs to the one handler that it was made for.
    """

    __slots__ = (
        "_attempt",
        "_reply",
        "_token",
        "_trigger",
        "body",
        "content_type",
        "decode_error",
        "fields",
        "headers",
        "id",
        "last_in_batch",
        "method",
        "num_shards",
        "offset",
        "path",
        "raw_body",
        "shard_id",
        "size",
        "source",
        "source_address",
        "source_identity",
        "timestamp",
        "timestamp_ms",
        "topic",
        "trigger",
        "type",
        "type_version",
        "url",
        "version",
    )

    if TYPE_CHECKING:
        _attempt: int
        _reply: "Response | None"
        _token: "Any"
        _trigger: "Trigger | None"
        body: "Any"
        content_type: "str | None"
        decode_error: "str | None"
        fields: "dict[str, Any]"
        headers: "dict[str, Any]"
        id: "str | None"
        last_in_batch: bool
        method: "str | None"
        num_shards: "int | None"
        offset: int
        path: "str | None"
        raw_body: bytes
        shard_id: "int | None"
        size: "int | None"
        source: EventSource
        source_address: str
        source_identity: str
        timestamp: "Any"
        timestamp_ms: int
        topic: "str | None"
        trigger: TriggerInfo
        type: "str | None"
        type_version: "str | None"
        url: "str | None"
        version: "str | None"

    _lazy: "dict[str, Callable[[Any], Any]]" = {}

    def __init__(
        self,
        body: "Any" = None,
        content_type: "str | None" = None,
        trigger: "TriggerInfo | None" = None,
        fields: "dict[str, Any] | None" = None,
        headers: "dict[str, Any] | None" = None,
        _id: "str | None" = None,
        method: "str | None" = None,
        path: "str | None" = None,
        size: "int | None" = None,
        timestamp: "Any" = None,
        url: "str | None" = None,
        shard_id: "int | None" = None,
        num_shards: "int | None" = None,
        _type: "str | None" = None,
        type_version: "str | None" = None,
        version: "str | None" = None,
        last_in_batch: bool = False,
        offset: "int | None" = None,
        topic: "str | None" = None,
    ) -> None:
        self._trigger = None
        self._token = None
        self.body = body
        self.content_type = content_type
        self.trigger = trigger or TriggerInfo()
        self.fields = fields or {}
        self.headers = headers or {}
        self.id = _id
        self.method = method
        self.path = path or "/"
        self.size = size
        self.timestamp = timestamp or 0
        self.url = url
        self.shard_id = shard_id
        self.num_shards = num_shards
        self.type = _type
        self.type_version = type_version
        self.version = version
        self.last_in_batch = last_in_batch
        self.offset = offset or 0
        self.topic = topic

    def __getattr__(self, name: str) -> "Any":
        make = self._lazy.get(name)
        if make is None:
            raise AttributeError("an event has no attribute '" + name + "'")
        value = make(self)
        setattr(self, name, value)
        return value

    def get_header(self, key: str) -> "Any":
        """The header of that name in any case, or None."""
        headers = self.headers
        if key in headers:
            return headers[key]
        key = key.lower()
        for name in headers:
            if name.lower() == key:
                return headers[name]
        return None

    def get_header_string(self, key: str) -> str:
        """The header as text; empty when there is none."""
        return _text(self.get_header(key))

    def get_header_bytes(self, key: str) -> bytes:
        """The header as bytes; empty when there is none."""
        return _bytes(self.get_header(key))

    def get_field(self, key: str, default: "Any" = None) -> "Any":
        """The field of that name decoded from query and body, or `default`."""
        return self.fields.get(key, default)

    def get_field_string(self, key: str) -> str:
        """The field as text; empty when there is none."""
        return _text(self.fields.get(key))

    def get_field_bytes(self, key: str) -> bytes:
        """The field as bytes; empty when there is none."""
        return _bytes(self.fields.get(key))

    def get_field_int(self, key: str) -> int:
        """The field as an int; ValueError when it is absent or none."""
        try:
            return int(self.fields[key])
        except (KeyError, TypeError, ValueError):
            raise ValueError("field '" + key + "' is not an integer: " + repr(self.fields.get(key)))  # noqa: B904 - `from` only warns on MicroPython

    def to_json(self) -> str:
        """The event as the SDK writes it: public attributes, bytes in base64, the time as text."""
        from .event_wire import to_json

        return to_json(self)

    __repr__ = to_json

    def as_json(self) -> bytes:
        """The event as JSON bytes (the slides' AsJson)."""
        return self.to_json().encode()

    def compile_explicit_ack_message(self) -> "dict[str, Any]":
        """The SDK's acknowledgement of a stream's event."""
        from .event_wire import explicit_ack

        return explicit_ack(self)

    @staticmethod
    def from_json(data: "Any") -> "Event":
        """An event from the SDK's JSON text."""
        from .event_wire import deserialize

        return deserialize(data, "json")

    @staticmethod
    def from_msgpack(data: "Any") -> "Event":
        """An event from the SDK's map with text keys."""
        from .event_wire import deserialize

        return deserialize(data, "msgpack")

    @classmethod
    def deserialize(cls, data: "Any", kind: str = "msgpack_raw") -> "Any":
        """An event, or a list of them, from one of the SDK's three wire forms."""
        from .event_wire import deserialize

        return deserialize(data, kind)


def _text(value: "Any") -> str:
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode()
    return value if isinstance(value, str) else str(value)


def _bytes(value: "Any") -> bytes:
    return bytes(value) if isinstance(value, (bytes, bytearray)) else _text(value).encode()


def _make_body(event: Event) -> "Any":
    raw = event.raw_body
    if event.content_type == "application/json":
        try:
            return port.json_loads(raw)
        except ValueError:
            event.decode_error = "the body is not JSON"
    return raw


def _make_raw_body(event: Event) -> bytes:
    body = event.body  # set by hand: a source always gives the bytes
    if body is None:
        return b""
    if isinstance(body, (bytes, bytearray, str)):
        return _bytes(body)
    return port.json_dumps(body).encode()


def _make_fields(event: Event) -> "dict[str, Any]":
    from .decode import fields

    try:
        return fields(event.content_type, event.raw_body)
    except ValueError as error:
        event.decode_error = str(error)
        return {}


def _make_timestamp(event: Event) -> "Any":
    return port.utc(event.timestamp_ms)


def _make_trigger(event: Event) -> TriggerInfo:
    return event._trigger.info if event._trigger else TriggerInfo()


def _make_source(event: Event) -> EventSource:
    trigger = event._trigger
    return EventSource(trigger.kind, trigger.source.name) if trigger else EventSource("", "")


def _make_id(event: Event) -> str:
    return port.boot + "-" + str(port.next_number())


def _none(event: Event) -> None:
    return None


def _empty(event: Event) -> str:
    return ""


def _zero(event: Event) -> int:
    return 0


Event._lazy = {
    "_attempt": _zero,
    "_reply": _none,
    "_token": _none,
    "_trigger": _none,
    "body": _make_body,
    "content_type": _empty,
    "decode_error": _none,
    "fields": _make_fields,
    "headers": lambda event: {},
    "id": _make_id,
    "last_in_batch": lambda event: False,
    "method": _empty,
    "num_shards": _zero,
    "offset": _zero,
    "path": lambda event: event.topic or "/",
    "raw_body": _make_raw_body,
    "shard_id": _zero,
    "size": lambda event: len(event.raw_body),
    "source": _make_source,
    "source_address": _empty,
    "source_identity": _empty,
    "timestamp": _make_timestamp,
    "timestamp_ms": lambda event: port.now_ms(),
    "topic": _empty,
    "trigger": _make_trigger,
    "type": _empty,
    "type_version": _empty,
    "url": _empty,
    "version": _empty,
}
