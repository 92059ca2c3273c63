"""The rest of the Event, imported when it is first asked for: the SDK's constructor and wire forms, accessors by type.

A microcontroller whose handlers do without spends nothing on it. Importing it completes the class Event.
"""

from . import port
from .event import Event, TriggerInfo
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

_PUBLIC = (
    "body content_type trigger fields headers id method path size timestamp url shard_id num_shards type type_version"
    " version last_in_batch offset topic"
).split()
# What a wire map must have (facts of nuclio_sdk/event.py: every key but offset and topic is required).
_REQUIRED = (
    "trigger content_type fields headers id method path size timestamp url shard_id num_shards type type_version"
    " version body"
).split()


class EventSource:
    """What the slides' GetEventSource tells: class, kind, version and schema of the source, and its name."""

    __slots__ = ("kind", "klass", "name", "schema", "version")

    def __init__(self, kind: str, name: str) -> None:
        self.klass = "edge"
        self.kind = kind
        self.name = name
        self.version = "1"
        self.schema = ""


def rest(event: Event, name: str) -> "Any":
    """An attribute or method that is not in the event's own table."""
    if name == "attempt":
        return event._attempt + 1
    if name in _RARE:
        value = _RARE[name]
        if callable(value):
            value = value(event)
        setattr(event, name, value)
        return value
    method = _METHODS.get(name)
    if method is None:
        raise AttributeError("an event has no attribute '" + name + "'")
    return lambda *args: method(event, *args)


