"""Events without `__getattr__`: what makes their attributes, and what a class that has it again may rely on."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any, ClassVar, Generic, TypeVar
from unittest import mock

import pytest

from nuclio_edge.core.event import Event
from nuclio_edge.core.inbox import Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.port import new_id, slot
from nuclio_edge.sources.memory import MemoryEvent
from nuclio_edge.sources.mqtt_event import MqttEvent, mqtt_event
from nuclio_edge.sources.mqtt_intake import Intake
from nuclio_edge.sources.mqtt_subscribe import Subscriptions

T = TypeVar("T")
LEAN = (Event, MqttEvent, MemoryEvent)


def own_slots_set(event: Any) -> list[str]:
    """The slots of the event's own class that hold something."""
    names = type(event).__slots__
    return [name for name in names if is_set(event, slot(type(event), name))]


def is_set(event: Any, descriptor: Any) -> bool:
    try:
        descriptor.__get__(event)
    except AttributeError:
        return False
    return True


@pytest.mark.parametrize("kind", LEAN)
def test_a_lean_class_is_asked_for_no_attribute_by_getattr(kind: type) -> None:
    assert not hasattr(kind, "__getattr__")


@pytest.mark.parametrize("props", [b"", b"\x03\x00\x03a/b", b"\x02\x00\x00\x00\x03", b"\x03\x00\x09cut"])
def test_every_own_slot_of_an_mqtt_event_is_set(props: bytes) -> None:
    event = mqtt_event(None, None, 0x30, b"a", props, b"", 1)
    assert own_slots_set(event) == list(MqttEvent.__slots__)


def test_a_content_type_is_read_when_the_event_is_made_and_a_broken_property_is_told() -> None:
    assert mqtt_event(None, None, 0x30, b"a", b"\x03\x00\x03a/b", b"", 1).content_type == "a/b"
    broken = mqtt_event(None, None, 0x30, b"a", b"\x03\x00\x09cut", b"", 1)
    assert (broken.content_type, "broken" in str(broken.decode_error)) == ("", True)
    assert mqtt_event(None, None, 0x30, b"a", b"\x02\x00\x00\x00\x03", b"", 1).message_expiry == 3


@pytest.mark.parametrize(
    ("url", "parts", "address"),
    [
        ("mqtt://10.0.0.2", ("mqtt", "10.0.0.2", 1883), "10.0.0.2:1883"),
        ("mqtts://broker:8884", ("mqtts", "broker", 8884), "broker:8884"),
        ("ws://[::1]/mqtt", ("ws", "::1", 80), "[::1]:80"),
        ("wss://broker/mqtt", ("wss", "broker", 443), "broker:443"),
    ],
)
def test_an_mqtt_event_tells_its_broker_by_a_url_with_parts_and_by_host_and_port(
    url: str, parts: tuple[str, str, int], address: str
) -> None:
    trigger: Any = SimpleNamespace(source=SimpleNamespace(url=url), content_type=None)
    event = mqtt_event(trigger, None, 0x30, b"a", b"", b"", 1)
    told: Any = event.url
    assert (told, (told.scheme, told.host, told.port)) == (url, parts)
    assert event.source_address == address
    alone = mqtt_event(None, None, 0x30, b"a", b"", b"", 1)
    assert (alone.url, alone.source_address) == ("", "")


@pytest.mark.parametrize("make", [
    lambda: mqtt_event(None, None, 0x30, b"a/b", b"", b'{"x": 1}', 1),
    lambda: MemoryEvent(None, None, "/p", b'{"x": 1}', {}),
    lambda: Event(b'{"x": 1}'),
])  # fmt: skip
def test_a_lean_event_makes_whatever_the_table_of_its_class_says(make: Any) -> None:
    for name, value in type(make())._lazy.items():
        if name not in ("trigger", "source"):  # of a trigger that these have not
            assert getattr(make(), name) is not value or not callable(value), name
    event = make()
    first = event.id
    assert event.id is first and event.get_field_string("no") == ""
    event.topic = "another"
    assert event.topic == "another" and event.attempt == 1
    event._attempt = 2
    assert event.attempt == 3
    with pytest.raises(AttributeError):
        _ = event.nothing_of_the_kind


