"""Events as bytes, and back: what the spool and the recorder keep of an event of any kind.

A record is a header of 21 bytes, the event's id where it is not one of ours, the raw address (topic, path), what else
the kind needs, and the raw body. Which raw parts those are, each kind says beside its Event: `to_parts(event)` and
`from_parts(trigger, …)` in the modules of `KINDS`. Nothing is decoded before it is asked for, neither here nor in the
event that comes back. Law: every public attribute of that event is the original's, given the same trigger; what cannot
be kept so of an event of other people's kinds is named in `changed`. It has no token: nobody waits for it any more.

Little-endian: version u8, kind u8, flags u8, the kind's own byte u8, attempt u8, length of the address u16, time stamp
u16 + u32 (higher and lower part of milliseconds since 1970), id u32 + u32 (boot nonce and number; with TEXT_ID the
length of its text, and the nonce). With MORE there follow the length of the address u32 (the one above is 0) and that
of the kind's rest u32; with MOMENT, where the clock was not synced, the same time on the clock of that boot, u16 + u32,
and the kernel's boot id u32. Then id text, address, rest; the body goes on to the end.
"""

from __future__ import annotations

import sys
from struct import Struct

from nuclio_edge import clock
from nuclio_edge.clock import SET, SYNCED, UNSET
from nuclio_edge.core import port
from nuclio_edge.errors import EdgeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger

VERSION = 1
HEADER = Struct("<BBBBBHHIII")
_SIZES = Struct("<II")  # of address and rest, with MORE
_MOMENT = Struct("<HII")  # of an event whose time was not sure
TEXT_ID = 1  # the id has not the form that ours have
NO_ID = 2  # it is None
REPEATED = 4  # the event may have been handled before
MORE = 8
MOMENT = 16
_QUALITY = 5  # the two bits from here on say what the wall clock was worth
_QUALITIES = ("", UNSET, SET, SYNCED)
MOST_ATTEMPTS = 0xFF
_MOST_MS = 1 << 48  # the year 10889

OTHER = 0
# The kind's number -> (kind, the module and class of its event). Numbers are on disk: none is ever used again.
KINDS = {
    OTHER: ("", "nuclio_edge.delivery.stored_other:OtherEvent"),
    1: ("mqtt", "nuclio_edge.sources.mqtt_event:MqttEvent"),
    2: ("coap", "nuclio_edge.sources.coap_event:CoapEvent"),
    3: ("http", "nuclio_edge.sources.http_event:HttpEvent"),
    4: ("gpio", "nuclio_edge.sources.gpio_event:GpioEvent"),
    5: ("serial", "nuclio_edge.sources.serial:SerialEvent"),
    6: ("sensor", "nuclio_edge.sources.sensor:SensorEvent"),
    7: ("timer", "nuclio_edge.sources.timer:TimerEvent"),
    8: ("memory", "nuclio_edge.sources.memory:MemoryEvent"),
}
_LOOSE = (OTHER, 8)  # whoever makes such an event may set any attribute to anything
_OWN_BOOT = int(port.boot, 16)
_packers: dict[type, tuple[int, Any]] = {}  # class of event -> (number of its kind, its to_parts)
_makers: dict[int, Any] = {}  # number of a kind -> its from_parts


class UnreadableError(EdgeError, ValueError):
    """A record that is no event of a version and kind known here, or is cut off."""


def pack(event: Event, repeated: bool = False) -> tuple[bytes, bytes]:
    """The two parts of an event's record: all that stands before the body, and the body, which is not copied.

    The event's id is made if it has none yet. To be called before a handler has the event: what one changes in an
    event of our kinds is not kept. Never raises for an event of our kinds; any thread, one at a time for one event.
    """
    made = type(event)
    try:
        number, to_parts = _packers[made]
    except KeyError:
        number, to_parts = _packer(made)
    first, address, rest = to_parts(event)
    flags = REPEATED if repeated else 0
    boot = count = 0
    text = b""
    id_ = event.id
    if id_ is None:
        flags |= NO_ID
    else:
        try:
            boot, count = int(id_[:8], 16), int(id_[9:])
            own = count < 1 << 32 and f"{boot:08x}-{count}" == id_
        except (TypeError, ValueError):
            own = False
        if not own:
            flags |= TEXT_ID
            text = str(id_).encode("utf-8", "surrogatepass")
            boot, count = len(text), _OWN_BOOT
    attempt = min(event._attempt, MOST_ATTEMPTS)  # more when parts of an answer are out: there is no further attempt
    wall = event.timestamp_ms
    if number in _LOOSE and not (isinstance(wall, int) and 0 <= wall < _MOST_MS):
        wall = 0
    more = b""
    size = len(address)
    if rest or size > 0xFFFF:
        flags |= MORE
        more = _SIZES.pack(size, len(rest))
        size = 0
    if wall:
        _, mono, kernel, quality = clock.stamp(event)
        flags |= _QUALITIES.index(quality) << _QUALITY
        if quality != SYNCED and mono >= 0:
            flags |= MOMENT
            more += _MOMENT.pack(mono >> 32, mono & 0xFFFFFFFF, int(kernel, 16))
    head = HEADER.pack(VERSION, number, flags, first, attempt, size, wall >> 32, wall & 0xFFFFFFFF, boot, count)
    return b"".join((head, more, text, address, rest)), event.raw_body


