"""The outbox on disk, in one process: more than memory holds, other clients and sources in between, expiry, limits."""

from __future__ import annotations

import errno
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sources import mqtt_publish, mqtt_room
from tests.fake_broker import FakeBroker, Peer
from tests.mosquitto import Mosquitto, program
from tests.rig import MEMORY, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BROKER = """
[source.broker]
kind = "mqtt"
url = "{url}"
client_id = "gw"
"""
FUNCTION = """
[function.f]
handler = "f.py"
[[function.f.trigger]]
source = "mem"
path = "/in"
durable = {durable}
"""
LONG = """
def handler(context, event):
    for size in map(int, event.raw_body.split()):
        context.bindings["broker"].publish("out", "x" * size, qos=2, retain=True)
"""
MANY = """
def handler(context, event):
    for number in range(*map(int, event.raw_body.split())):
        context.bindings["broker"].publish("out", f"{number:05d}", qos=1)
"""


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", max_queued=0, max_inflight=0, persistence=True) as running:
        subprocess.run([*command(running), "-E"], check=True, timeout=30)  # its session gets all from here on
        yield running


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mqtt_publish  # imported: what handlers have given and nobody has taken keeps its own bound
    monkeypatch.setattr(mqtt_room, "LIMIT_COUNT", 100)


class Heard:
    """What comes at the topic `out`, in order; from the moment of `subscribe` on, whoever is connected."""

    def __init__(self, folder: Path, broker: Mosquitto) -> None:
        self._path = folder / "heard"
        with self._path.open("wb") as file:
            self._process = subprocess.Popen(command(broker), stdout=file)

    @property
    def lines(self) -> list[str]:
        return self._path.read_text().splitlines()

    def __enter__(self) -> Heard:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def command(broker: Mosquitto) -> list[str]:
    who = ["-i", "heard", "-c", "-p", str(broker.port)]
    return [program("mosquitto_sub"), *who, "-q", "1", "-t", "out", "-F", "%p"]


def start(
    folder: Path, broker: Mosquitto | FakeBroker, *, durable: bool = True, top: str = "", code: str = MANY
) -> Rig:
    function = FUNCTION.format(durable=str(durable).lower())
    return Rig(folder, top + BROKER.format(url=broker.url) + MEMORY + function, f=code)


def publisher(rig: Rig) -> Any:
    return rig.processor.sources["broker"].publisher


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.usefixtures("little_room")
def test_what_memory_does_not_hold_waits_on_disk_and_goes_out_in_order(
    tmp_path: Path, broker: Mosquitto, durable: bool
) -> None:
    with start(tmp_path, broker, durable=durable) as rig:
        rig.until(lambda: rig.processor.sources["broker"].state == "open")
        broker.stop()
        rig.until(lambda: rig.processor.sources["broker"].state == "connecting")
        rig.deliver("/in", b"500")
        rig.until(lambda: publisher(rig).keeper.backlog.alone)
        assert len(publisher(rig).outbox.room.sizes) <= 100
        broker.start()
        with Heard(tmp_path, broker) as heard:
            rig.until(lambda: len(heard.lines) == 500)
            assert heard.lines == [f"{number:05d}" for number in range(500)]
        assert publisher(rig).shed == {}
        spool: Any = publisher(rig).keeper.backlog.spool
        rig.until(lambda: spool.totals()["pending"] == 0)
        assert rig.balanced()


@pytest.mark.usefixtures("little_room")
def test_what_comes_while_the_disk_is_drained_waits_behind_it(tmp_path: Path, broker: Mosquitto) -> None:
    broker.stop()
    with start(tmp_path, broker) as rig:
        rig.deliver("/in", b"0 400")
        rig.until(lambda: rig.trigger("f").handled == 1)
        broker.start()
        with Heard(tmp_path, broker) as heard:
            for number in range(400, 450):
                rig.until(lambda: len(publisher(rig).outbox.room.sizes) < 90)  # the client has room
                rig.deliver("/in", b"%d %d" % (number, number + 1))
                rig.processor.loop.turn(1)
            rig.until(lambda: len(heard.lines) == 450)
            assert heard.lines == [f"{number:05d}" for number in range(450)]


@pytest.mark.usefixtures("little_room")
def test_a_stop_and_a_start_with_the_broker_away_lose_nothing(tmp_path: Path, broker: Mosquitto) -> None:
    broker.stop()
    with start(tmp_path, broker) as rig:
        rig.deliver("/in", b"300")
        rig.until(lambda: rig.trigger("f").handled == 1)
    assert "messages were not sent" not in rig.records.text()
    with start(tmp_path, broker) as rig:
        broker.start()
        with Heard(tmp_path, broker) as heard:
            rig.until(lambda: len(heard.lines) == 300)
            assert heard.lines == [f"{number:05d}" for number in range(300)]


