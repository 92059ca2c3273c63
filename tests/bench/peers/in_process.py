"""Nanoseconds of one event in process: Event, route, call, metrics; and of a bare Python call. Argument: events.

An event begins as the call of `on_publish` that the MQTT source's reader makes. Prints one line of JSON: CPU
time of this thread; interleaved in short rounds, the median of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from nuclio_edge.core.context import Context
from nuclio_edge.core.inbox import Budget, Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.worker import InlineRunner
from nuclio_edge.sources.mqtt_intake import Intake
from nuclio_edge.sources.mqtt_subscribe import Subscriptions

Handler = Callable[[Context, Any], None]
COUNT = int(sys.argv[1])
ROUNDS = 20


class Source:
    """The way in of an MQTT source; what it would write goes nowhere."""

    kind, name, content_type, url = "mqtt", "broker", None, "mqtt://x"

    def __init__(self, loop: Loop) -> None:
        self.intake = Intake(loop, len, print, print)

    def settle(self, event: Any, response: object, error: object) -> None:
        """Acknowledge it."""
        self.intake.session.settle(event)


class Function:
    """As little of a function as the core asks for."""

    name, suspended, outputs, timeout_ms = "f", False, (), 30_000

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def bind(self, context: Context) -> None:
        """Nothing."""

    def prepare(self, context: Context) -> None:
        """Nothing to import."""

    def on_started(self) -> None:
        """Nothing."""


def bare(handler: Handler, context: Context, event: Any, count: int) -> float:
    start = time.thread_time_ns()
    for _ in range(count):
        handler(context, event)
    return (time.thread_time_ns() - start) / count


def runtime(intake: Intake, packet_id: int, count: int) -> float:
    """The intake's inner loop and all behind it; with a packet identifier, what is owed is written every 100 events."""
    on_publish, flush = intake.on_publish, intake.session.flush
    body = b"x" * 64
    first = 0x32 if packet_id else 0x30
    start = time.thread_time_ns()
    for _ in range(count // len(topics)):
        for topic in topics:
            on_publish(first, topic, packet_id, b"", body)
        flush()
    took = time.thread_time_ns() - start
    intake.loop.turn(0)
    return took / (count // len(topics) * len(topics))


def no_op(context: Context, event: Any) -> None:
    pass


def reads(context: Context, event: Any) -> None:
    len(event.body)
    len(event.topic or "")


def intake_to(handler: Handler) -> Intake:
    """An intake whose plan sends everything to one inline function."""
    loop = Loop()
    source = Source(loop)
    function = Function(handler)
    spec = SimpleNamespace(address=SimpleNamespace(topic="sensors/+/temperature", qos=1), content_type=None)
    trigger = Trigger(function, source, loop, spec=spec, budget=Budget(1 << 20, 1 << 16))
    triggers.append(trigger)
    InlineRunner(function, lambda worker: Context()).attach(trigger)
    source.intake.follow(Subscriptions([trigger], v5=False, numbered=False))
    return source.intake


topics = [b"sensors/%04d/temperature" % i for i in range(100)]
triggers: list[Trigger] = []
quiet, reading = intake_to(no_op), intake_to(reads)
found: dict[str, list[float]] = {
    "bare call": [],
    "runtime": [],
    "runtime, handler reads topic and body": [],
    "runtime, to be acknowledged": [],
}
for _ in range(ROUNDS):
    part = COUNT // ROUNDS
    found["bare call"].append(bare(no_op, Context(), None, part))
    found["runtime"].append(runtime(quiet, 0, part))
    found["runtime, handler reads topic and body"].append(runtime(reading, 0, part))
    found["runtime, to be acknowledged"].append(runtime(quiet, 1, part))
for trigger in triggers:
    assert trigger.admitted == trigger.handled > 0 and trigger.pending == 0 and sum(trigger.buckets) == trigger.handled
print(json.dumps({name: statistics.median(values) for name, values in found.items()}))
