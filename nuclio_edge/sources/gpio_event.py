"""The Event of an edge, of an interval's count, or of what a button did."""

from __future__ import annotations

from nuclio_edge.core.event import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger


class GpioEvent(Event):
    """An event of one line for one function.

    `what` is "rising" or "falling", "count", or the press: "click", "double-click", "triple-click", "hold". `line` is
    the line's name, `pin` the pin as the manifest has it; `path` is the line's name. `value` is what the body says: the
    level after an edge (1 or 0), the number of edges in an interval, or the press. `timestamp_ns` is the kernel's stamp
    by the source's clock, `seqno` counts the edges of the request and `line_seqno` those of the line, as the kernel
    does: a gap are edges that it dropped. 0 for what has no edge of its own.
    """

    __slots__ = ("_names", "_numbers", "interval_ms", "line", "pin", "total", "value", "what")

    if TYPE_CHECKING:
        _names: tuple[str, str]
        _numbers: tuple[int, int, int]
        interval_ms: int
        line: str
        pin: str
        total: int
        value: Any
        what: str

    def __init__(
        self,
        trigger: Trigger | None,
        names: tuple[str, str],
        what: str,
        body: bytes,
        wall: int,
        numbers: tuple[int, int, int],
    ) -> None:
        self._trigger = trigger
        self._token = None
        self._names = names
        self.what = what
        self.raw_body = body
        self.timestamp_ms = wall
        self._numbers = numbers

    @property
    def edge(self) -> str:
        """Which edge: "rising" or "falling", else ""."""
        return self.what if self.what in ("rising", "falling") else ""

    @property
    def press(self) -> str:
        """What the button did, else ""."""
        return "" if self.what in ("rising", "falling", "count") else self.what

    @property
    def timestamp_ns(self) -> int:
        """The kernel's stamp of the edge."""
        return self._numbers[0]

    @property
    def seqno(self) -> int:
        """The edge's number in its request."""
        return self._numbers[1]

    @property
    def line_seqno(self) -> int:
        """The edge's number on its line."""
        return self._numbers[2]


def _content_type(event: GpioEvent) -> str:
    trigger = event._trigger
    said = trigger.spec.content_type if trigger is not None and trigger.spec is not None else None
    return said or "application/json"


def _value(event: GpioEvent) -> Any:
    what = event.what
    if what == "count":
        return int(event.raw_body)
    return 1 if what == "rising" else 0 if what == "falling" else what


def _fields(event: GpioEvent) -> dict[str, Any]:
    line, pin = event._names
    fields: dict[str, Any] = {"line": line, "pin": pin, "value": event.value}
    if event.what == "count":
        fields["interval_ms"] = event.interval_ms
        fields["total"] = event.total
        fields["rate"] = event.value * 1000 / event.interval_ms if event.interval_ms else 0.0
    else:
        fields["edge" if event.edge else "press"] = event.what
    return fields


GpioEvent._lazy = {
    **Event._lazy,
    "content_type": _content_type,
    "fields": _fields,
    "interval_ms": 0,
    "line": lambda event: event._names[0],
    "path": lambda event: event._names[0],
    "pin": lambda event: event._names[1],
    "source_address": lambda event: event.pin or event.line,
    "total": 0,
    "value": _value,
}


def made(trigger: Trigger, body: bytes, wall: int) -> GpioEvent:
    """An event as the trigger's line would have made it, for somebody who tries a function out.

    The body says what came ("0" a falling edge, a number of edges, a press), else it is what the trigger waits for.
    """
    address: Any = trigger.address
    names = (address.line or address.pin, address.pin or "")
    if address.count is not None:
        event = GpioEvent(trigger, names, "count", body or b"1", wall, (0, 0, 0))
        event.interval_ms = address.count
        event.total = event.value
        return event
    if address.press is not None:
        word = body.decode("utf-8", "replace").strip('" ') or address.press[0]
        return GpioEvent(trigger, names, word, b'"' + word.encode() + b'"', wall, (0, 0, 0))
    low = body.strip() == b"0" if body else address.edge == "falling"
    return GpioEvent(trigger, names, "falling" if low else "rising", b"0" if low else b"1", wall, (0, 0, 0))


def to_parts(event: GpioEvent) -> tuple[int, bytes, bytes]:
    """What `stored` keeps beside body and time: the line's name, its pin, what happened, and the numbers."""
    from nuclio_edge.core import msgpack  # here, as its library is loaded with it

    line, pin = event._names
    counted = (event.interval_ms, event.total) if event.what == "count" else ()
    return 0, line.encode(), msgpack.pack((pin, event.what, *event._numbers, *counted))


def from_parts(trigger: Trigger | None, _first: int, line: bytes, rest: bytes, body: bytes, wall: int) -> GpioEvent:
    """The event of what was kept of it."""
    from nuclio_edge.core import msgpack

    pin, what, stamp, seqno, line_seqno, *counted = msgpack.unpack(rest)
    event = GpioEvent(trigger, (line.decode(), pin), what, body, wall, (stamp, seqno, line_seqno))
    if counted:
        event.interval_ms, event.total = counted
    return event