def fill(
    event: Event,
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
    """Set the attributes of an event that is made by hand: the SDK's constructor and its defaults."""
    event._trigger = None
    event._token = None
    event.body = body
    event.raw_body = (
        b"" if body is None else _bytes(body) if isinstance(body, _PLAIN) else port.json_dumps(body).encode()
    )
    event.content_type = content_type
    event.trigger = trigger or TriggerInfo()
    event.fields = fields or {}
    event.headers = headers or {}
    event.id = _id
    event.method = method
    event.path = path or "/"
    event.size = size
    event.timestamp = timestamp or 0
    event.url = url
    event.shard_id = shard_id
    event.num_shards = num_shards
    event.type = _type
    event.type_version = type_version
    event.version = version
    event.last_in_batch = last_in_batch
    event.offset = offset or 0
    event.topic = topic


def get_header_string(event: Event, key: str) -> str:
    """The header as text; empty when there is none."""
    return _text(event.get_header(key))


def get_header_bytes(event: Event, key: str) -> bytes:
    """The header as bytes; empty when there is none."""
    return _bytes(event.get_header(key))


def get_field_string(event: Event, key: str) -> str:
    """The field as text; empty when there is none."""
    return _text(event.fields.get(key))


def get_field_bytes(event: Event, key: str) -> bytes:
    """The field as bytes; empty when there is none."""
    return _bytes(event.fields.get(key))


def get_field_int(event: Event, key: str) -> int:
    """The field as an int; ValueError when it is absent or none, as 1.5 and infinity are."""
    value: "Any" = event.fields.get(key)
    try:
        number = int(value)
        if number == value or not isinstance(value, float):
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError("field '" + key + "' is not an integer: " + repr(value))


def as_json(event: Event) -> bytes:
    """The event as JSON bytes (the slides' AsJson)."""
    return to_json(event).encode()


def to_json(event: Event) -> str:
    """The public attributes as JSON text."""
    values = {name: getattr(event, name) for name in _PUBLIC}
    values["trigger"] = {"kind": event.trigger.kind, "name": event.trigger.name}
    if not isinstance(event.timestamp, int):
        values["timestamp"] = str(event.timestamp)
    if isinstance(event.body, (bytes, bytearray)):
        from binascii import b2a_base64  # with zlib, which it may link to, 0.15 MB

        values["body"] = b2a_base64(event.body).decode().strip()
    values["last_in_batch"] = bool(event.last_in_batch)
    return port.json_dumps(values)


def compile_explicit_ack_message(event: Event) -> "dict[str, Any]":
    """The message by which a stream's event is acknowledged by hand."""
    return {
        "kind": "streamMessageAck",
        "attributes": {"topic": event.topic or event.path, "partition": event.shard_id, "offset": event.offset},
    }


def deserialize(data: "Any", kind: str) -> "Any":
    """An event from a wire form: `json` (text), `msgpack` (map, text keys) or `msgpack_raw` (map, bytes keys).

    A list gives a list of events. KeyError names the required key that is absent; ValueError an unknown kind.
    """
    kind = getattr(kind, "value", kind)
    if kind == "json" and isinstance(data, (str, bytes)):
        data = port.json_loads(data)
    if isinstance(data, list):
        return [deserialize(one, kind) for one in data]
    if kind not in ("json", "msgpack", "msgpack_raw"):
        raise ValueError("unknown kind of event: " + str(kind))
    if kind == "msgpack_raw":
        data = {_decode(key): value for key, value in data.items()}
    for name in _REQUIRED:
        if name not in data:
            raise KeyError(name)
    trigger = data.get("trigger") or {}
    if kind == "msgpack_raw":
        trigger = {_decode(key): _decode(value) for key, value in trigger.items()}
    content_type = _decode(data["content_type"])
    body = data["body"]
    if content_type == "application/json" and isinstance(body, (bytes, str)):
        try:
            body = port.json_loads(body)
        except ValueError:
            pass  # not JSON after all: it stays what it is, as in the SDK
    return Event(
        body=body,
        content_type=content_type,
        trigger=TriggerInfo(trigger.get("kind", ""), trigger.get("name", "")),
        fields=_decode(data["fields"]),
        headers=_decode(data["headers"]),
        _id=_decode(data["id"]),
        method=_decode(data["method"]),
        path=_decode(data["path"]),
        size=data["size"],
        timestamp=port.utc(data["timestamp"] * 1000) if isinstance(data["timestamp"], int) else data["timestamp"],
        url=_decode(data["url"]),
        shard_id=data["shard_id"],
        num_shards=data["num_shards"],
        _type=_decode(data["type"]),
        type_version=_decode(data["type_version"]),
        version=_decode(data["version"]),
        last_in_batch=data.get("last_in_batch", False),
        offset=data.get("offset", 0),
        topic=_decode(data.get("topic")),
    )


def _decode(value: "Any") -> "Any":
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {_decode(key): _decode(one) for key, one in value.items()}
    return value


def _text(value: "Any") -> str:
    if value is None:
        return ""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode()
    return value if isinstance(value, str) else str(value)


def _bytes(value: "Any") -> bytes:
    return bytes(value) if isinstance(value, (bytes, bytearray)) else _text(value).encode()


def _source(event: Event) -> EventSource:
    trigger = event._trigger
    return EventSource(trigger.kind, trigger.source.name) if trigger else EventSource("", "")


_PLAIN = (bytes, bytearray, str)
_RARE: "dict[str, Any]" = {
    "attempt": 1,  # see `rest`: it changes
    "duplicate": False,
    "last_in_batch": False,
    "num_shards": 0,
    "offset": 0,
    "shard_id": 0,
    "size": lambda event: len(event.raw_body),
    "source": _source,
    "source_address": "",
    "source_identity": "",
    "timestamp": lambda event: port.utc(event.timestamp_ms),
    "type": "",
    "type_version": "",
    "version": "",
}
_METHODS: "dict[str, Any]" = {
    "as_json": as_json,
    "compile_explicit_ack_message": compile_explicit_ack_message,
    "get_field_bytes": get_field_bytes,
    "get_field_int": get_field_int,
    "get_field_string": get_field_string,
    "get_header_bytes": get_header_bytes,
    "get_header_string": get_header_string,
    "to_json": to_json,
}
for _name in _METHODS:
    setattr(Event, _name, _METHODS[_name])
setattr(Event, "__repr__", to_json)  # noqa: B010 - as below
# By setattr, as the class does not declare what it has only from here on.
setattr(Event, "from_json", staticmethod(lambda data: deserialize(data, "json")))  # noqa: B010
setattr(Event, "from_msgpack", staticmethod(lambda data: deserialize(data, "msgpack")))  # noqa: B010
setattr(Event, "deserialize", staticmethod(lambda data, kind="msgpack_raw": deserialize(data, kind)))  # noqa: B010