def test_what_the_sdk_adds_is_there_before_anything_has_imported_it() -> None:
    code = """
import sys
from nuclio_edge.core.event import Event
from nuclio_edge.sources.mqtt_event import mqtt_event
event = mqtt_event(None, None, 0x30, b"a", b"", b"{}", 1)
assert "nuclio_edge.core.event_sdk" not in sys.modules
assert event.get_header_string("x") == "" and event.attempt == 1 and event.get_field_bytes("x") == b""
assert not isinstance(vars(Event)["get_header_string"], property)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Derived(MqttEvent):
    """As another package may derive one: a slot that its table makes, another that it sets."""

    __slots__ = ("_seen", "doubled")
    _lazy = {**MqttEvent._lazy, "doubled": lambda event: event._seen * 2, "loose": lambda event: 7}  # noqa: RUF012 - as Event has it


def test_a_class_derived_from_a_lean_one_is_asked_by_its_own_table() -> None:
    event: Any = Derived()
    event._seen = 4
    event._first, event._topic, event._props = 0x32, b"a", b""
    assert (event.doubled, event.qos, event.topic) == (8, 1, "a")
    with pytest.raises(AttributeError, match="nothing"):
        _ = event.nothing


def test_what_a_table_raises_reaches_whoever_asked() -> None:
    event = mqtt_event(None, None, 0x30, b"\xff", b"", b"", 1)
    with pytest.raises(UnicodeDecodeError) as caught:
        _ = event.topic
    assert caught.value.__context__ is None


def test_every_own_slot_is_set_of_an_event_that_came_the_quick_way() -> None:
    loop = Loop()
    intake = Intake(loop, len, print, print)
    source: Any = SimpleNamespace(kind="mqtt", name="broker", content_type=None)
    spec = SimpleNamespace(address=SimpleNamespace(topic="a", qos=1), content_type=None)
    trigger = Trigger(SimpleNamespace(name="f"), source, loop, spec=spec)
    seen: list[Any] = []
    trigger.submit = lambda event: seen.append(event) or True  # type: ignore[func-returns-value]  # it returns None
    intake.follow(Subscriptions([trigger], v5=False, numbered=False))
    for number in (0, 0, 1, 2):
        intake.on_publish(0x32 if number else 0x30, b"a", number, b"", b"x")
    loop.close()
    assert [own_slots_set(event) for event in seen] == [list(MqttEvent.__slots__)] * 4


def test_broken_properties_are_told_whether_or_not_one_of_them_was_asked_for() -> None:
    event = mqtt_event(None, None, 0x30, b"a", b"\x02\x00", b'{"x": 1}', 1)
    assert event.fields == {"x": 1}
    assert "properties are broken" in str(event.decode_error)
    assert mqtt_event(None, None, 0x30, b"a", b"\x02\x00\x00\x00\x03", b"", 1).decode_error is None


class Register(Event):
    """With a `__getattr__` of its own."""

    def __getattr__(self, name: str) -> Any:
        if name == "register":
            return 40001
        raise AttributeError(name)


class Modbus(Register):
    pass


def test_a_getattr_that_a_class_brings_is_inherited_and_what_every_event_has_is_made_all_the_same() -> None:
    event: Any = Modbus(b"x")
    del event.id
    assert (event.register, event.attempt, len(event.id) > 8) == (40001, 1, True)


class Tagged:
    """A class whose derived ones say something about themselves."""

    tags: ClassVar[list[str]] = []

    def __init_subclass__(cls, tag: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        Tagged.tags.append(tag)


class Kept(Event, Tagged, Generic[T], tag="kept"):
    _lazy = {**Event._lazy, "twice": lambda event: event.raw_body * 2}  # noqa: RUF012 - the class's table, as Event has it


def test_an_event_class_works_with_others_that_are_told_of_their_derived_classes() -> None:
    assert Tagged.tags == ["kept"]
    event: Any = Kept[int](b"x")
    assert event.twice == b"xx"


@pytest.mark.parametrize("kind", [Event, MqttEvent, Derived])
def test_a_test_may_replace_an_attribute_for_a_while_or_have_it_made_anew(kind: Any) -> None:
    event = kind.__new__(kind)
    if kind is not Event:
        event._first, event._topic, event._props = 0x30, b"a", b""
    event.raw_body = b"x"
    with mock.patch.object(event, "path", "/q"):
        assert event.path == "/q"
    assert event.path == ("a" if kind is not Event else "/")
    first = event.id
    del event.id
    assert event.id != first


class Numbered(Event):
    """With a slot of its own for an attribute that every event makes."""

    __slots__ = ("id",)


@pytest.mark.parametrize("kind", [Event, MqttEvent, Numbered])
def test_who_comes_too_late_to_name_an_event_gets_the_id_that_it_has(kind: Any) -> None:
    event = kind.__new__(kind)
    first = new_id(event)
    assert new_id(event) == first == event.id


def test_how_often_an_event_was_tried_is_not_set_but_told() -> None:
    event = MemoryEvent(None, None, "/p", b"", {})
    with pytest.raises(AttributeError):
        event.attempt = 3
    event._attempt = 2
    assert event.attempt == 3
