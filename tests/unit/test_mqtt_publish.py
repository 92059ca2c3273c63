"""What goes out: from any thread, in order, bounded, and every message that does not is counted."""

from __future__ import annotations

import array
import functools
import threading
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.context import Context, Revoked
from nuclio_edge.core.encode import to_response
from nuclio_edge.core.event import Event
from nuclio_edge.core.response import Response
from nuclio_edge.sources import mqtt_outage, mqtt_room
from nuclio_edge.sources.mqtt_params import OUTPUT
from nuclio_edge.sources.mqtt_publish import Publisher
from tests.fake_broker import FakeBroker
from tests.mqtt_rig import Rig, checked
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 10)


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """A broker that the test plays."""
    with FakeBroker() as made:
        yield made


@pytest.fixture(params=["fast", "stock"])
def rig(request: pytest.FixtureRequest, broker: FakeBroker, tmp_path: Path) -> Iterator[Rig]:
    """A rig of either kind."""
    made = Rig(broker.url, tmp_path, fast=request.param == "fast")
    yield made
    made.close()


def opened(rig: Rig, broker: FakeBroker, **connack: Any) -> Any:
    """Open it; the broker's side."""
    rig.open()
    peer = broker.accept()
    peer.handshake(subscribes=False, **connack)
    rig.wait_open()
    return peer


@pytest.mark.parametrize("payload", [b"\xff\x00", bytearray(b"\xff\x00"), memoryview(b"\xff\x00")])
def test_bytes_go_as_they_are(rig: Rig, broker: FakeBroker, payload: Any) -> None:
    peer = opened(rig, broker)
    rig.source.publisher.publish("a", payload, 0, False, None)
    assert peer.expect("PUBLISH", topic="a", payload=b"\xff\x00", retain=False).properties == {}


class Told:
    """Says of itself what it is, as Nuclio's encoder asks it."""

    def __log__(self) -> str:
        return "told"


@pytest.mark.parametrize(
    ("payload", "sent", "kind"),
    [
        ((1, None), b"[1,null]", 1),
        (True, b"true", 1),
        (float("nan"), b'"NaN"', 1),
        (Told(), b'"told"', 1),
        ({"s": {1}}, b'{"s":"{1}"}', 1),
        ("t\u00e9xt", "t\u00e9xt".encode(), None),
        (None, b"", None),
        ({"t": 1.5}, b'{"t":1.5}', 1),
        ([1], b"[1]", 1),
        (21, b"21", 1),
    ],
)
def test_text_goes_as_utf_8_and_values_as_json(
    rig: Rig, broker: FakeBroker, payload: Any, sent: bytes, kind: Any
) -> None:
    peer = opened(rig, broker)
    rig.source.publisher.publish("a", payload, 1, True, None)
    found = peer.expect("PUBLISH", payload=sent, qos=1, retain=True)
    assert found.properties == ({"content_type": "application/json"} if kind else {})


def test_what_no_broker_would_take_is_said_to_the_caller(rig: Rig) -> None:
    publish = rig.source.publisher.publish
    for topic in ("", "a/+", "#", "a\0", "x" * 65_536):
        with pytest.raises(ValueError, match=r"topic|fit"):
            publish(topic, b"", 0, False, None)
    with pytest.raises(ValueError, match="qos is 0, 1 or 2"):
        publish("a", b"", 3, False, None)
    with pytest.raises(ValueError, match="knows no property 'expires'"):
        publish("a", b"", 0, False, None, {"expires": 3})
    for expiry in ("5s", 1.5, [1]):
        with pytest.raises(ValueError, match="message_expiry is of the wrong type: whole seconds, not"):
            publish("a", b"", 0, False, None, {"message_expiry": expiry})
    for expiry in (-1, 1 << 32):
        with pytest.raises(ValueError, match=f"message_expiry is {expiry}: 0 to 4294967295 seconds"):
            publish("a", b"", 0, False, None, {"message_expiry": expiry})
    for payload in ({1, 2}, datetime.now(timezone.utc), object(), Response()):
        with pytest.raises(
            ValueError, match=f"a payload of type {type(payload).__name__} cannot be published: make it"
        ):
            publish("a", payload, 0, False, None)
    rig.loop.close()