def marked(record: bytes, attempt: int, repeated: bool = True) -> bytes:
    """The record with another number of attempts behind it, and whether the event may have been handled before."""
    flags = record[2] & ~REPEATED | (REPEATED if repeated else 0)
    return b"".join((record[:2], bytes((flags, record[3], min(attempt, MOST_ATTEMPTS))), record[5:]))


class Stored:
    """A record that has been looked at, and no more: the event is made by `event`.

    `record` is kept as it is given; a memoryview must stay valid as long as this does. UnreadableError for what is no
    record. `kind` is "" for other people's; `attempt` counts those that have failed; `timestamp_ms` is the event's.
    """

    __slots__ = (
        "_address_at", "_body_at", "_boot", "_count", "_first", "_flags", "_moment", "_number", "_record", "_rest_at",
        "_text_at", "attempt", "timestamp_ms",
    )  # fmt: skip

    if TYPE_CHECKING:
        _address_at: int
        _boot: int
        _flags: int
        _rest_at: int
        _text_at: int
        attempt: int
        timestamp_ms: int

    def __init__(self, record: Any) -> None:
        self._record = record
        length = len(record)
        at = HEADER.size
        if length < at:
            raise UnreadableError(f"not an event: {length} bytes, where its header has {at}")
        version, self._number, flags, self._first, self.attempt, size, high, low, self._boot, self._count = (
            HEADER.unpack_from(record)
        )
        if version != VERSION:
            raise UnreadableError(f"an event of version {version}; this release reads version {VERSION}")
        if self._number not in KINDS:
            raise UnreadableError(f"an event of kind number {self._number}, which this release does not know")
        self._flags = flags
        self.timestamp_ms = high << 32 | low
        rest = 0
        self._moment: Any = None
        if flags & (MORE | MOMENT):
            after = at + (_SIZES.size if flags & MORE else 0) + (_MOMENT.size if flags & MOMENT else 0)
            if after > length:
                raise UnreadableError("an event that is cut off")
            if flags & MORE:
                size, rest = _SIZES.unpack_from(record, at)
            if flags & MOMENT:
                self._moment = _MOMENT.unpack_from(record, after - _MOMENT.size)
            at = after
        self._text_at = at
        self._address_at = at + (self._boot if flags & TEXT_ID else 0)
        self._rest_at = self._address_at + size
        self._body_at = self._rest_at + rest
        if self._body_at > length:
            raise UnreadableError("an event that is cut off")

    @property
    def kind(self) -> str:
        """The kind of source that it came from."""
        return KINDS[self._number][0]

    @property
    def repeated(self) -> bool:
        """Whether it may have been handled before."""
        return self._flags & REPEATED != 0

    @property
    def id(self) -> str | None:
        """The event's id, for ever."""
        if self._flags & NO_ID:
            return None
        if self._flags & TEXT_ID:
            return bytes(self._record[self._text_at : self._address_at]).decode("utf-8", "surrogatepass")
        return f"{self._boot:08x}-{self._count}"

    @property
    def clock_quality(self) -> str:
        """What the wall clock was worth when the event came: "unset", "set" or "synced"; "" when nobody can say."""
        return _QUALITIES[self._flags >> _QUALITY & 3]

    @property
    def size(self) -> int:
        """Bytes of the body."""
        return len(self._record) - self._body_at

    @property
    def body(self) -> bytes:
        """The raw body, a copy."""
        return bytes(self._record[self._body_at :])

    @property
    def changed(self) -> list[str]:
        """The attributes that could not be kept as they were, of an event that is not of our kinds."""
        if self._number not in _LOOSE:
            return []
        from nuclio_edge.delivery.stored_other import changed

        return changed(bytes(self._record[self._rest_at : self._body_at]))

    def event(self, trigger: Trigger | None) -> Event:
        """The event once more, for this trigger (None: only to look at it). UnreadableError if its parts are broken."""
        maker = _makers.get(self._number)
        if maker is None:
            maker = _makers[self._number] = _module(self._number).from_parts
        record, rest_at, body_at = self._record, self._rest_at, self._body_at
        address, rest, body = record[self._address_at : rest_at], record[rest_at:body_at], record[body_at:]
        if type(record) is not bytes:
            address, rest, body = bytes(address), bytes(rest), bytes(body)
        try:
            event: Event = maker(trigger, self._first, address, rest, body, self.timestamp_ms)
            event.id = self.id
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise UnreadableError(f"a broken event of kind {self.kind or 'another package'}: {error}") from None
        event._attempt = self.attempt
        # What was synced needs no moment: what the boot clock of this process was at that time is worked out again.
        boot = self._count if self._flags & TEXT_ID else self._boot
        if self._moment is not None:
            high, low, kernel = self._moment
            clock.keep(event, self.timestamp_ms, high << 32 | low, f"{kernel:08x}", self.clock_quality)
        elif boot != _OWN_BOOT and self._flags >> _QUALITY:
            clock.keep(event, self.timestamp_ms, -1, "", self.clock_quality)
        if trigger is None:
            from nuclio_edge.core.event import TriggerInfo

            event.trigger = TriggerInfo(self.kind, "")
        return event


def _packer(made: type) -> tuple[int, Any]:
    address = f"{made.__module__}:{made.__qualname__}"
    number = next((number for number, (_, where) in KINDS.items() if where == address), OTHER)
    _packers[made] = found = number, _module(number).to_parts
    return found


def _module(number: int) -> Any:
    module = KINDS[number][1].partition(":")[0]
    __import__(module)
    return sys.modules[module]