def test_a_message_whose_time_runs_out_on_disk_is_counted_as_expired(tmp_path: Path, broker: Mosquitto) -> None:
    code = """
def handler(context, event):
    context.bindings["broker"].publish("out", "late", qos=1, message_expiry=1)
    context.bindings["broker"].publish("out", "kept", qos=1, message_expiry=1000)
"""
    broker.stop()
    with start(tmp_path, broker, code=code) as rig:
        rig.deliver("/in")
        rig.until(lambda: rig.trigger("f").handled == 1)
    with start(tmp_path, broker, code=code) as rig:
        rig.turn_for(1100)
        broker.start()
        with Heard(tmp_path, broker) as heard:
            rig.until(lambda: heard.lines)
            assert heard.lines == ["kept"]
        assert publisher(rig).shed == {"expired": 1}


@pytest.mark.usefixtures("little_room")
def test_what_the_spool_has_no_room_for_is_counted_as_shed(tmp_path: Path, broker: Mosquitto) -> None:
    code = MANY.replace('f"{number:05d}"', 'f"{number:05d}" + "x" * 5000')
    broker.stop()
    with start(tmp_path, broker, code=code, top='[spool]\nmax_size = "1MiB"\n') as rig:
        rig.deliver("/in", b"600")
        rig.until(lambda: rig.trigger("f").handled == 1)
        rig.until(lambda: publisher(rig).shed.get("outbox-full", 0) > 300)
        broker.start()
        with Heard(tmp_path, broker) as heard:
            rig.until(lambda: len(heard.lines) + publisher(rig).shed["outbox-full"] == 600)
            numbers = [int(line[:5]) for line in heard.lines]
        assert rig.records.text().count("the spool is full") == 1
        assert numbers == sorted(numbers)
        assert numbers[:50] == list(range(50))  # those in memory are sent, whatever became of their records
        assert numbers[-1] == 599


LARGE = """
def handler(context, event):
    first, last, size = map(int, event.raw_body.split())
    for number in range(first, last):
        context.bindings["broker"].publish("out", f"{number:05d}" + "x" * size, qos=1)
"""
SMALL_SPOOL = '[spool]\nmax_size = "1MiB"\n'  # half of one of its segments has 64 KiB


@pytest.mark.parametrize("durable", [True, False])
def test_a_message_too_large_for_the_spool_waits_in_memory_and_the_others_on_disk(
    tmp_path: Path, broker: Mosquitto, durable: bool
) -> None:
    broker.stop()
    with start(tmp_path, broker, durable=durable, code=LARGE, top=SMALL_SPOOL) as rig:
        rig.deliver("/in", b"0 1 100000")
        rig.deliver("/in", b"1 3 1000")
        rig.until(lambda: rig.trigger("f").handled == 2)
        delivery: Any = rig.processor.delivery
        keeper = publisher(rig).keeper
        rig.until(lambda: keeper.kept() == 2 and not keeper.unsafe())
        rig.turn_for(400)
        assert delivery.spool.refused == {"EFBIG": 1}, "it is not tried again and again"
        assert rig.records.text().count("too large to be stored") == 1
        assert "the spool cannot be used" not in rig.records.text()
        assert rig.processor.differences() == []
        broker.start()
        with Heard(tmp_path, broker) as heard:
            rig.until(lambda: len(heard.lines) == 3)
            assert [int(line[:5]) for line in heard.lines] == [0, 1, 2]
            assert len(heard.lines[0]) == 100_005
        rig.until(lambda: not publisher(rig).waiting)
        assert rig.processor.differences() == []
    assert "messages were not sent" not in rig.records.text()


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_in_memory_only_at_a_stop_is_told_and_what_is_on_disk_is_sent_by_the_next_start(
    tmp_path: Path, broker: Mosquitto, durable: bool
) -> None:
    broker.stop()
    with start(tmp_path, broker, durable=durable, code=LARGE, top=SMALL_SPOOL) as rig:
        rig.deliver("/in", b"0 2 100000")
        rig.deliver("/in", b"2 5 1000")
        rig.until(lambda: rig.trigger("f").handled == 2)
    assert rig.records.text().count("messages were not sent ('unacknowledged', 2)") == 1
    assert rig.processor.exit_code == 0
    with start(tmp_path, broker, durable=durable, code=LARGE, top=SMALL_SPOOL) as rig:
        broker.start()
        with Heard(tmp_path, broker) as heard:
            rig.until(lambda: len(heard.lines) == 3)
            assert [int(line[:5]) for line in heard.lines] == [2, 3, 4]


