"""How events are stored of which no kind says how: by their public attributes; imported for the first of them.

Of an event with Event's own ways those that are set are kept. Of a class with others all attributes are asked for, and
kept where the event that comes back would not make the same itself. Values are MessagePack's, and what the SDK's events
hold: a tuple comes back as a list, what derives from str, bytes, list or dict as that, other values not at all. The
names of what comes back otherwise, or not, are kept too.
"""

from __future__ import annotations

from datetime import datetime

from nuclio_edge.core import event_sdk, msgpack
from nuclio_edge.core.event import Event, TriggerInfo
from nuclio_edge.core.event_sdk import EventSource
from nuclio_edge.core.port import slot
from nuclio_edge.url import Url

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger

# What the header keeps, and what belongs to a delivery.
_APART = {"raw_body", "id", "timestamp_ms", "monotonic_ms", "boot_id", "clock_quality"}
_FIRST = ("content_type", "topic")  # others are made of these


class OtherEvent(Event):
    """An event of another package's kind that came back: any attribute can be set."""

    _lazy = Event._lazy


_SET = [
    (name, slot(Event, name).__get__) for name in Event.__slots__ if not name.startswith("_") and name not in _APART
]


def to_parts(event: Event) -> tuple[int, bytes, bytes]:
    """The attributes of an event of any class."""
    if type(event) in (Event, OtherEvent):
        return set_parts(event)
    twin = _bare(event._trigger, event.raw_body, event.timestamp_ms)
    twin.id = event.id
    found: dict[str, Any] = {}
    failed: list[str] = []
    for name in sorted(_names(event), key=lambda name: (name not in _FIRST, name)):
        try:
            value = getattr(event, name)
        except Exception:  # noqa: BLE001 - the class is another package's
            failed.append(name)
            continue
        try:
            there = getattr(twin, name)
            same = type(there) is type(value) and bool(there == value)
        except Exception:  # noqa: BLE001 - as above: its values compare as they like
            same = False
        if not same and not _alike(value, twin, name):
            found[name] = value
            setattr(twin, name, value)  # it has a `__dict__`, and takes any name
    return 0, b"", _pack(event, found, failed)


def set_parts(event: Event, **own: Any) -> tuple[int, bytes, bytes]:
    """The attributes that are set, of an event that makes the others as Event does; `own`: those of its own slots."""
    found: dict[str, Any] = own
    for name, get in _SET:
        try:
            found[name] = get(event)
        except AttributeError:
            pass  # not set
    try:
        found.update(event._more)
    except AttributeError:
        pass
    found.update(vars(event) if type(event) is OtherEvent else ())
    trigger = event._trigger
    if trigger is not None and found.get("trigger") is trigger.info:
        del found["trigger"]
    return 0, b"", _pack(event, found, [])


def from_parts(trigger: Trigger | None, _first: int, _address: bytes, rest: bytes, body: bytes, wall: int) -> Event:
    """The event of what was kept of it."""
    event = _bare(trigger, body, wall)
    for name, value in attributes(rest).items():
        setattr(event, name, value)
    return event


def attributes(rest: bytes) -> dict[str, Any]:
    """What was kept, by name; ValueError, TypeError or KeyError when it is not that."""
    found: dict[str, Any] = {}
    for key, value in msgpack.unpack(rest)[0].items():
        name, _, made = key.partition(":")
        if name.isidentifier() and not name.startswith("_") and name not in _APART:
            found[name] = _BACK[made](value)
    return found


def changed(rest: bytes) -> list[str]:
    """The names of what could not be kept as it was."""
    return [str(name) for name in msgpack.unpack(rest)[1]]


def _bare(trigger: Trigger | None, body: bytes, wall: int) -> OtherEvent:
    event = OtherEvent.__new__(OtherEvent)
    event._trigger = trigger
    event._token = None
    event.raw_body = body
    event.timestamp_ms = wall
    return event


def _names(event: Event) -> set[str]:
    """Every public attribute that is no method."""
    names = {*Event.__slots__, *event_sdk._RARE, *event._lazy, *getattr(event, "__dict__", ())}
    for made in type(event).__mro__:
        slots = made.__dict__.get("__slots__", ())
        names.update((slots,) if isinstance(slots, str) else slots)
        names.update(name for name, value in vars(made).items() if isinstance(value, property))
    return {name for name in names if not name.startswith("_")} - _APART


def _form(value: Any) -> tuple[str, Any]:
    """How a value is kept: the mark behind its name, and a value of MessagePack's."""
    made = type(value)
    if made is datetime and value.tzinfo is None:
        return ":datetime", value.isoformat()
    if made is TriggerInfo:
        return ":TriggerInfo", [value.kind, value.name]
    if made is EventSource:
        return ":EventSource", [value.kind, value.name, value.klass, value.version, value.schema]
    if made is Url:
        return ":Url", str(value)
    return "", value


def _source(parts: list[str]) -> EventSource:
    source = EventSource(parts[0], parts[1])
    source.klass, source.version, source.schema = parts[2:]
    return source


_BACK: dict[str, Any] = {
    "": lambda value: value,
    "datetime": datetime.fromisoformat,
    "TriggerInfo": lambda parts: TriggerInfo(*parts),
    "EventSource": _source,
    "Url": Url,
}


def _alike(value: Any, twin: Event, name: str) -> bool:
    """Whether the twin has the same of what does not compare by its parts."""
    mark, form = _form(value)
    return mark in (":TriggerInfo", ":EventSource") and (mark, form) == _form(getattr(twin, name, None))


def _pack(event: Event, found: dict[str, Any], otherwise: list[str]) -> bytes:
    if not isinstance(event.id, (str, type(None))):
        otherwise.append("id")
    if not (isinstance(event.timestamp_ms, int) and 0 <= event.timestamp_ms < 1 << 48):
        otherwise.append("timestamp_ms")
    kept: dict[str, Any] = {}
    for name, value in found.items():
        mark, form = _form(value)
        try:
            again = msgpack.unpack(msgpack.pack(form))
        except (ValueError, TypeError, RecursionError):
            otherwise.append(name)
            continue
        kept[name + mark] = again
        if again != form:
            otherwise.append(name)
    return msgpack.pack((kept, otherwise))
