"""How events cross to a worker process."""

from __future__ import annotations

import marshal
from datetime import datetime
from typing import Any

from nuclio_edge.core.event import Event
from nuclio_edge.sources.memory import MemoryEvent
from nuclio_edge.sources.mqtt_event import MqttEvent, mqtt_event
from nuclio_edge.workers.process_calls import state_of


def crossed(event: Event) -> Any:
    """The event as process_child makes it again."""
    name, state = marshal.loads(marshal.dumps(state_of(event)))
    module, _, made = name.partition(":")
    twin = getattr(__import__(module, fromlist=[made]), made)
    again = twin.__new__(twin)
    for key, value in state.items():
        setattr(again, key, value)
    return again


def test_an_mqtt_event_crosses_raw_and_is_decoded_over_there() -> None:
    event = mqtt_event(None, 7, 0x33, b"a/b", b"", b'{"t": 1}', 1_700_000_000_123)
    assert set(state_of(event)[1]) == {
        "_fields", "_first", "_topic", "_props", "content_type", "raw_body", "timestamp_ms", "id",
    }  # fmt: skip
    twin = crossed(event)
    assert type(twin) is MqttEvent
    assert (twin.topic, twin.qos, twin.retain, twin.raw_body) == ("a/b", 1, True, b'{"t": 1}')
    assert twin.timestamp_ms == 1_700_000_000_123 and twin.id == event.id and twin.get_field("t") == 1


class Text(str):
    __slots__ = ()


def test_what_cannot_travel_goes_as_what_it_derives_from_or_not_at_all() -> None:
    event = Event(body=b"x", url=Text("http://here"), timestamp=datetime(2026, 1, 2), headers={"a": object()})  # noqa: DTZ001 - the SDK's
    twin = crossed(event)
    assert twin.url == "http://here" and twin.body == b"x"
    assert twin.headers == {}


class Slotted(Event):
    """As another package may make one: slots named as Event's, its table Event's."""

    __slots__ = ("path", "topic")


class Fielded(Event):
    """With an attribute that has a name as one of MQTT's events."""

    __slots__ = ("_fields",)
    _lazy = {**Event._lazy, "_fields": lambda event: 7}  # noqa: RUF012 - the class's table, as Event has it


def test_what_a_class_keeps_in_slots_named_as_those_of_every_event_crosses() -> None:
    assert crossed(MemoryEvent(None, None, "/double", b"x", {})).path == "/double"
    event = Slotted(b"x")
    event.path, event.topic = "/a", "t"
    twin = crossed(event)
    assert type(twin) is Event and (twin.path, twin.topic, twin.raw_body) == ("/a", "t", b"x")


def test_only_events_without_getattr_have_over_there_what_is_not_sent_set_to_none() -> None:
    assert crossed(Fielded(b"x"))._fields == 7


def test_what_belongs_to_a_delivery_does_not_cross() -> None:
    for event in (Event(b"x"), MemoryEvent(None, None, "/", b"x", {}), mqtt_event(None, 7, 0x33, b"a", b"", b"", 1)):
        event._attempt = 2
        assert not {"_trigger", "_token", "_reply", "_attempt"} & set(state_of(event)[1])
