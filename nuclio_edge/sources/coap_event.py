"""The Event of a CoAP request: the raw options and the body; everything else is made when it is asked for."""

from __future__ import annotations

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.event import Event
from nuclio_edge.sources.coap_formats import FORMATS, METHODS, type_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.url import Url

_TEXTS = {
    coap.URI_HOST: "Uri-Host",
    coap.PROXY_SCHEME: "Proxy-Scheme",
    coap.PROXY_URI: "Proxy-Uri",
}
_NUMBERS = {
    coap.URI_PORT: "Uri-Port",
    coap.OBSERVE: "Observe",
    coap.CONTENT_FORMAT: "Content-Format",
    coap.MAX_AGE: "Max-Age",
    coap.SIZE1: "Size1",
    coap.SIZE2: "Size2",
}
_BYTES = {coap.IF_MATCH: "If-Match", coap.ETAG: "ETag"}  # shown as hex digits, several joined by ", "
_SEEN = {coap.URI_PATH, coap.URI_QUERY, coap.BLOCK1, coap.BLOCK2, coap.ACCEPT}  # what other attributes say


class CoapEvent(Event):
    """A request, or a new value of an observed resource, for one function.

    Beside what every event has: `options`, (number, bytes) in order. `headers` are the options by name: Uri-Host,
    ETag, Content-Format … as text or numbers, opaque ones as hex digits, others by their number; "Content-Type" and
    "Accept" are content types, as with HTTP. Query arguments are `fields`, and win over the body's.
    """

    # _reply and timestamp_ms are Event's as well, behind properties: every request sets them, at 60 ns more there.
    __slots__ = ("_authority", "_code", "_options", "_reply", "_sender", "options", "timestamp_ms")

    if TYPE_CHECKING:
        _authority: str
        _code: int
        _options: bytes
        _reply: Any
        _sender: tuple[Any, ...]
        options: list[tuple[int, bytes]]
        timestamp_ms: int

    def __init__(
        self,
        trigger: Trigger | None,
        token: Any,
        code: int,
        options: bytes,
        body: bytes,
        sender: tuple[Any, ...],
        wall: int,
    ) -> None:
        self._trigger = trigger
        self._token = token
        self._code = code
        self._options = options
        self._sender = sender
        self._reply = None
        self.raw_body = body
        self.timestamp_ms = wall


def path_of(options: list[tuple[int, bytes]]) -> str:
    """The path that Uri-Path options spell; a slash within a segment stays apart as %2F. ValueError when not UTF-8."""
    return "/" + "/".join([
        value.decode().replace("/", "%2F") for number, value in options if number == coap.URI_PATH
    ])  # fmt: skip


def query_of(options: list[tuple[int, bytes]]) -> list[str]:
    """The Uri-Query options as text."""
    return [value.decode(errors="replace") for number, value in options if number == coap.URI_QUERY]


def address_of(host: str) -> str:
    """A peer's address as people write it: an IPv4 one that came over IPv6 as IPv4."""
    return host.removeprefix("::ffff:")


def _number(event: CoapEvent, wanted: int) -> int | None:
    for number, value in event.options:
        if number == wanted:
            return coap.number(value)
    return None


def _content_type(event: CoapEvent) -> str:
    said = _number(event, coap.CONTENT_FORMAT)
    if said is not None:
        return type_of(said)
    trigger = event._trigger
    return (trigger.spec.content_type if trigger is not None and trigger.spec is not None else None) or ""


def _headers(event: CoapEvent) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in event.options:
        if number in _TEXTS:
            found[_TEXTS[number]] = value.decode(errors="replace")
        elif number in _NUMBERS:
            found[_NUMBERS[number]] = coap.number(value)
        elif number in _BYTES:
            name = _BYTES[number]
            found[name] = f"{found[name]}, {value.hex()}" if name in found else value.hex()
        elif number == coap.IF_NONE_MATCH:
            found["If-None-Match"] = "*"
        elif number not in _SEEN:
            found[str(number)] = value.hex()
    if coap.CONTENT_FORMAT in [number for number, _ in event.options]:
        found["Content-Type"] = event.content_type
    accepted = _number(event, coap.ACCEPT)
    if accepted is not None:
        found["Accept"] = FORMATS.get(accepted, str(accepted))
    return found


def _fields(event: CoapEvent) -> dict[str, Any]:
    fields = Event._lazy["fields"](event)
    query = query_of(event.options)
    if query:
        fields = dict(fields)
        for argument in query:
            name, _, value = argument.partition("=")
            fields[name] = value
    return fields  # type: ignore[no-any-return]  # decode.fields makes a dict


def _url(event: CoapEvent) -> Url:
    from urllib.parse import quote

    from nuclio_edge.url import Url

    host = next((value.decode(errors="replace") for number, value in event.options if number == coap.URI_HOST), "")
    if host:
        port = _number(event, coap.URI_PORT)
        place = f"[{host}]" if ":" in host else host
        authority = f"{place}:{port}" if port else place
    else:
        trigger = event._trigger
        authority = trigger.source.authority if trigger is not None else ""
    query = "&".join(quote(argument, safe="!$'()*+,;=:@/?") for argument in query_of(event.options))
    path = quote(event.path or "/", safe="/!$()*+,;=:@%")
    return Url(f"coap://{authority}{path}{'?' * bool(query)}{query}")


CoapEvent._lazy = {
    **Event._lazy,
    "content_type": _content_type,
    "fields": _fields,
    "headers": _headers,
    "method": lambda event: METHODS.get(event._code, ""),
    "options": lambda event: coap.walk(event._options, 0)[0],
    "path": lambda event: path_of(event.options),
    "source_address": lambda event: address_of(event._sender[0]),
    "url": _url,
}


def to_parts(event: CoapEvent) -> tuple[int, bytes, bytes]:
    """What `stored` keeps beside body and time: the code, the raw options, the sender's address."""
    from nuclio_edge.core import msgpack  # here, as its library is loaded with it

    return event._code, event._options, msgpack.pack(event._sender)


def from_parts(trigger: Trigger | None, code: int, options: bytes, sender: bytes, body: bytes, wall: int) -> CoapEvent:
    """The event of what was kept of it."""
    from nuclio_edge.core import msgpack

    return CoapEvent(trigger, None, code, options, body, tuple(msgpack.unpack(sender)), wall)
