"""A burst of deliveries of every kind, handled on a thread or on the loop: each is acknowledged once, by what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.fake_broker import FakeBroker, Peer
from tests.mqtt_packets import publish
from tests.rig import Rig

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = "seen = []\ndef handler(context, event):\n    seen.append(event.raw_body)\n"
MANIFEST = """
[source.broker]
kind = "mqtt"
url = "{url}"
version = {version}
receive_maximum = 1000

[function.f]
handler = "f.py"
isolation = "{isolation}"
[[function.f.trigger]]
topic = "both/#"
durable = {durable}
[[function.f.trigger]]
topic = "one/#"
durable = {durable}
[function.g]
handler = "g.py"
[[function.g.trigger]]
topic = "both/#"
durable = {durable}
"""


@pytest.mark.parametrize("durable", ["true", "false"])
@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("isolation", ["thread", "inline"])
def test_every_delivery_of_a_burst_is_acknowledged_once(
    tmp_path: Path, version: int, durable: str, isolation: str
) -> None:
    packets = b""
    puback: list[int] = []
    pubrec: list[int] = []
    asked: list[bytes] = []
    for mid in range(1, 301):
        kind = mid % 5
        topic = "both/a" if kind == 4 else "one/a"
        props: dict[str, Any] = {}
        if kind == 3 and version == 5:
            props = {"response_topic": "answers", "correlation_data": str(mid).encode()}
            asked.append(str(mid).encode())
        qos = 2 if kind == 2 else 1
        (pubrec if qos == 2 else puback).append(mid)
        packets += publish(topic, str(mid).encode(), qos, mid, version=5 if version == 5 else 4, **props)

    def burst(peer: Peer) -> None:
        peer.handshake()
        peer.send(packets)
        peer.serve()

    with FakeBroker(burst) as broker:
        manifest = MANIFEST.format(url=broker.url, version=version, durable=durable, isolation=isolation)
        with Rig(tmp_path, manifest, f=COUNTS, g=COUNTS) as rig:
            rig.until(lambda: broker.count("PUBACK") >= len(puback), "the acknowledgements")
            rig.until(lambda: broker.count("PUBREC") >= len(pubrec), "those of QoS 2")
            rig.until(lambda: broker.count("PUBLISH") >= len(asked), "the answers")
            found = broker.received
            assert sorted(one.mid or 0 for one in found if one.kind == "PUBACK") == puback
            assert sorted(one.mid or 0 for one in found if one.kind == "PUBREC") == pubrec
            answers = [one.properties["correlation_data"] for one in found if one.kind == "PUBLISH"]
            assert sorted(answers) == sorted(asked)
            for name, count in (("f", 300), ("g", 60)):
                seen = rig.processor.functions[name].handler.__globals__["seen"]
                assert len(seen) == len(set(seen)) == count
            assert rig.balanced()
            assert rig.processor.sources["broker"].intake.session.stale == 0
