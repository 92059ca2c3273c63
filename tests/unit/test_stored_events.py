"""Events as bytes, and back: the law of `stored` for every kind, and what is told of bytes that are none."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nuclio_edge import clock
from nuclio_edge.core import coap_compose, port
from nuclio_edge.core.event import Event, TriggerInfo
from nuclio_edge.core.event_sdk import EventSource
from nuclio_edge.core.mqtt_properties import USER_PROPERTY, pack_properties
from nuclio_edge.delivery import stored as stored_module
from nuclio_edge.delivery.stored import HEADER, KINDS, Stored, UnreadableError, marked, pack
from nuclio_edge.delivery.stored_other import OtherEvent, _names
from nuclio_edge.sources.coap_event import CoapEvent
from nuclio_edge.sources.gpio_event import GpioEvent
from nuclio_edge.sources.http_event import http_event
from nuclio_edge.sources.memory import MemoryEvent
from nuclio_edge.sources.mqtt_event import mqtt_event
from nuclio_edge.sources.sensor import SensorEvent
from nuclio_edge.sources.serial import SerialEvent
from nuclio_edge.sources.timer import TimerEvent
from nuclio_edge.url import Url

METHODS = ("as_json", "to_json", "compile_explicit_ack_message")


def trigger_of(kind: str, content_type: str | None = None, **address: Any) -> Any:
    source = SimpleNamespace(
        kind=kind,
        name="here",
        url="mqtt://broker",
        content_type="text/csv",
        authority="gateway:5683",
        params=SimpleNamespace(device="/dev/ttyUSB0"),
    )
    return SimpleNamespace(
        kind=kind,
        name="named",
        info=TriggerInfo(kind, "named"),
        source=source,
        content_type=content_type or "text/csv",
        spec=SimpleNamespace(content_type=content_type),
        address=SimpleNamespace(**address),
    )


def again(event: Event, trigger: Any, *, repeated: bool = False) -> Event:
    return Stored(b"".join(pack(event, repeated))).event(trigger)


def seen(get: Any) -> Any:
    """What an attribute is, or which exception asking for it raises."""
    try:
        value = get()
    except Exception as error:  # noqa: BLE001 - the same one is expected of both
        return type(error), str(error)
    if isinstance(value, (TriggerInfo, EventSource)):
        return type(value), [getattr(value, name) for name in value.__slots__]
    return type(value), repr(value) if isinstance(value, float) else value


def everything(event: Event) -> dict[str, Any]:
    """Every public attribute and method result; `decode_error` last, as the others may set it."""
    names = sorted(_names(event), key=lambda name: (name == "decode_error", name))
    found = {name: seen(lambda name=name: getattr(event, name)) for name in names}
    found.update({name: seen(getattr(event, name)) for name in METHODS if name != "to_json"})
    for name in list(event.headers or {})[:3]:
        found[f"header {name}"] = seen(lambda name=name: event.get_header(name.upper()))
    found["repr"] = seen(lambda: repr(event))
    for name in ("id", "raw_body", "timestamp_ms", "_attempt"):
        found[name] = getattr(event, name)
    return found


def law(event: Event, trigger: Any) -> None:
    twin, original = again(event, trigger), everything(event)
    assert everything(twin) == original
    assert twin._token is None and type(twin) is type(event)
    assert everything(again(twin, trigger)) == original  # what has been read and made is stored the same


words = st.text(st.characters(codec="utf-8"))
bodies = st.binary() | st.sampled_from([b'{"t": 21.5}', b"a,b\n1,2", b"17", b"[1]", b""])
walls = st.integers(0, 1 << 45)
types = st.none() | st.sampled_from(["application/json", "text/csv", "application/msgpack", "text/plain"])


@given(types, st.integers(0, 15), words, st.lists(st.tuples(words, words)) | st.binary(), bodies, walls)
@example("application/json", 0x3B, "a/b", [("a", "b"), ("a", "c")], b"{}", 1)
def test_an_mqtt_event_comes_back(kind: str | None, first: int, topic: str, props: Any, body: bytes, wall: int) -> None:
    trigger = trigger_of("mqtt", kind)
    raw = props if isinstance(props, bytes) else pack_properties([(USER_PROPERTY, pair) for pair in props])
    law(mqtt_event(trigger, 3, 0x30 | first, topic.encode(), raw, body, wall), trigger)


options = st.lists(st.tuples(st.sampled_from([1, 3, 4, 5, 6, 7, 11, 12, 14, 15, 17, 60, 258, 2053]), words)).map(
    lambda found: [(number, text.encode()[:8]) for number, text in found]
)
senders = st.sampled_from([("192.0.2.1", 5683), ("::ffff:192.0.2.1", 5683, 0, 0), ("fe80::1", 61616, 0, 3)])


@given(types, st.integers(0, 255), options, senders, bodies, walls)
def test_a_coap_event_comes_back(
    kind: str | None, code: int, given_: list[tuple[int, bytes]], sender: Any, body: bytes, wall: int
) -> None:
    trigger = trigger_of("coap", kind)
    raw = coap_compose.pack_options(sorted(given_, key=lambda one: one[0]))
    law(CoapEvent(trigger, ("token",), code, raw, body, sender, wall), trigger)


names = st.sampled_from(["Content-Type", "cookie", "Cookie", "Host", "X-Test", "x-test", "CE-Id"])
values = st.sampled_from(["application/json", "a", "b=1", "text/csv", "\xff"])
targets = st.sampled_from(["/", "/a%20b?x=1&y=%C3%A4", "*", "http://other/x?q=1#f"])


@given(types, targets, st.lists(st.tuples(names, values)), bodies, walls, st.tuples(words, words))
def test_an_http_event_comes_back(
    kind: str | None, target: str, headers: list[tuple[str, str]], body: bytes, wall: int, who: tuple[str, str]
) -> None:
    trigger = trigger_of("http", kind)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    head = f"POST {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
    law(http_event(trigger, object(), head, body, (who[0], "https", who[1]), wall), trigger)


@pytest.mark.parametrize(
    "id_", ["1", "x" * 70_000, "0000abcd-17", "0000abcd-017", "0000abcd-99999999999", "\u2028ä"], ids=range(6)
)
def test_a_cloud_event_keeps_the_id_that_its_sender_gave_it(id_: str) -> None:
    trigger = trigger_of("http")
    head = (
        f"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nce-specversion: 1.0\r\nce-id: {id_}\r\n"
        "ce-source: urn:a\r\nce-type: b\r\nce-time: 2026-01-02T03:04:05Z\r\n\r\n"
    ).encode()
    event = http_event(trigger, None, head, b'{"t": 1}', ("", "http", ""), 5)
    law(event, trigger)
    assert event.id == id_


@given(
    words,
    words,
    st.sampled_from(["rising", "falling", "count", "click", "hold"]),
    walls,
    st.tuples(st.integers(0, 1 << 63), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1)),
    st.integers(0, 1 << 40),
)
def test_a_gpio_event_comes_back(
    line: str, pin: str, what: str, wall: int, numbers: tuple[int, int, int], total: int
) -> None:
    trigger = trigger_of("gpio")
    body = b"%d" % total if what == "count" else b"1" if what == "rising" else b'"click"'
    event = GpioEvent(trigger, (line, pin), what, body, wall, numbers)
    if what == "count":
        event.interval_ms, event.total = total >> 3, total
    law(event, trigger)


@given(types, bodies, walls)
def test_a_serial_event_comes_back(kind: str | None, body: bytes, wall: int) -> None:
    trigger = trigger_of("serial", kind)
    law(SerialEvent(trigger, body, wall), trigger)


@given(st.text(st.characters()), st.text(st.characters()), bodies, walls)
@example("/sys/\udcff", "\ud800\udc00", b"", 0)
def test_a_sensor_event_comes_back(path: str, name: str, body: bytes, wall: int) -> None:
    trigger = trigger_of("sensor")
    law(SensorEvent(trigger, path, name, body, wall), trigger)


@given(types, words, st.dictionaries(words, words), walls)
def test_a_timer_event_comes_back(kind: str | None, body: str, headers: dict[str, str], wall: int) -> None:
    trigger = trigger_of("timer", kind, body=body, headers=headers)
    law(TimerEvent(trigger, wall), trigger)


def test_a_tick_keeps_its_body_and_headers_when_the_manifest_changes() -> None:
    event = TimerEvent(trigger_of("timer", body="old", headers={"a": "1"}), 7)
    twin = again(event, trigger_of("timer", body="new", headers={}))
    assert (twin.raw_body, twin.headers) == (b"old", {"a": "1"})


plain = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | words
about = st.fixed_dictionaries(
    {},
    optional={
        "content_type": types,
        "headers": st.dictionaries(words, plain),
        "method": words,
        "topic": words,
        "body": st.recursive(plain | st.binary(), lambda inner: st.lists(inner) | st.dictionaries(words, inner)),
        "fields": st.dictionaries(words, plain),
        "timestamp": st.datetimes(),
        "timestamp_ms": walls,
        "id": words,
        "url": words.map(Url),
        "shard_id": st.integers(0, 9),
        "source": st.tuples(words, words).map(lambda two: EventSource(*two)),
        "trigger": st.tuples(words, words).map(lambda two: TriggerInfo(*two)),
    },
)


@given(words, bodies, about)
def test_a_memory_event_comes_back(path: str, body: bytes, more: dict[str, Any]) -> None:
    trigger = trigger_of("memory")
    law(MemoryEvent(trigger, print, path, body, more), trigger)


@given(
    st.none() | st.binary() | words | st.dictionaries(words, plain),
    about.filter(lambda more: not more.keys() & {"source", "timestamp_ms", "id"}),
)
def test_an_event_made_by_hand_comes_back(body: Any, more: dict[str, Any]) -> None:
    event = Event(body=body, **{name: value for name, value in more.items() if name != "body"})
    twin = again(event, None)
    twin.trigger = event.trigger  # of one without a Trigger it says only what kind is known
    assert everything(twin) == everything(event)


class BusEvent(Event):
    """As another package makes one: a slot, a property, an attribute of its own table, a source's default changed."""

    __slots__ = ("_frame", "celsius")

    _lazy = {  # noqa: RUF012 - the class's table, as Event has it
        **Event._lazy,
        "celsius": lambda event: event._frame[0] / 2,
        "content_type": "application/x-bus",
        "path": lambda event: f"/bus/{event._frame[1]}",
        "version": "2",
        "broken": lambda event: event.nothing_of_the_kind,
    }

    def __init__(self, trigger: Any, frame: tuple[int, int], body: bytes) -> None:
        self._trigger = trigger
        self._token = None
        self._frame = frame
        self.raw_body = body

    @property
    def address(self) -> int:
        return self._frame[1]