def test_messages_of_one_thread_keep_their_order_and_of_many_threads_none_is_lost(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker)

    def send(name: int) -> None:
        for number in range(200):
            rig.source.publisher.publish(f"out/{name}", str(number), 0, False, None)

    threads = [threading.Thread(target=send, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    found: dict[str, list[int]] = {}
    for _ in range(800):
        packet = peer.expect("PUBLISH")
        found.setdefault(packet.topic, []).append(int(packet.payload))
    for thread in threads:
        thread.join()
    assert found == {f"out/{name}": list(range(200)) for name in range(4)}
    assert rig.source.publisher.sent == 800


def test_a_revoked_context_cannot_publish(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker)
    context = Context()
    binding = rig.source.binding(context)
    binding.publish("a", b"1", user_properties={"k": "v"})
    assert peer.expect("PUBLISH", payload=b"1").properties == {"user_property": [("k", "v")]}
    context.revoke()
    with pytest.raises(Revoked):
        binding.publish("a", b"2")


def test_an_output_sends_the_responses_body(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker)
    output = checked(OUTPUT, {"topic": "out", "qos": 0, "retain": True})
    rig.do(lambda: rig.source.send(output, to_response({"on": True}), Event()))
    found = peer.expect("PUBLISH", topic="out", payload=b'{"on":true}', retain=True)
    assert found.properties == {"content_type": "application/json"}
    rig.do(lambda: rig.source.send(output, to_response("text"), Event()))
    assert peer.expect("PUBLISH", payload=b"text").properties == {}


def test_qos_0_while_the_broker_is_away_is_counted_and_qos_1_waits(rig: Rig, broker: FakeBroker) -> None:
    rig.open()
    rig.source.publisher.publish("a", b"0", 0, False, None)
    rig.source.publisher.publish("a", b"1", 1, False, None, {"user_properties": {"k": "v"}})
    wait_until(lambda: rig.source.publisher.shed == {"offline": 1})
    peer = broker.accept()
    peer.handshake(subscribes=False)
    found = peer.expect("PUBLISH", payload=b"1", qos=1)
    assert found.properties == {"user_property": [("k", "v")]}
    assert not rig.do(rig.source.sent)
    peer.close()
    peer = broker.accept()
    peer.handshake(session=True, subscribes=False)
    assert peer.expect("PUBLISH", payload=b"1", mid=found.mid).dup
    peer.ack("PUBACK", found.mid or 0)
    wait_until(lambda: rig.source.publisher.sent == 1)
    assert rig.do(rig.source.sent)


def test_the_memory_for_waiting_messages_is_bounded(
    rig: Rig, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_room, "LIMIT_COUNT", 10)
    peer = opened(rig, broker)
    for number in range(25):
        rig.do(functools.partial(rig.source.publisher.send, "a", b"%d" % number, 1, False))
    assert rig.source.publisher.shed == {"outbox-full": 15}
    for number in range(10):
        peer.ack("PUBACK", peer.expect("PUBLISH", payload=b"%d" % number).mid or 0)
    wait_until(lambda: rig.source.publisher.sent == 10)
    assert rig.source.publisher.waiting == 0


def test_a_broker_that_does_not_read_does_not_fill_our_memory(tmp_path: Path, broker: FakeBroker) -> None:
    with Rig(broker.url, tmp_path) as rig:
        broker.accept().handshake(subscribes=False)
        rig.wait_open()

        def flooded() -> bool:
            for _ in range(50):
                rig.source.publisher.publish("a", b"x" * 100_000, 0, False, None)
            return bool(rig.source.publisher.shed)

        wait_until(flooded)
        assert rig.do(lambda: rig.source.connection._link.queued) < mqtt_room.LIMIT_BYTES * 2
        assert list(rig.source.publisher.shed) == ["outbox-full"]


def test_a_message_that_the_broker_refuses_is_counted_and_its_topic_is_said_once(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker)
    for qos, kind in ((1, "PUBACK"), (1, "PUBACK"), (2, "PUBREC")):
        rig.source.publisher.publish("b/c" if qos == 2 else "a", b"x", qos, False, None)
        peer.ack(kind, peer.expect("PUBLISH").mid or 0, 0x87)
        if qos == 2 and not rig.source.connection.fast:
            peer.ack("PUBCOMP", peer.expect("PUBREL").mid or 0, 0x92)
    wait_until(lambda: rig.source.publisher.shed == {"refused": 3})
    for topic in ("a", "b/c"):
        assert rig.log.count(f"the broker refused a message that was published topic {topic} reason") == 1
    assert rig.log.count("topic a reason not authorized (0x87)") == 1
    assert rig.do(rig.source.sent)


def test_what_waits_goes_to_the_client_of_the_older_version(tmp_path: Path) -> None:
    def older(peer: Any) -> None:
        connect = peer.expect("CONNECT")
        if connect.version == 5:
            peer.connack(connect, code=0x84)
            peer.expect_closed()
        else:
            peer.connack(connect)
            peer.serve()

    with FakeBroker(older) as broker:
        broker.refuse()
        with Rig(broker.url, tmp_path) as rig:
            rig.source.publisher.publish("a", b"1", 1, True, "text/plain")
            wait_until(lambda: rig.source.attempts > 1)
            broker.listen()
            wait_until(lambda: rig.source.publisher.sent == 1)
            found = next(one for one in broker.received if one.kind == "PUBLISH")
            assert (found.payload, found.qos, found.retain) == (b"1", 1, True)


SURROGATE, BELL = "\udc80", "\x07"


class Unhashable(int):
    """A number that can be no key."""

    __hash__ = None  # type: ignore[assignment]  # as Python has it for a class with __eq__ alone


@pytest.mark.parametrize("data", [b"\x01\x02", bytearray(b"\x01\x02"), array.array("B", [1, 2]), "\x01\x02"])
def test_correlation_data_may_be_whatever_holds_bytes(rig: Rig, broker: FakeBroker, data: Any) -> None:
    peer = opened(rig, broker)
    rig.source.publisher.publish("x", b"1", 0, False, None, {"correlation_data": data})
    assert peer.expect("PUBLISH").properties["correlation_data"] == b"\x01\x02"


def test_a_message_that_cannot_be_sent_keeps_no_other_back_and_is_counted(
    rig: Rig, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = opened(rig, broker)
    publisher = rig.source.publisher
    send = publisher.send

    def failing(topic: str, *more: Any) -> None:
        if topic == "bad":
            raise TypeError("a defect")
        send(topic, *more)

    monkeypatch.setattr(publisher, "send", failing)
    errors: list[BaseException] = []
    monkeypatch.setattr(rig.loop, "on_error", lambda error, _call: errors.append(error))
    for topic in ("a", "bad", "b"):
        publisher.publish(topic, b"1", 0, False, None)
    assert [peer.expect("PUBLISH").topic for _ in range(2)] == ["a", "b"]
    wait_until(lambda: publisher.waiting == 0)
    assert (publisher.sent, publisher.shed) == (2, {"defect": 1})
    assert [type(error) for error in errors] == [TypeError]


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize(
    ("topic", "content_type", "properties"),
    [
        ("x/" + SURROGATE, None, {}),
        ("x/" + BELL, None, {}),
        ("x/\n", None, {}),
        ("x/\ufffe", None, {}),
        (b"x", None, {}),
        ("x", SURROGATE, {}),
        ("x", "a\0b", {}),
        ("x", 5, {}),
        ("x", "a" * 65_536, {}),
        ("x", None, {"response_topic": "a/#"}),
        ("x", None, {"response_topic": BELL}),
        ("x", None, {"user_properties": {"a": BELL}}),
        ("x", None, {"user_properties": {SURROGATE: "a"}}),
        ("x", None, {"user_properties": ["a"]}),
        ("x", None, {"correlation_data": 5}),
        ("x", None, {"correlation_data": [1]}),
        ("x", None, {"message_expiry": [1]}),
        ("x", None, {"message_expiry": Unhashable(1)}),
        ("x", None, {"message_expiry": -1}),
        ("x", None, {"message_expiry": 1 << 32}),
        ("x", None, {"message_expiry": 1.5}),
    ],
)
def test_what_a_broker_would_hang_up_at_is_refused_to_the_caller_and_never_sent(
    rig: Rig, broker: FakeBroker, qos: int, topic: Any, content_type: Any, properties: dict[str, Any]
) -> None:
    peer = opened(rig, broker)
    with pytest.raises(ValueError):  # noqa: PT011 - each has words of its own
        rig.source.publisher.publish(topic, b"bad", qos, False, content_type, properties)
    rig.source.publisher.publish("good/\U0001f600", b"1", qos, False, None, {"correlation_data": bytearray(b"c")})
    assert peer.expect("PUBLISH").payload == b"1"
    assert rig.source.publisher.waiting == (1 if qos else 0)


def test_an_answer_with_what_mqtt_cannot_say_comes_without_it(rig: Rig, broker: FakeBroker) -> None:
    inbox = rig.subscribe("a")
    rig.open()
    peer = broker.accept()
    peer.handshake()
    rig.wait_open()
    for body, headers, said in (
        (b"plain", {"x": BELL}, b"plain"),
        ((part for part in ("a", b"b")), {}, b"ab"),
        ((1 // 0 for _ in "x"), {}, b"the handler's answer broke off: ZeroDivisionError"),
    ):
        peer.publish("a", b"?", response_topic="back")
        event = inbox.taken.get(timeout=30)
        rig.settle(event, Response(headers, body))
        found = peer.expect("PUBLISH", topic="back")
        assert found.payload == said
        assert found.properties["user_property"] == [("status", "500" if b"broke" in said else "200")]


def test_a_request_is_answered_and_acknowledged_whatever_its_handler_made_of_its_event(
    rig: Rig, broker: FakeBroker
) -> None:
    inbox = rig.subscribe("a", 1)
    rig.open()
    peer = broker.accept()
    peer.handshake()
    rig.wait_open()
    peer.publish("a", b"?", qos=1, mid=7, response_topic="back")
    event = inbox.taken.get(timeout=30)
    event.qos = None
    rig.settle(event, "fine")
    peer.expect("PUBLISH", topic="back", payload=b"fine", qos=1)
    peer.expect("PUBACK", mid=7)


def test_what_a_thread_is_publishing_while_the_source_is_exchanged_goes_to_its_successor(
    rig: Rig, broker: FakeBroker
) -> None:
    opened(rig, broker)
    before, after = rig.source.publisher, Publisher(rig.loop, rig.host.log, rig.source.connection.outages.say_once)
    asked, go = threading.Event(), threading.Event()

    class Slow:
        """A flag that takes its time: the thread is in `publish` meanwhile."""

        def __bool__(self) -> bool:
            asked.set()
            go.wait(30)
            return False

    def publish() -> None:
        before.publish("a", b"1", 1, Slow(), None)  # type: ignore[arg-type]

    thread = threading.Thread(target=publish)
    thread.start()
    asked.wait(30)
    rig.do(lambda: before.close(after))
    go.set()
    thread.join()
    wait_until(lambda: after.waiting == 1)
    rig.do(lambda: before.drop("outbox-full"))
    assert (before.waiting, before.shed, after.shed) == (0, {}, {"outbox-full": 1})


def test_what_was_never_sent_is_told_at_the_end(rig: Rig, broker: FakeBroker) -> None:
    opened(rig, broker)
    rig.source.publisher.drop("offline")
    rig.source.publisher.publish("a", b"1", 1, False, None)
    wait_until(lambda: rig.source.publisher.waiting == 1, "the message")
    rig.close()
    assert "warn: messages were not sent offline 1 unacknowledged 1" in rig.log
