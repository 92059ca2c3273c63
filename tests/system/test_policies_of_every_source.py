"""A function that gets more than it can do: each policy does with every kind of source what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt.publish import multiple

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.sources.coap_formats import POST, UNAVAILABLE
from nuclio_edge.testing import sim_board
from tests.coap_peer import CoapPeer
from tests.rig import Rig
from tests.unit.test_http_source import Wire, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.mosquitto import Mosquitto

SIZE = 4
SENT = 40
GATED = """
import os, time
def handler(context, event):
    while not os.path.exists(os.environ["GO"]):
        time.sleep(0.002)
    return b"done"
"""
SOURCES = {
    "mqtt": 'kind = "mqtt"\nurl = "mqtt://127.0.0.1:{port}"',
    "http": 'kind = "http"\nlisten = "127.0.0.1:0"',
    "coap": 'kind = "coap"\nlisten = "127.0.0.1:0"',
    "serial": 'kind = "serial"\ndevice = "sim:gps"',
    "sensor": 'kind = "sensor"\npath = "{folder}/reading"\nevery = "10ms"',
    "gpio": "",
    "timer": "",
}
ADDRESSES = {
    "mqtt0": 'topic = "a/+"\nqos = 0',
    "mqtt1": 'topic = "a/+"\nqos = 1\ndurable = false',
    "mqtt2": 'topic = "a/+"\nqos = 2\ndurable = false',
    "http": 'path = "/a"',
    "coap": 'path = "/a"',
    "serial": "",
    "sensor": "",
    "gpio": 'pin = "GPIO17"\nedge = "rising"',
    "timer": 'every = "2ms"',
}
DEFAULTS = {
    "mqtt0": "drop-oldest", "mqtt1": "block", "mqtt2": "block", "http": "reject", "coap": "reject",
    "serial": "drop-oldest", "sensor": "drop-oldest", "gpio": "drop-oldest", "timer": "drop-newest",
}  # fmt: skip


class World:
    """One source of that kind, a gated function behind it, and what the outside sends."""

    def __init__(self, kind: str, policy: str, folder: Path, broker: Mosquitto | None) -> None:
        self.kind = kind
        self.port = broker.port if broker is not None else 0
        (folder / "reading").write_text("21.5")
        source = SOURCES[kind.rstrip("012")]
        text = 'board = "sim"\n'
        if source:
            text += "[source.s]\n" + source.format(port=self.port, folder=folder) + "\n"
        text += '[function.f]\nhandler = "f.py"\n[[function.f.trigger]]\n' + ADDRESSES[kind] + "\n"
        text += ('source = "s"\n' if source else "") + f"inbox = {{ size = {SIZE}{policy} }}\n"
        self.board: Any = sim_board(f"{folder}/state")
        self.rig = Rig(folder, text, f=GATED)
        self.trigger = self.rig.trigger("f")
        self.rig.until(lambda: all(s.state == "open" for s in self.rig.processor.sources.values()), "the source")
        self.wires: list[Wire] = []
        self.peer: CoapPeer | None = None

    def flood(self) -> None:
        """Send ten times what the inbox holds; what comes by the clock comes by itself."""
        kind = self.kind
        if kind == "http":
            self.wires = [Wire(self.rig, self.rig.processor.sources["s"].addresses()[0]) for _ in range(5)]
            for wire in self.wires:
                wire.send(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n" * (SENT // 5))
        elif kind == "coap":
            self.peer = CoapPeer(self.rig, source="s")
            for number in range(SENT):
                self.peer.send(POST, "a", b"%d" % number)
        elif kind == "serial":
            self.board.port("gps").send(b"".join(b"%d\n" % number for number in range(SENT)))
        elif kind == "gpio":
            for _ in range(SENT):
                self.board.pin("GPIO17").drive_high()
                self.board.pin("GPIO17").drive_low()
        elif kind.startswith("mqtt"):
            messages: Any = [(f"a/{number % 3}", b"%d" % number, int(kind[-1])) for number in range(SENT)]
            multiple(messages, port=self.port, hostname="127.0.0.1")

    def stop(self) -> None:
        for one in (*self.wires, self.peer):
            if one is not None:
                one.__exit__()


@pytest.fixture
def world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[[str, str], World]]:
    made: list[World] = []
    monkeypatch.setenv("GO", str(tmp_path / "go"))

    def make(kind: str, policy: str) -> World:
        broker = request.getfixturevalue("mosquitto") if kind.startswith("mqtt") else None
        made.append(World(kind, policy, tmp_path, broker))
        return made[-1]

    yield make
    (tmp_path / "go").touch()
    for one in made:
        with one.rig:
            pass
        one.stop()


def is_full(one: World) -> None:
    """Flood it, and wait until it has had what there is for it to have."""
    one.flood()
    trigger = one.trigger
    one.rig.until(lambda: trigger.pending >= SIZE, "the inbox to be full")
    if trigger.when_full == "block":
        one.rig.turn_for(40)
    elif one.kind in ("timer", "sensor"):
        one.rig.until(lambda: trigger.admitted >= SENT, "as much again")
    else:
        one.rig.until(lambda: trigger.admitted == SENT, "all that was sent")


@pytest.mark.parametrize("policy", ["block", "drop-oldest", "drop-newest", "thin", "reject"])
@pytest.mark.parametrize("kind", ADDRESSES)
def test_each_policy_does_what_it_says_and_everything_is_counted(
    world: Callable[[str, str], World], tmp_path: Path, kind: str, policy: str
) -> None:
    one = world(kind, f', when_full = "{policy}"')
    is_full(one)
    trigger, rig = one.trigger, one.rig
    assert trigger.pending <= SIZE and rig.balanced()
    # Of a sensor's readings the newest waits for room, for a moment with every policy, in the place of the one before.
    replaced = {"collapsed"} if kind == "sensor" else set()
    if policy == "block":
        assert set(trigger.shed) <= replaced
        assert trigger.admitted - sum(trigger.shed.values()) == SIZE
    else:
        assert set(trigger.shed) - replaced == {policy}
        assert sum(trigger.shed.values()) == trigger.admitted - trigger.pending
    (tmp_path / "go").touch()
    if kind in ("timer", "sensor"):
        rig.until(lambda: trigger.handled > 2 * SIZE, "it to go on")
        assert rig.balanced()
        return
    rig.until(lambda: trigger.admitted == SENT and not trigger.pending, "the end")
    assert rig.balanced()
    assert trigger.handled == SENT - sum(trigger.shed.values())
    told(one, sum(trigger.shed.values()))


def told(one: World, shed: int) -> None:
    """Who asked has an answer each, and those that were turned away know when to come again."""
    if one.kind == "http":
        one.rig.until(lambda: sum(len(parsed(wire.read())) for wire in one.wires) == SENT, "all answers")
        answers = [answer for wire in one.wires for answer in parsed(wire.came)]
        assert sorted({status for status, _, _ in answers}) == ([200, 503] if shed else [200])
        late = [fields for status, fields, _ in answers if status == 503]
        assert len(late) == shed and all(int(fields["retry-after"]) >= 1 for fields in late)
    elif one.kind == "coap":
        peer = one.peer
        assert peer is not None
        answers_: dict[bytes, Any] = {}
        while len(answers_) < SENT:
            message = peer.receive("an answer")
            if message.code:
                answers_[bytes(message.token)] = message
        late_ = [message for message in answers_.values() if message.code == UNAVAILABLE]
        assert len(late_) == shed
        assert all(any(number == coap.MAX_AGE for number, _ in message.options) for message in late_)


@pytest.mark.parametrize("kind", ADDRESSES)
def test_the_default_policy_is_that_of_the_kind(world: Callable[[str, str], World], kind: str) -> None:
    assert world(kind, "").trigger.when_full == DEFAULTS[kind]


@pytest.mark.parametrize("kind", ["mqtt1", "mqtt2"])
@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest", "thin", "reject"])
def test_a_delivery_that_was_shed_is_acknowledged_and_does_not_come_again(
    world: Callable[[str, str], World], tmp_path: Path, kind: str, policy: str, mosquitto: Mosquitto
) -> None:
    one = world(kind, f', when_full = "{policy}"')
    is_full(one)
    source: Any = one.rig.processor.sources["s"]
    one.rig.until(lambda: len(source.intake.session.unsettled) == one.trigger.pending, "the others' acknowledgements")
    (tmp_path / "go").touch()
    one.rig.until(lambda: not source.intake.session.unsettled)
    assert one.trigger.duplicates == 0 and source.received == SENT