@given(st.tuples(st.integers(0, 255), st.integers(0, 255)), bodies)
def test_an_event_of_another_package_comes_back_by_its_public_attributes(frame: tuple[int, int], body: bytes) -> None:
    trigger = trigger_of("bus", "application/x-bus")
    event = BusEvent(trigger, frame, body)
    record = b"".join(pack(event))
    twin = Stored(record).event(trigger)
    expected = everything(event)
    expected.pop("broken")
    found = everything(twin)
    assert found == expected
    assert twin.address == frame[1] and twin.celsius == frame[0] / 2
    assert type(twin) is OtherEvent and Stored(record).changed == ["broken"] and Stored(record).kind == ""
    assert everything(again(twin, trigger)) == expected


def test_how_often_an_event_of_another_package_was_tried_comes_back() -> None:
    trigger = trigger_of("bus", "application/x-bus")
    event = BusEvent(trigger, (1, 2), b"x")
    event._attempt = 2
    twin = again(event, trigger)
    assert (event.attempt, twin.attempt, twin._attempt) == (3, 3, 2)


def test_what_cannot_be_kept_is_left_out_and_named() -> None:
    deep: list[Any] = []
    deep.append(deep)
    about = {"headers": {"a": object()}, "method": "PUT", "shard_id": 1 << 70, "body": (1, 2), "fields": {"x": deep}}
    event = MemoryEvent(trigger_of("memory"), None, "/", b"raw", about)
    event.timestamp_ms = "soon"  # type: ignore[assignment]  # whoever hands events in may
    stored = Stored(b"".join(pack(event)))
    assert sorted(stored.changed) == ["body", "fields", "headers", "shard_id", "timestamp_ms"]
    twin = stored.event(trigger_of("memory"))
    assert (twin.method, twin.headers, twin.body, twin.raw_body) == ("PUT", {}, [1, 2], b"raw")


