"""The Event of an HTTP request: head and body as they came, everything else made when it is asked for."""

from __future__ import annotations

from nuclio_edge.core.event import Event
from nuclio_edge.sources.http_head import headers, may_be_cloud

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger

_FIELDS: Any = Event._lazy["fields"]
_BODY: Any = Event._lazy["body"]
_ID: Any = Event._lazy["id"]


class HttpEvent(Event):
    """A request. Of a header that comes several times the values are joined by commas, of Cookie by semicolons.

    `fields` are the query's arguments over those of the body. A CloudEvent (1.0, structured or binary) is its data:
    `id`, `type`, `source`, `timestamp`, `content_type` and `body` are the CloudEvent's, its attributes are headers that
    begin with `ce-` in both modes.
    """

    # The last two are Event's as well, behind properties: every request sets them, and 60 ns a time are to be had.
    __slots__ = ("_cloud", "_head", "_origin", "_reply", "timestamp_ms")

    if TYPE_CHECKING:
        _cloud: dict[str, Any] | None
        _head: bytes
        _origin: tuple[str, str, str]
        _reply: Any
        timestamp_ms: int

    # Made empty, without a call of Python code (150 ns against 300), and filled by `http_event` or the source.
    __init__ = object.__init__


def http_event(
    trigger: Trigger | None, token: Any, head: bytes, body: bytes, origin: tuple[str, str, str], wall: int
) -> HttpEvent:
    """The event of a request that came at `wall`; the source's inner loop spells it out."""
    event: HttpEvent = HttpEvent()
    event._trigger = trigger
    event._token = token
    event._reply = None
    event._head = head
    event.raw_body = body
    event._origin = origin
    event.timestamp_ms = wall
    return event


def make_head(method: str, target: str, headers: dict[str, str]) -> bytes:
    """The head that a request by hand would have; what a target cannot hold is percent-encoded."""
    kept = "!$&'()*+,-./:;=?@_~%"
    safe = "".join(
        char if char.isascii() and (char.isalnum() or char in kept) else "".join(f"%{b:02X}" for b in char.encode())
        for char in target
    )
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"Host": "localhost", **headers}.items())
    return f"{method} {safe} HTTP/1.1\r\n{lines}\r\n".encode()


def _target(event: HttpEvent) -> bytes:
    return event._head[: event._head.index(b"\r")].split(b" ")[1]


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except ValueError:
        return raw.decode("latin-1")


def _own_headers(event: HttpEvent) -> dict[str, Any]:
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for raw_name, raw_value in headers(event._head):
        name, value = _text(raw_name), _text(raw_value)
        low = name.lower()
        if low in names:
            found[names[low]] += ("; " if low == "cookie" else ", ") + value
        else:
            names[low] = name
            found[name] = value
    return found


def _headers(event: HttpEvent) -> dict[str, Any]:
    found = _own_headers(event)
    if event._cloud is not None:
        from nuclio_edge.sources.http_cloudevents import as_headers

        found = as_headers(found, event._cloud)
    return found


def _cloud(event: HttpEvent) -> dict[str, Any] | None:
    if not may_be_cloud(event._head.lower()):
        return None
    from nuclio_edge.sources.http_cloudevents import read

    cloud, wrong = read(_own_headers(event), event.raw_body)
    if wrong is not None:
        event.decode_error = wrong
    return cloud


def _content_type(event: HttpEvent) -> str:
    if event._cloud is not None:
        said = event._cloud.get("datacontenttype")
        if said is not None:
            return str(said)
    said = event.get_header("Content-Type")
    if said is None and event._trigger is not None and event._trigger.spec is not None:
        said = event._trigger.spec.content_type
    return said or ""


def _path(event: HttpEvent) -> str:
    from nuclio_edge.core.decode_text import unquoted

    path = _target(event).partition(b"?")[0]
    if path[:1] not in (b"/", b"*"):
        path = _url(event).path.encode()
    return unquoted(path, False)


def _url(event: HttpEvent) -> Any:
    from nuclio_edge.url import Url

    target = _target(event).decode("ascii")
    if target[:1] not in ("/", "*"):
        return Url(target)
    host = ""
    for name, value in headers(event._head):
        if name.lower() == b"host":
            host = _text(value)
    return Url(f"{event._origin[1]}://{host}{target if target != '*' else ''}")


def _fields(event: HttpEvent) -> dict[str, Any]:
    found: dict[str, Any]
    cloud = event._cloud
    if cloud is not None and "data" in cloud:
        data = cloud["data"]
        found = data if isinstance(data, dict) else {"value": data}
    else:
        found = _FIELDS(event)
    query = _target(event).partition(b"?")[2].partition(b"#")[0]
    if query:
        from nuclio_edge.core.decode_text import form

        try:
            found = {**found, **form(query)}
        except ValueError as error:
            event.decode_error = str(error)
    return found


def _body(event: HttpEvent) -> Any:
    cloud = event._cloud
    return cloud["data"] if cloud is not None and "data" in cloud else _BODY(event)


def _attribute(name: str, otherwise: Any = "") -> Any:
    def get(event: HttpEvent) -> Any:
        cloud = event._cloud
        return cloud.get(name, otherwise) if cloud is not None else otherwise

    return get


def _id(event: HttpEvent) -> str:
    cloud = event._cloud
    return str(cloud["id"]) if cloud is not None else _ID(event)


def _source(event: HttpEvent) -> Any:
    from nuclio_edge.core.event_sdk import EventSource

    trigger = event._trigger
    made = EventSource(trigger.kind, trigger.source.name) if trigger is not None else EventSource("http", "")
    cloud = event._cloud
    if cloud is not None:
        made.klass = "cloudevents"
        made.name = cloud["source"]
        made.version = cloud["specversion"]
        made.schema = cloud.get("dataschema", "")
    return made


def _timestamp(event: HttpEvent) -> Any:
    from nuclio_edge.core import port

    cloud = event._cloud
    if cloud is not None and "time" in cloud:
        from nuclio_edge.sources.http_cloudevents import instant

        at = instant(str(cloud["time"]))
        if at is not None:
            return port.utc(at)
    return port.utc(event.timestamp_ms)


HttpEvent._lazy = {
    **Event._lazy,
    "_cloud": _cloud,
    "body": _body,
    "content_type": _content_type,
    "fields": _fields,
    "headers": _headers,
    "id": _id,
    "method": lambda event: event._head[: event._head.index(b" ")].decode("ascii"),
    "path": _path,
    "source": _source,
    "source_address": lambda event: event._origin[0],
    "source_identity": lambda event: event._origin[2],
    "timestamp": _timestamp,
    "type": _attribute("type"),
    "url": _url,
    "version": _attribute("specversion"),
}


def to_parts(event: HttpEvent) -> tuple[int, bytes, bytes]:
    """What `stored` keeps beside body and time: the request's head as it came, and whom it came from."""
    from nuclio_edge.core import msgpack  # here, as its library is loaded with it

    return 0, event._head, msgpack.pack(event._origin)


def from_parts(trigger: Trigger | None, _first: int, head: bytes, origin: bytes, body: bytes, wall: int) -> HttpEvent:
    """The event of what was kept of it."""
    from nuclio_edge.core import msgpack

    address, scheme, identity = msgpack.unpack(origin)
    return http_event(trigger, None, head, body, (address, scheme, identity), wall)
