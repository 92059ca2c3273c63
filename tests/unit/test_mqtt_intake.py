"""The way in of MQTT: what becomes of a delivery whose function has a defect of ours on the way."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from nuclio_edge.core.inbox import Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.sources.mqtt_intake import Intake
from nuclio_edge.sources.mqtt_subscribe import Subscriptions


@pytest.mark.parametrize("settled", [False, True])
def test_a_delivery_whose_taking_goes_wrong_is_still_to_be_acknowledged_once(settled: bool) -> None:
    loop = Loop()
    written: list[bytes] = []
    intake = Intake(loop, written.append, print, print)
    source: Any = SimpleNamespace(kind="mqtt", name="broker", content_type=None)
    spec = SimpleNamespace(address=SimpleNamespace(topic="a", qos=1), content_type=None)
    trigger = Trigger(SimpleNamespace(name="f"), source, loop, spec=spec)
    taken: list[Any] = []

    def submit(event: Any) -> bool:
        taken.append(event)
        if settled:
            intake.session.settle(event)
        if event.raw_body == b"bad":
            raise RuntimeError("an output")
        return True

    trigger.submit = submit
    intake.follow(Subscriptions([trigger], v5=False, numbered=False))
    intake.on_publish(0x32, b"a", 1, b"", b"first")  # so that the topic is known
    with pytest.raises(RuntimeError, match="an output"):
        intake.on_publish(0x32, b"a", 2, b"", b"bad")
    intake.on_publish(0x32, b"a", 3, b"", b"behind")
    if not settled:
        assert sorted(intake.session.unsettled) == [1, 2, 3]
        for event in taken:
            intake.session.settle(event)
    intake.session.flush()
    assert written == [bytes.fromhex("40020001 40020002 40020003")]
    assert not intake.session.unsettled
    assert intake.session.stale == 0
    loop.close()