def test_a_record_says_id_time_attempts_and_repetition_before_anything_is_decoded() -> None:
    event = mqtt_event(None, None, 0x32, b"a/b", b"", b"body", 1_700_000_000_000)
    event._attempt = 2
    record = b"".join(pack(event))
    stored = Stored(memoryview(record))
    assert (stored.kind, stored.id, stored.timestamp_ms, stored.attempt) == ("mqtt", event.id, 1_700_000_000_000, 2)
    assert (stored.repeated, stored.size, stored.body) == (False, 4, b"body")
    after = Stored(marked(record, 3))
    assert (after.repeated, after.attempt, after.id, after.body) == (True, 3, event.id, b"body")
    assert after.event(None)._attempt == 3
    assert not Stored(marked(marked(record, 3), 4, repeated=False)).repeated


def test_an_event_whose_answer_is_partly_out_has_no_further_attempt() -> None:
    event = mqtt_event(None, None, 0x32, b"a", b"", b"", 0)
    event._attempt = 1 << 30
    assert again(event, None)._attempt == 255


def test_the_body_is_not_copied_when_an_event_is_packed() -> None:
    body = bytes(1_000_000)
    assert pack(mqtt_event(None, None, 0x32, b"a", b"", body, 0))[1] is body


def test_an_mqtt_event_of_200_bytes_takes_less_than_60_more() -> None:
    topic, body = b"sensors/cellar/temperature", bytes(174)
    event = mqtt_event(None, None, 0x32, topic, b"", body, port.now_ms())
    record = b"".join(pack(event))
    # Where the clock is not kept right by NTP, as in many a container, the event's moment on the boot's clock is added.
    assert len(record) - 200 == 21 + (0 if Stored(record).clock_quality == "synced" else 10)


