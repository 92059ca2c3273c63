"""An Event to and from the SDK's wire forms (JSON text, msgpack map with text or bytes keys); imported when asked for."""

from binascii import b2a_base64

from . import port
from .event import Event, TriggerInfo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_PUBLIC = (
    "body content_type trigger fields headers id method path size timestamp url shard_id num_shards type type_version"
    " version last_in_batch offset topic"
).split()
# What a wire map must have (facts of nuclio_sdk/event.py: every key but offset and topic is required).
_REQUIRED = (
    "content_type fields headers id method path size timestamp url shard_id num_shards type type_version version body"
).split()


def to_json(event: Event) -> str:
    """The public attributes as JSON text."""
    values = {name: getattr(event, name) for name in _PUBLIC}
    values["trigger"] = {"kind": event.trigger.kind, "name": event.trigger.name}
    if not isinstance(event.timestamp, int):
        values["timestamp"] = str(event.timestamp)
    if isinstance(event.body, (bytes, bytearray)):
        values["body"] = b2a_base64(event.body).decode().strip()
    values["last_in_batch"] = bool(event.last_in_batch)
    return port.json_dumps(values)


def explicit_ack(event: Event) -> "dict[str, Any]":
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
