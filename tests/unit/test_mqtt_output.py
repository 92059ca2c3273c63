"""What functions return goes out in order and as the publisher would send it, whichever way it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.encode import to_json, to_response
from nuclio_edge.core.event import Event
from nuclio_edge.core.response import Response
from nuclio_edge.sources import mqtt_outage, mqtt_output, mqtt_room
from nuclio_edge.sources.mqtt_params import OUTPUT
from tests.fake_broker import FakeBroker
from tests.mqtt_rig import Rig, checked
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
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


def output(rig: Rig, **given: Any) -> Callable[[Any], None]:
    """What returns a value through an output, on the loop's thread."""
    send = rig.source.output(checked(OUTPUT, {"topic": "out", "qos": 0, **given}))
    return lambda value: rig.do(lambda: send(to_response(value), Event()))


@pytest.mark.parametrize(
    ("value", "payload", "properties"),
    [
        ({"on": True}, b'{"on":true}', {"content_type": "application/json"}),
        ("text", b"text", {}),
        (b"\xff\x00", b"\xff\x00", {}),
        ("", b"", {}),
        (Response(body=b"<a/>", content_type="text/xml"), b"<a/>", {"content_type": "text/xml"}),
        *[("x" * size, b"x" * size, {}) for size in (117, 118, 119, mqtt_output.SHORT - 1, mqtt_output.SHORT, 70_000)],
    ],
    ids=lambda value: str(len(value)) if isinstance(value, (str, bytes)) else None,
)
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_every_answer_is_sent_whole_with_its_type(
    rig: Rig, broker: FakeBroker, value: Any, payload: bytes, properties: dict[str, Any], again: bool
) -> None:
    peer = opened(rig, broker)
    send = output(rig, retain=True)
    if again:  # of a size and type that were sent before
        send(value)
        assert peer.expect("PUBLISH", topic="out", payload=payload, qos=0, retain=True).properties == properties
    send(value)
    assert peer.expect("PUBLISH", topic="out", payload=payload, qos=0, retain=True).properties == properties
    assert not rig.source.publisher.shed


def many(rig: Rig, **given: Any) -> Callable[..., bool]:
    """What sends values as JSON together through an output, on the loop's thread; whether it did."""
    send = rig.source.output(checked(OUTPUT, {"topic": "out", "qos": 0, **given}))

    def call(*values: Any) -> bool:
        sent: list[bool] = []
        rig.do(lambda: sent.append(send.__self__.send_json_bodies([to_json(value) for value in values])))  # type: ignore[attr-defined]
        return sent[0]

    return call


def test_answers_in_json_go_together_as_each_would_by_itself(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker)
    send = many(rig, retain=True)
    said = {"content_type": "application/json"}
    for _ in range(2):  # the second time what goes before them is known
        assert send({"n": 1}, {"n": "x" * 150}, {})
        for payload in (b'{"n":1}', b'{"n":"' + b"x" * 150 + b'"}', b"{}"):
            assert peer.expect("PUBLISH", topic="out", payload=payload, qos=0, retain=True).properties == said
    assert rig.source.publisher.sent == 6
    assert not rig.source.publisher.shed