def test_packing_and_unpacking_take_microseconds() -> None:
    event = mqtt_event(trigger_of("mqtt"), None, 0x32, b"sensors/cellar/temperature", b"", bytes(174), port.now_ms())
    trigger = trigger_of("mqtt")
    best = 1e9
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(200):
            Stored(b"".join(pack(event))).event(trigger)
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 0.000_1  # 4.5 us on a PC: this is for a slip of an order of magnitude


RECORD = b"".join(pack(mqtt_event(None, None, 0x32, b"a/b", b"", b"body", 5)))


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (b"", "not an event: 0 bytes, where its header has 21"),
        (RECORD[:20], "not an event: 20 bytes"),
        (b"\x02" + RECORD[1:], "an event of version 2; this release reads version 1"),
        (RECORD[:1] + b"\xc8" + RECORD[2:], "an event of kind number 200, which this release does not know"),
        (RECORD[:22], "an event that is cut off"),
    ],
    ids=["nothing", "cut in the header", "version", "kind", "cut in the address"],
)
def test_what_is_no_event_of_this_release_is_told(record: bytes, told: str) -> None:
    with pytest.raises(UnreadableError, match=told):
        Stored(record)


@given(st.sampled_from(sorted(KINDS)), st.binary(min_size=HEADER.size - 2), st.booleans())
def test_any_bytes_are_an_event_or_unreadable(number: int, rest: bytes, small: bool) -> None:
    record = bytearray(b"\x01" + bytes((number,)) + rest)
    if small:  # lengths that may fit
        record[2] &= 0xFE
        record[6] = 0
        record[HEADER.size + 1 : HEADER.size + 4] = bytes(3)
        record[HEADER.size + 5 : HEADER.size + 8] = bytes(3)
    for trigger in (None, trigger_of(KINDS[number][0])):
        try:
            Stored(bytes(record)).event(trigger)
        except UnreadableError as error:
            told = str(error)
            assert told


