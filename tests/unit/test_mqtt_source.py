"""The MQTT source against a broker that does what it is told: events, acknowledgements, pushing back."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sources import mqtt_connection
from nuclio_edge.sources.mqtt_subscribe import COPY_MS
from tests.fake_broker import FakeBroker, Peer
from tests.mqtt_packets import publish
from tests.mqtt_rig import Function, Inbox, Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LIMIT = 30


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker that the test plays."""
    with FakeBroker() as made:
        yield made


@pytest.fixture(params=["fast", "stock"])
def rig(request: pytest.FixtureRequest, broker: FakeBroker, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Make a rig on the broker, reading by the fast path and by stock paho."""
    made: list[Rig] = []

    def make(**params: Any) -> Rig:
        made.append(Rig(broker.url, tmp_path, fast=request.param == "fast", **params))
        return made[-1]

    yield make
    for one in made:
        one.close()


def opened(rig: Rig, broker: FakeBroker, asks: int = 1, **connack: Any) -> Peer:
    """Open a rig at the broker, which it asks for its subscriptions in so many packets."""
    rig.open()
    peer = broker.accept()
    peer.handshake(subscribes=bool(rig.inboxes), **connack)
    for _ in range(1, asks):
        peer.suback(peer.expect("SUBSCRIBE"))
    rig.wait_open()
    return peer


def later(rig: Rig) -> None:
    """Let so much time pass that what comes now does not come together with what came before."""
    over: threading.Event = threading.Event()
    rig.do(lambda: rig.loop.call_later(COPY_MS + 1, over.set))
    assert over.wait(LIMIT)


def take(inbox: Inbox) -> Any:
    """The next event."""
    return inbox.taken.get(timeout=LIMIT)


@pytest.mark.parametrize("version", [3, 5])
def test_a_message_becomes_an_event_with_all_that_mqtt_tells(rig: Any, broker: FakeBroker, version: int) -> None:
    one = rig(version=version)
    inbox = one.subscribe("a/+", 1)
    peer = opened(one, broker)
    peer.publish("a/b", b"hello", retain=True)
    event = take(inbox)
    assert (event.topic, event.path, event.body, event.url) == ("a/b", "a/b", b"hello", broker.url)
    assert (event.qos, event.retain, event.duplicate, event.method, event.content_type) == (0, True, False, "", "")
    assert (event.trigger.kind, event.trigger.name, event.size) == ("mqtt", "broker", 5)
    assert event.timestamp_ms > 1_600_000_000_000
    peer.publish("a/c", b'{"t": 1}', qos=1, mid=7, dup=True)
    event = take(inbox)
    assert (event.qos, event.duplicate, event.retain, event.get_field("t")) == (1, True, False, 1)
    assert event.message_expiry is None
    assert event.response_topic == ""
    assert event.correlation_data is None


def test_version_5_properties_are_visible_on_the_event(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("#")
    peer = opened(one, broker)
    peer.publish(
        "a",
        b"{}",
        content_type="application/json",
        message_expiry=60,
        user_property=[("Site", "lab"), ("k", "v")],
        response_topic="r",
        correlation_data=b"\x00\xff",
    )
    event = take(inbox)
    assert event.content_type == "application/json"
    assert event.body == {}
    assert event.headers == {"Site": "lab", "k": "v"}
    assert event.get_header("site") == "lab"
    assert (event.message_expiry, event.response_topic, event.correlation_data) == (60, "r", b"\x00\xff")


def test_the_content_type_of_the_source_counts_where_a_message_says_none(rig: Any, broker: FakeBroker) -> None:
    one = rig(content_type="application/json")
    inbox = one.subscribe("a")
    peer = opened(one, broker)
    peer.publish("a", b"[1]")
    assert take(inbox).body == [1]


def test_properties_that_come_again_say_the_same_again(rig: Any, broker: FakeBroker) -> None:
    one = rig(content_type="text/csv")
    boxes = [one.subscribe(topic) for topic in ("a", "b", "b")]
    peer = opened(one, broker)
    for _ in range(2):
        for topic in ("a", "b"):
            peer.publish(topic, b"[1]", content_type="application/json")
            peer.publish(topic, b"[1]", user_property=[("k", "v")])
    for box in boxes:
        events = [take(box) for _ in range(4)]
        assert [event.content_type for event in events] == ["application/json", "text/csv"] * 2
        assert [event.headers for event in events] == [{}, {"k": "v"}] * 2


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff\xfe\x00", "\U0001f525".encode(), b"x" * 10_000_000],
    ids=["empty", "not utf-8", "emoji", "10 MB"],
)
def test_any_payload_arrives_as_it_was_sent(rig: Any, broker: FakeBroker, payload: bytes) -> None:
    one = rig()
    inbox = one.subscribe("haus/\U0001f525", 1)
    peer = opened(one, broker)
    peer.publish("haus/\U0001f525", payload, qos=1, mid=1)
    event = take(inbox)
    assert event.topic == "haus/\U0001f525"
    assert event.raw_body == payload
    one.settle(event)
    peer.acks(1)


def test_qos_1_is_acknowledged_when_it_is_settled_and_not_before(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("a", 1)
    peer = opened(one, broker)
    peer.publish("a", b"1", qos=1, mid=1)
    peer.publish("a", b"2", qos=1, mid=2)
    first, second = take(inbox), take(inbox)
    one.settle(second)
    peer.expect("PUBACK", mid=2)  # not held for the slower head
    one.settle(first)
    peer.expect("PUBACK", mid=1)


def test_acknowledgements_of_one_turn_go_out_in_the_order_of_arrival(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("a", 1)
    peer = opened(one, broker)
    for mid in (5, 3, 9):
        peer.publish("a", b"x", qos=1, mid=mid)
    events = [take(inbox) for _ in range(3)]
    one.do(lambda: [one.source.settle(event, None, None) for event in reversed(events)])
    assert [peer.expect("PUBACK").mid for _ in range(3)] == [5, 3, 9]


def test_qos_2_runs_once_and_ends_with_pubcomp(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("a", 2)
    peer = opened(one, broker)
    peer.publish("a", b"x", qos=2, mid=4)
    if one.source.connection.fast:
        one.settle(take(inbox))
        peer.expect("PUBREC", mid=4)
        peer.publish("a", b"x", qos=2, mid=4, dup=True)  # PUBREC got lost
        peer.expect("PUBREC", mid=4)
        peer.ack("PUBREL", 4)
        peer.expect("PUBCOMP", mid=4)
        assert one.source.intake.duplicates == 1
    else:
        peer.expect("PUBREC", mid=4)
        peer.ack("PUBREL", 4)
        one.settle(take(inbox))
        peer.expect("PUBCOMP", mid=4)
    peer.publish("a", b"y", qos=2, mid=4)  # the identifier is free again
    if not one.source.connection.fast:
        peer.expect("PUBREC", mid=4)
        peer.ack("PUBREL", 4)
    assert take(inbox).body == b"y"
    assert one.counts() == (2, 2, 0, 0)


def test_a_message_for_several_functions_is_acknowledged_when_the_last_has_settled(
    rig: Any, broker: FakeBroker
) -> None:
    one = rig()
    boxes = [one.subscribe(topic, 1) for topic in ("a/b", "a/+", "#")]
    peer = opened(one, broker)
    peer.publish("a/b", b"x", qos=1, mid=3)
    events = [take(box) for box in boxes]
    assert len({id(event) for event in events}) == 3
    assert all(event.raw_body is events[0].raw_body for event in events)
    one.settle(events[0])
    one.settle(events[2])
    peer.publish("a/b", b"y", qos=1, mid=9)
    for box in boxes:
        one.settle(take(box))
    peer.expect("PUBACK", mid=9)
    one.settle(events[1])
    peer.expect("PUBACK", mid=3)
    assert one.counts() == (2, 2, 0, 0)


def test_a_function_with_two_matching_triggers_gets_one_event(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    function = Function("f")
    first = one.subscribe("a/+", 0, function)
    second = one.subscribe("a/b", 0, function)
    peer = opened(one, broker)
    peer.publish("a/b", b"1")
    peer.publish("a/c", b"2")
    assert take(first).body == b"1"
    assert take(first).body == b"2"
    assert second.events == []


def test_a_message_for_nobody_is_acknowledged_and_counted_as_unrouted(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    one.subscribe("a", 1)
    peer = opened(one, broker)
    peer.publish("b", b"x", qos=1, mid=3)
    peer.expect("PUBACK", mid=3)
    peer.publish("b", b"x")
    wait_until(lambda: one.counts() == (2, 0, 2, 0))


def test_a_duplicate_of_an_unsettled_message_is_not_run_twice(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("a", 1)
    peer = opened(one, broker)
    peer.publish("a", b"x", qos=1, mid=3)
    event = take(inbox)
    peer.publish("a", b"x", qos=1, mid=3, dup=True)
    wait_until(lambda: inbox.duplicates == 1)
    one.settle(event)
    peer.expect("PUBACK", mid=3)
    assert len(inbox.events) == 1
    assert one.counts() == (1, 1, 0, 0)


def test_the_same_identifier_with_another_message_is_another_message(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("a", 1)
    peer = opened(one, broker)
    peer.publish("a", b"x", qos=1, mid=3)
    old = take(inbox)
    peer.publish("a", b"y", qos=1, mid=3, dup=True)
    new = take(inbox)
    one.settle(old)  # nobody waits for it any more
    one.settle(new)
    peer.expect("PUBACK", mid=3)
    peer.publish("a", b"end", qos=1, mid=4)
    one.settle(take(inbox))
    peer.expect("PUBACK", mid=4)


def test_a_settle_after_a_reconnect_acknowledges_what_the_broker_sends_again(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("a", 1)
    peer = opened(one, broker)
    for mid in (1, 2, 3):
        peer.publish("a", b"%d" % mid, qos=1, mid=mid)
    events = [take(inbox) for _ in range(3)]
    peer.close()
    peer = broker.accept()
    one.settle(events[0])  # with no connection at all
    peer.handshake(session=True, subscribes=False)
    one.wait_open()
    one.settle(events[1])  # on another connection, before the broker sent it again
    for mid in (1, 2, 3):
        peer.publish("a", b"%d" % mid, qos=1, mid=mid, dup=True)
    peer.acks(1, 2)
    one.settle(events[2])
    peer.expect("PUBACK", mid=3)
    assert len(inbox.events) == 3
    assert one.counts() == (3, 3, 0, 0)


def test_without_a_session_nothing_of_the_old_connection_is_acknowledged(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("a", 1)
    peer = opened(one, broker)
    peer.publish("a", b"1", qos=1, mid=1)
    old = take(inbox)
    peer.close()
    peer = broker.accept()
    peer.handshake(session=False)
    one.wait_open()
    peer.publish("a", b"1", qos=1, mid=1)
    new = take(inbox)
    one.settle(old)
    peer.publish("a", b"2", qos=1, mid=2)
    one.settle(take(inbox))
    peer.expect("PUBACK", mid=2)
    one.settle(new)
    peer.expect("PUBACK", mid=1)


def test_a_full_inbox_stops_the_reading_until_there_is_room(rig: Any, broker: FakeBroker) -> None:
    one = rig(receive_maximum=1000)
    inbox = one.subscribe("a/#", 1, room=3)
    other = one.subscribe("b")
    peer = opened(one, broker)
    for mid in range(1, 21):
        peer.publish("a/b", b"%d" % mid, qos=1, mid=mid)
    peer.publish("b", b"behind")
    wait_until(lambda: len(inbox.events) == 3)
    assert other.events == []

    def room() -> None:
        inbox.room = 1 << 30
        inbox._room()

    one.do(room)
    assert [take(inbox).body for _ in range(20)] == [b"%d" % mid for mid in range(1, 21)]
    assert take(other).body == b"behind"
    assert one.counts() == (21, 21, 0, 0)


def test_packets_above_max_packet_are_acknowledged_and_counted(rig: Any, broker: FakeBroker) -> None:
    one = rig(max_packet=2000)
    inbox = one.subscribe("a", 2)
    peer = opened(one, broker)
    peer.publish("a", b"x" * 500_000, qos=1, mid=1)
    peer.expect("PUBACK", mid=1)
    peer.publish("a", b"x" * 3000)
    peer.publish("a", b"x" * 500_000, qos=2, mid=2)
    peer.expect("PUBREC", mid=2)
    peer.ack("PUBREL", 2)
    peer.expect("PUBCOMP", mid=2)
    peer.publish("a", b"fits")
    assert take(inbox).body == b"fits"
    assert one.source.rejected == {"too-big": 3}
    assert one.counts() == (4, 1, 0, 3)
    assert "discarded" in one.log


def test_after_stop_receiving_nothing_comes_in_and_settled_events_are_still_acknowledged(
    rig: Any, broker: FakeBroker
) -> None:
    one = rig()
    inbox = one.subscribe("a", 1)
    peer = opened(one, broker)
    peer.publish("a", b"1", qos=1, mid=1)
    event = take(inbox)
    one.do(one.source.stop_receiving)
    peer.publish("a", b"2", qos=1, mid=2)
    wait_until(lambda: one.source.rejected == {"stopping": 1})
    one.settle(event)
    peer.expect("PUBACK", mid=1)
    one.close()
    peer.expect("DISCONNECT", code=0)


def test_a_request_is_answered_to_its_response_topic(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("ask")
    peer = opened(one, broker)
    peer.publish("ask", b"?", response_topic="answer/1", correlation_data=b"id")
    one.settle(take(inbox), {"heating": True})
    reply = peer.expect("PUBLISH", topic="answer/1", payload=b'{"heating":true}')
    assert reply.properties["correlation_data"] == b"id"
    assert reply.properties["content_type"] == "application/json"
    assert ("status", "200") in reply.properties["user_property"]
    peer.publish("ask", b"?", qos=1, mid=1, response_topic="answer/2")
    one.settle(take(inbox), (408, "late"))
    got = {packet.kind: packet for packet in (peer.read(), peer.read()) if packet is not None}
    assert ("status", "408") in got["PUBLISH"].properties["user_property"]
    assert got["PUBACK"].mid == 1


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("filters", [("ask", "ask"), ("ask/+", "+/x")], ids=["one subscription", "two"])
def test_a_request_to_two_functions_is_answered_by_the_one_that_has_an_answer(
    rig: Any, broker: FakeBroker, qos: int, filters: tuple[str, str]
) -> None:
    one = rig()
    audits, answers = (one.subscribe(topic, 1) for topic in filters)
    peer = opened(one, broker, asks=len(set(filters)))
    topic, more = ("ask", {}) if filters[0] == "ask" else ("ask/x", {"subscription_identifier": [1]})
    peer.publish(topic, b"?", qos=qos, mid=qos and 1, response_topic="answer", **more)
    if more:
        peer.publish(topic, b"?", qos=qos, mid=qos and 2, response_topic="answer", subscription_identifier=[2])
    one.settle(take(audits), None)
    one.settle(take(answers), {"x": 1})
    one.do(lambda: one.source.publisher.publish("end", b"", 0, False, None))
    came: list[Any] = []
    while not came or came[-1].topic != "end":
        found = peer.read()
        assert found is not None
        came += [found] if found.kind == "PUBLISH" else []
    assert [packet.payload for packet in came] == [b'{"x":1}', b""]


def test_what_comes_on_the_next_connection_stays_behind_what_found_no_room_on_the_last(
    rig: Any, broker: FakeBroker
) -> None:
    one = rig()
    inbox = one.subscribe("a", 1, room=1)
    peer = opened(one, broker)
    for mid in (1, 2):
        peer.publish("a", b"%d" % mid, qos=1, mid=mid)
    wait_until(lambda: one.source.connection._link.paused)
    one.do(lambda: one.source.connection._fail("the test"))
    peer = broker.accept()
    inbox.room = 2  # and no call of it yet, which comes when half of an inbox is free
    peer.handshake(session=True, subscribes=False)
    for mid in (1, 2):
        peer.publish("a", b"%d" % mid, qos=1, mid=mid, dup=True)
    peer.publish("a", b"3", qos=1, mid=3)
    wait_until(lambda: one.source.connection._link is not None and one.source.connection._link.paused)

    def room() -> None:
        inbox.room = 1 << 30
        inbox._room()

    one.do(room)
    peer.publish("a", b"4", qos=1, mid=4)
    assert [take(inbox).body for _ in range(4)] == [b"1", b"2", b"3", b"4"]


def test_an_answer_to_a_subscribe_is_waited_for_while_reading_is_paused(
    rig: Any, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rig()
    inbox = one.subscribe("a", 1, room=0)
    one.open()
    peer = broker.accept()
    peer.expect("CONNECT")
    monkeypatch.setattr(mqtt_connection, "ANSWER_MS", 20)
    peer.connack(session=True)
    asked = peer.expect("SUBSCRIBE")
    peer.publish("a", b"x", qos=1, mid=1)
    peer.suback(asked)
    wait_until(lambda: one.source.connection._link.paused)
    first = one.do(lambda: one.source.connection._timer)
    wait_until(lambda: one.do(lambda: one.source.connection._timer) is not first)
    inbox.room = 10
    one.do(inbox._room)
    one.wait_open()
    assert "no answer" not in one.log


def test_a_message_that_equals_one_settled_while_the_broker_was_away_is_another_one(
    rig: Any, broker: FakeBroker
) -> None:
    one = rig()
    inbox = one.subscribe("a", 1)
    peer = opened(one, broker)
    peer.publish("a", b"ON", qos=1, mid=1)
    event = take(inbox)
    peer.close()
    peer = broker.accept()
    one.settle(event)
    peer.handshake(session=True, subscribes=False)
    peer.publish("a", b"ON", qos=1, mid=1)  # the first one has expired there, and its number is free
    one.settle(take(inbox))
    peer.expect("PUBACK", mid=1)


def test_equal_messages_of_a_3_1_1_broker_that_merges_copies_all_run(rig: Any, broker: FakeBroker) -> None:
    one = rig(version=3)
    inbox = one.subscribe("home/+/button", 1)
    one.subscribe("home/door/+", 1)
    peer = opened(one, broker)
    for mid in range(1, 5):
        peer.publish("home/door/button", b"pressed", qos=1, mid=mid)
        take(inbox)
        later(one)
    assert one.source.intake.copies == 0


def test_copies_of_a_3_1_1_broker_that_are_read_together_are_one_message_however_late_they_are_taken(
    broker: FakeBroker, tmp_path: Path
) -> None:
    one = Rig(broker.url, tmp_path, version=3)
    inbox = one.subscribe("home/+/button", 1, room=1)
    one.subscribe("home/door/+", 1)
    try:
        peer = opened(one, broker)
        copies = [publish("home/door/button", b"%d" % (mid // 2), 1, mid) for mid in range(2, 6)]
        peer.send(b"".join(copies))
        wait_until(lambda: one.source.connection._link.paused)
        later(one)
        inbox.room = 10
        one.do(inbox._room)
        wait_until(lambda: one.source.intake.copies == 2)
        assert [take(inbox).body for _ in range(2)] == [b"1", b"2"]
    finally:
        one.close()


def test_a_copy_that_waited_while_a_handler_on_the_loop_ran_is_one_all_the_same(rig: Any, broker: FakeBroker) -> None:
    one = rig(version=3)
    inbox = one.subscribe("home/+/button", 1)
    one.subscribe("home/door/+", 1)
    keep = inbox.submit

    def submit(event: Any) -> bool:
        end = time.monotonic() + 0.1  # as an inline function does, longer than copies are apart
        while time.monotonic() < end:
            pass
        return bool(keep(event))

    inbox.submit = submit
    peer = opened(one, broker)
    for mid in range(2, 6):
        peer.publish("home/door/button", b"%d" % (mid // 2), qos=1, mid=mid)
    wait_until(lambda: one.source.intake.copies == 2)
    assert [take(inbox).body for _ in range(2)] == [b"1", b"2"]


def test_a_message_whose_taking_goes_wrong_does_not_keep_those_behind_it(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("a")
    keep = inbox.submit

    def submit(event: Any) -> bool:
        if event.body == b"bad":
            raise RuntimeError("an output")
        return bool(keep(event))

    inbox.submit = submit
    peer = opened(one, broker)
    peer.send(b"".join(publish("a", body, version=5) for body in (b"1", b"bad", b"2", b"bad", b"3")))
    assert [take(inbox).body for _ in range(3)] == [b"1", b"2", b"3"]
    assert [str(error) for error in one.errors] == ["an output"] * 2
    one.errors.clear()
    assert one.counts() == (5, 5, 0, 0)


def test_topic_aliases_of_the_broker_are_understood(rig: Any, broker: FakeBroker) -> None:
    one = rig()
    inbox = one.subscribe("#")
    one.open()
    peer = broker.accept()
    connect = peer.handshake()
    one.wait_open()
    if connect.properties.get("topic_alias_maximum"):
        peer.publish("long/name", b"1", topic_alias=2)
        peer.publish("", b"2", topic_alias=2)
        assert [take(inbox).topic for _ in range(2)] == ["long/name", "long/name"]
    else:
        assert not one.source.connection.fast