@pytest.mark.usefixtures("little_room")
def test_a_message_too_large_for_the_spool_goes_ahead_of_what_waits_on_disk(
    tmp_path: Path, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.stop()
    with start(tmp_path, broker, code=LARGE, top=SMALL_SPOOL) as rig:
        rig.deliver("/in", b"0 120 1")
        rig.until(lambda: publisher(rig).keeper.backlog.alone == 20)
        monkeypatch.setattr(mqtt_room, "LIMIT_COUNT", 101)
        rig.deliver("/in", b"120 122 100000")
        rig.until(lambda: publisher(rig).shed == {"outbox-full": 1})
        assert len(publisher(rig).outbox.room.sizes) == 101
        assert rig.processor.differences() == []
    assert "messages were not sent ('outbox-full', 1, 'unacknowledged', 1)" in rig.records.text()


@pytest.mark.parametrize("durable", [True, False])
def test_what_a_disk_did_not_take_is_told_at_the_stop(tmp_path: Path, broker: Mosquitto, durable: bool) -> None:
    broker.stop()
    with start(tmp_path, broker, durable=durable) as rig:
        delivery: Any = rig.processor.delivery
        spool = delivery._begin_to_write()
        spool.disk.write = _no_space
        rig.deliver("/in", b"0 3")
        rig.until(lambda: spool.trouble)
        rig.deliver("/in", b"3 5")
        rig.until(lambda: rig.trigger("f").handled == 2)
    assert rig.records.text().count("messages were not sent ('unacknowledged', 5)") == 1


@pytest.mark.usefixtures("little_room")
def test_without_a_disk_memory_takes_what_it_has_room_for_whatever_is_on_disk(
    tmp_path: Path, broker: Mosquitto
) -> None:
    broker.stop()
    with start(tmp_path, broker) as rig:
        rig.deliver("/in", b"150")
        rig.until(lambda: publisher(rig).keeper.backlog.alone == 50)
        delivery: Any = rig.processor.delivery
        delivery.spool.disk.write = _no_space
    with start(tmp_path, broker) as rig:
        delivery = rig.processor.delivery
        delivery._begin_to_write().disk.write = _no_space
        rig.deliver("/in", b"150 220")
        rig.until(lambda: delivery.spool.trouble)
        rig.deliver("/in", b"220 260")
        rig.until(lambda: rig.trigger("f").handled == 2)
        assert len(publisher(rig).outbox.room.sizes) == 100
        assert publisher(rig).shed == {"outbox-full": 10}
        broker.start()
        with Heard(tmp_path, broker) as heard:
            rig.until(lambda: len(set(heard.lines)) == 250)
            assert set(heard.lines) == {f"{number:05d}" for number in range(250)}


def _no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.usefixtures("little_room")
def test_another_table_of_the_source_takes_the_outbox_over(tmp_path: Path, broker: Mosquitto) -> None:
    from nuclio_edge.manifest import load

    broker.stop()
    with start(tmp_path, broker) as rig:
        rig.deliver("/in", b"300")
        rig.until(lambda: rig.trigger("f").handled == 1)
        text = rig.path.read_text()
        rig.path.write_text(text.replace('client_id = "gw"', 'client_id = "gw2"'))
        done: list[Any] = []
        rig.processor.reload(load(str(rig.path)), (), done.append)
        rig.until(lambda: done and not rig.processor.leaving)
        broker.start()
        with Heard(tmp_path, broker) as heard:
            rig.until(lambda: len(set(heard.lines)) == 300)
            assert list(dict.fromkeys(heard.lines)) == [f"{number:05d}" for number in range(300)]


@pytest.mark.parametrize(("stored", "qos"), [(True, 1), (True, 0), (False, 1)])
@pytest.mark.usefixtures("little_room")
def test_what_is_stored_with_its_key_is_sent_as_the_broker_takes_it_or_counted(
    tmp_path: Path, stored: bool, qos: int
) -> None:
    def script(peer: Peer) -> None:
        peer.handshake(subscribes=False, maximum_packet_size=200, maximum_qos=qos, retain_available=0)
        peer.serve()

    sizes = [10] * 200 + [185, 11]  # the largest one fits by itself
    with FakeBroker(script) as broker:
        if stored:
            broker.refuse()
        with start(tmp_path, broker, code=LONG) as rig:
            if not stored:
                rig.until(lambda: rig.processor.sources["broker"].state == "open")
            rig.deliver("/in", " ".join(map(str, sizes)).encode())
            rig.until(lambda: rig.trigger("f").handled == 1)
            if stored:
                rig.until(lambda: publisher(rig).keeper.backlog.alone > 100)
                broker.listen()
            rig.until(lambda: broker.count("PUBLISH") == 201)
            rig.until(lambda: publisher(rig).waiting == 0)
            found = [one for one in broker.received if one.kind == "PUBLISH"]
            assert [len(one.payload) for one in found] == [10] * 200 + [11]
            assert {(one.qos, one.retain) for one in found} == {(qos, False)}
            assert (publisher(rig).sent, publisher(rig).shed) == (201, {"too-big": 1})
            assert broker.count("CONNECT") == 1
            rig.until(lambda: not rig.processor.delivery.spool.totals()["pending"])  # type: ignore[union-attr]
            assert rig.balanced()