def test_the_time_of_an_event_by_hand_is_kept() -> None:
    stamp = datetime(2026, 1, 2, 3, 4, 5, 6)  # noqa: DTZ001 - the SDK's are naive
    assert again(Event(timestamp=stamp), None).timestamp == stamp


@pytest.mark.parametrize("quality", ["unset", "set", "synced"])
@pytest.mark.parametrize("process", ["this", "another"])
def test_what_the_clock_was_worth_comes_back(
    quality: str, process: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(clock.CLOCK, "_quality", lambda now, lead: quality)
    clock.CLOCK.forget()
    event = mqtt_event(None, None, 0x32, b"a/b", b"", b"body", port.now_ms())
    before = clock.stamp(event)
    assert before[1] > 0 and before[3] == quality
    record = b"".join(pack(event))
    if process == "another":  # which has learnt another time in another boot
        monkeypatch.setattr(stored_module, "_OWN_BOOT", 0)
        monkeypatch.setattr(clock.CLOCK, "boot", "00000000")
        monkeypatch.setattr(clock.CLOCK, "_quality", lambda now, lead: "unset")
        clock.CLOCK.forget()
    twin = Stored(record).event(None)
    # Of what was synced the wall time says all that there is to know.
    wall = event.timestamp_ms
    assert clock.stamp(twin) == (before if process == "this" or quality != "synced" else (wall, -1, "", quality))
    assert Stored(record).clock_quality == quality
    clock.CLOCK.forget()


# As the first release wrote them: what is on a device's disk is read by every later one.
WRITTEN: dict[str, dict[str, Any]] = {
    "mqtt": {"topic": "sensors/cellar", "qos": 1, "retain": True, "headers": {"a": "b"}, "fields": {"t": 21.5}},
    "coap": {
        "method": "POST",
        "path": "/door",
        "content_type": "text/plain",
        "source_address": "192.0.2.1",
    },
    "http": {"method": "POST", "path": "/door", "headers": {"Host": "a", "X-Test": "b"}, "source_identity": "CN=a"},
    "gpio": {"edge": "rising", "line": "door", "pin": "GPIO17", "timestamp_ns": 1_700_000_000_004_000_000, "seqno": 7},
    "serial": {"raw_body": b"$GPGGA"},
    "sensor": {"topic": "28-1", "path": "/sys/bus/w1/devices/28-1/temperature", "fields": {"value": 21.5}},
    "timer": {"raw_body": b"tick", "headers": {"a": "1"}},
    "memory": {"path": "/door", "method": "PUT", "raw_body": b"17"},
    "other": {"body": b"17", "content_type": "text/plain", "timestamp": datetime(2026, 1, 2)},  # noqa: DTZ001 - as above
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_an_earlier_release_stored_is_read(kind: str) -> None:
    record = (Path(__file__).parents[1] / "data" / "stored" / kind).read_bytes()
    number = list(WRITTEN).index(kind)
    stored = Stored(record)
    assert (stored.id, stored.timestamp_ms) == (f"5d2c10af-{number}", 1_700_000_000_001 + number)
    assert stored.kind == (kind if kind != "other" else "")
    event = stored.event(None)
    assert clock.stamp(event) == (stored.timestamp_ms, 86_400_000 + number, "0badcafe", "set")
    assert {name: getattr(event, name) for name in WRITTEN[kind]} == WRITTEN[kind]
