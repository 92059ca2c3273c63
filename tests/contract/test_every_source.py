"""The source contract over every kind that we have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge import registry
from nuclio_edge.core.coap_codec import CON, NON
from nuclio_edge.sources.memory import MemorySource
from nuclio_edge.sources.timer import TimerSource
from nuclio_edge.testing import Clock, SourceRig, check_source
from tests.contract.coap import CoapRig
from tests.contract.gpio import PinRig, TableRig
from tests.contract.http import HttpRig
from tests.contract.mqtt import MqttRig
from tests.contract.sensor import SensorRig
from tests.contract.serial import SerialRig, SimulatedSerialRig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nuclio_edge.core.event import Event
    from nuclio_edge.manifest.schema import Values
    from tests.certificates import Certificates
    from tests.conftest import StartBroker


class MemoryRig(SourceRig):
    """The world is whoever calls deliver()."""

    source = MemorySource
    trigger: Mapping[str, Any] = {"path": "/in"}
    path = "/in"
    pushes_back = True

    def begin(self) -> None:
        self.outcomes: list[tuple[Event, Any]] = []

    def make(self, name: str, params: Values, host: Any) -> MemorySource:
        self.made = MemorySource(name, params, host)
        return self.made

    def emit(self, body: bytes, path: str = "/in") -> None:
        self.made.deliver(path, body, lambda event, response, error: self.outcomes.append((event, response)))

    def emit_unrouted(self) -> None:
        self.emit(b"", "/nowhere")

    def acknowledged(self) -> int:
        return sum(event._trigger is not None for event, _ in self.outcomes)

    def replied(self) -> list[bytes]:
        return [response.body for _, response in self.outcomes if response is not None]


class TimerRig(SourceRig):
    """The world is the clock."""

    source = TimerSource
    trigger: Mapping[str, Any] = {"every": 1000, "body": "tick"}
    body = b"tick"
    path = "/"
    own_schedule = True

    def begin(self) -> None:
        self.clock = Clock().__enter__()

    def end(self) -> None:
        self.clock.__exit__()

    def emit(self, body: bytes) -> None:
        self.clock.skip(1000)


class CronRig(TimerRig):
    """The same by the wall clock; one event a minute, looked at once a minute."""

    trigger: Mapping[str, Any] = {"cron": "* * * * *", "body": "tick"}

    def emit(self, body: bytes) -> None:
        self.clock.skip(60_000)


def test_the_memory_source() -> None:
    assert len(check_source(MemoryRig())) == 15


@pytest.mark.parametrize("rig", [TimerRig, CronRig])
def test_the_timer_source(rig: type[SourceRig]) -> None:
    assert len(check_source(rig())) == 10


def test_the_sensor_source() -> None:
    assert len(check_source(SensorRig())) == 10


def test_the_serial_source() -> None:
    assert len(check_source(SerialRig())) == 16
    assert len(check_source(SimulatedSerialRig())) == 16


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("rig", "sentences"), [(PinRig, 15), (TableRig, 16)])
def test_the_gpio_source_over_simulated_pins(rig: type[SourceRig], sentences: int) -> None:
    held = check_source(rig())
    assert len(held) == sentences, held


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fast", [True, False], ids=["fast", "stock"])
@pytest.mark.parametrize("version", [3, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_mqtt_source(start_mosquitto: StartBroker, qos: int, version: int, fast: bool) -> None:
    held = check_source(MqttRig(start_mosquitto(persistence=True), qos, version, fast=fast))
    assert len(held) == (15 + 2 * (qos > 0) + (qos > 0 and version == 5)), held


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"])
@pytest.mark.parametrize("kind", [CON, NON], ids=["CON", "NON"])
def test_the_coap_source(kind: int, host: str) -> None:
    assert len(check_source(CoapRig(kind, host))) == 13


# Over TLS on one connection only: of several, whose handshake ends first is nobody's affair.
@pytest.mark.parametrize(("secure", "pipelined", "count"), [(False, False, 14), (False, True, 12), (True, True, 12)])
def test_the_http_source(certificates: Certificates, secure: bool, pipelined: bool, count: int) -> None:
    held = check_source(HttpRig(certificates if secure else None, pipelined=pipelined))
    assert len(held) == count, held


def test_no_kind_is_left_out() -> None:
    assert set(registry.SOURCES) == {"memory", "timer", "mqtt", "coap", "http", "gpio", "serial", "sensor"}