@pytest.mark.parametrize(
    "why", ["too long", "too big for the broker", "QoS 1", "no connection", "lost", "too much", "something published"]
)
def test_answers_of_which_one_goes_another_way_are_not_sent_together(
    rig: Rig, broker: FakeBroker, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no connection":
        rig.open()
        broker.accept()
    else:
        peer = opened(rig, broker, **({"maximum_packet_size": 60} if why == "too big for the broker" else {}))
    values = [{"n": 1}, {"n": "x" * {"too long": mqtt_output.SHORT, "too big for the broker": 60}.get(why, 5)}]
    send = many(rig, qos=int(why == "QoS 1"))
    publisher = rig.source.publisher
    sent = 0
    if why in ("lost", "too much"):
        assert send(*values)
        sent = 2
    if why == "lost":
        peer.close()
        wait_until(lambda: publisher.link is None)
    if why == "too much":  # by what waits already
        full = property(lambda link: mqtt_room.LIMIT_BYTES - 20, lambda link, value: None)
        monkeypatch.setattr(type(publisher.link), "queued", full, raising=False)
    if why == "something published":
        publisher._given.append(("a", b"first", 0, False, (), None))
    assert not send(*values)
    assert publisher.sent == sent
    assert publisher.waiting == (1 if why == "something published" else 0)
    publisher._given.clear()
    assert not rig.source.publisher.shed


def test_an_answer_in_parts_is_put_together(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker)
    output(rig)(part for part in ("a", b"b"))
    peer.expect("PUBLISH", topic="out", payload=b"ab")


def test_what_the_handler_published_comes_before_what_it_returned(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker)
    send = output(rig)
    send({"n": 0})
    peer.expect("PUBLISH", payload=b'{"n":0}')
    publisher = rig.source.publisher
    answer = rig.source.output(checked(OUTPUT, {"topic": "out", "qos": 0}))

    def turn() -> None:
        publisher._given.append(("a", b"first", 0, False, (), None))  # a thread of the handler's, a moment ago
        answer(to_response({"n": 1}), Event())

    rig.do(turn)
    peer.expect("PUBLISH", topic="a", payload=b"first")
    peer.expect("PUBLISH", topic="out", payload=b'{"n":1}')


def test_of_an_output_all_is_sent_or_counted(rig: Rig, broker: FakeBroker) -> None:
    publisher = rig.source.publisher
    send = output(rig)
    peer = opened(rig, broker)
    send("there")
    peer.expect("PUBLISH", payload=b"there")
    peer.close()
    wait_until(lambda: rig.source.state == "connecting")
    send("gone")
    assert (publisher.sent, publisher.shed) == (1, {"offline": 1})


def test_another_connection_may_allow_something_else(rig: Rig, broker: FakeBroker) -> None:
    publisher = rig.source.publisher
    send = output(rig, retain=True)
    small = output(rig)
    peer = opened(rig, broker)
    send("a" * 100)
    assert peer.expect("PUBLISH", payload=b"a" * 100).retain
    peer.close()
    peer = broker.accept()
    peer.handshake(subscribes=False, retain_available=0, maximum_packet_size=60)
    rig.wait_open()
    send("a" * 100)
    send("b" * 10)
    assert not peer.expect("PUBLISH", payload=b"b" * 10).retain
    small({"c": "d" * 100})
    small({"c": 1})
    peer.expect("PUBLISH", payload=b'{"c":1}')
    assert publisher.shed == {"too-big": 2}


def test_that_a_broker_takes_less_than_an_output_asks_for_is_said_once_a_connection(
    rig: Rig, broker: FakeBroker
) -> None:
    send = output(rig, qos=2, retain=True)
    other = output(rig, topic="other", qos=1)
    rig.open()
    for number in (1, 2):
        peer = broker.accept()
        peer.handshake(subscribes=False, maximum_qos=0, retain_available=0)
        rig.wait_open()
        for value in ("a", "b" * mqtt_output.SHORT):
            send(value)
            peer.expect("PUBLISH", topic="out", payload=value.encode(), qos=0, retain=False)
            other(value)
            peer.expect("PUBLISH", topic="other", qos=0)
        assert rig.log.count("the broker takes a lower QoS than was asked for topic out asked 2 sent 0") == number
        assert rig.log.count("the broker retains no messages") == number
        assert rig.log.count("topic other") == 0
        peer.close()
        wait_until(lambda: rig.source.state == "connecting")
    assert rig.source.publisher.sent == 8


def test_an_output_of_qos_1_is_acknowledged_and_repeated_as_ever(rig: Rig, broker: FakeBroker) -> None:
    peer = opened(rig, broker)
    output(rig, qos=1)({"n": 1})
    peer.expect("PUBLISH", topic="out", payload=b'{"n":1}', qos=1)
    assert rig.source.publisher.waiting == 1


def test_a_broker_that_does_not_read_does_not_fill_our_memory(
    rig: Rig, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(rig, broker)
    send = output(rig)
    send("there")
    with monkeypatch.context() as patch:
        full = property(lambda link: mqtt_room.LIMIT_BYTES + 1, lambda link, value: None)
        patch.setattr(type(rig.source.connection._link), "queued", full, raising=False)
        send("too many")
    assert rig.source.publisher.shed == {"outbox-full": 1}
