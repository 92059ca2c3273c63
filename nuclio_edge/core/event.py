"""The common Event: one shape for what every source brings in, each attribute made when it is first asked for.

An attribute that nobody set is missing, so `__getattr__` is called, makes it by the class's table `_lazy` (a value, or
a function of the event) and keeps it; on CPython properties call it, see port_cpython_event.py. A source kind derives
a class whose `__init__` stores only what it has at hand and whose table knows how to make the rest: an event whose
handler reads nothing costs little more than its allocation (0.5 us against 1.4 us for an eager one).
"""

from . import port
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
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


class Event:
    """An event as a handler sees it: every attribute of Nuclio's SDK and every accessor of the slides' interface.

    Made by a source, or by hand as with the SDK (all arguments optional). `body` is bytes, or the parsed value when the
    content type is exactly application/json (the SDK's rule; text that does not parse stays bytes); `raw_body` is
    always bytes. `fields` are what the body says by its content type, or by sniffing without one; {} when it says
    nothing, with the reason in `decode_error`. `timestamp` is a naive UTC datetime, `timestamp_ms` the same as an int.
    Attributes may be set; an event belongs to the one handler that it was made for.
    """

    # Slots for what sources set and most handlers read; the rest is `port.aside`. With a slot for every attribute an
    # event takes 352 bytes instead of 200, and a twentieth more of all the time that one costs to make and to free.
    __slots__ = port.slots(
        "_attempt _more _reply _token _trigger body content_type fields headers id method path raw_body"
        " timestamp_ms topic trigger"
    )

    if TYPE_CHECKING:
        _attempt: int
        _reply: "Response | None"
        _token: "Any"
        _trigger: "Trigger | None"
        body: "Any"
        boot_id: str  # this one, clock_quality and monotonic_ms where nuclio_edge.clock is loaded
        clock_quality: str
        content_type: "str | None"
        decode_error: "str | None"
        fields: "dict[str, Any]"
        headers: "dict[str, Any]"
        id: "str | None"
        attempt: int
        duplicate: bool
        last_in_batch: bool
        method: "str | None"
        monotonic_ms: int
        num_shards: "int | None"
        offset: int
        path: "str | None"
        raw_body: bytes
        shard_id: "int | None"
        size: "int | None"
        source: "Any"
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
        # Methods of event_sdk, which the first use imports:
        as_json: "Callable[[], bytes]"
        compile_explicit_ack_message: "Callable[[], dict[str, Any]]"
        get_field_bytes: "Callable[[str], bytes]"
        get_field_int: "Callable[[str], int]"
        get_field_string: "Callable[[str], str]"
        get_header_bytes: "Callable[[str], bytes]"
        get_header_string: "Callable[[str], str]"
        to_json: "Callable[[], str]"

    _lazy: "dict[str, Any]" = {}  # noqa: RUF012 - ClassVar is typing's; attribute -> its value, or what makes it of the event

    def __init__(self, body: "Any" = None, content_type: "str | None" = None, **about: "Any") -> None:
        from .event_sdk import fill

        fill(self, body, content_type, **about)

    def __getattr__(self, name: str) -> "Any":
        lazy = self._lazy
        if name not in lazy:  # no KeyError: whoever asks for what there is not would be shown it first
            from .event_sdk import rest

            return rest(self, name)
        value = lazy[name]
        if callable(value):
            value = value(self)
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

    def get_field(self, key: str, default: "Any" = None) -> "Any":
        """The field of that name decoded from query and body, or `default`."""
        return self.fields.get(key, default)


port.aside(
    Event,
    "decode_error duplicate last_in_batch num_shards offset shard_id size source source_address source_identity"
    " timestamp type type_version url version",
)


def _make_body(event: Event) -> "Any":
    raw = event.raw_body
    if event.content_type == "application/json":
        try:
            return port.json_loads(raw)
        except ValueError:
            event.decode_error = "the body is not JSON"
    return raw


_DECODER: "list[Any]" = []  # decode.fields, once somebody asks for a field


def _make_fields(event: Event) -> "dict[str, Any]":
    if not _DECODER:
        from .decode import fields

        _DECODER.append(fields)
    try:
        return _DECODER[0](event.content_type, event.raw_body)  # type: ignore[no-any-return]  # it is decode.fields
    except ValueError as error:
        event.decode_error = str(error)
        return {}


Event._lazy = {
    "_attempt": 0,
    "_reply": None,
    "_token": None,
    "_trigger": None,
    "body": _make_body,
    "content_type": "",
    "decode_error": None,
    "fields": _make_fields,
    "headers": lambda event: {},
    "id": port.new_id,
    "method": "",
    "path": lambda event: event.topic or "/",
    "timestamp_ms": lambda event: port.now_ms(),
    "topic": "",
    "trigger": lambda event: event._trigger.info,
    "url": "",
}
port.on_demand(Event)
