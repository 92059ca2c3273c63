"""Nanoseconds of one event in process: Event, route, call, metrics; and of a bare Python call. Argument: events.

Prints one line of JSON. CPU time of this thread; interleaved in short rounds, the median of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from nuclio_edge.core.context import Context
from nuclio_edge.core.inbox import Budget, Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.router import TopicRouter
from nuclio_edge.core.worker import InlineRunner
from nuclio_edge.sources.mqtt_event import MqttEvent

Handler = Callable[[Context, Any], None]
COUNT = int(sys.argv[1])
ROUNDS = 20


class Source:
    """Nobody waits for its acknowledgements."""

    kind, name, content_type, url = "mqtt", "broker", None, "mqtt://x"

    def settle(self, event: MqttEvent, response: object, error: object) -> None:
        """Nothing."""


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


def runtime(router: TopicRouter, token: int | None, count: int) -> float:
    match = router.match
    body, wall = b"x" * 64, 1
    start = time.thread_time_ns()
    known = router.known
    for _ in range(count // len(topics)):
        for topic in topics:
            triggers = known.get(topic)
            if triggers is None:
                triggers = match(topic)
            for trigger in triggers:
                trigger.submit(MqttEvent(trigger, token, 0x30, topic, b"", body, wall))
    return (time.thread_time_ns() - start) / (count // len(topics) * len(topics))


def no_op(context: Context, event: MqttEvent) -> None:
    pass


def reads(context: Context, event: MqttEvent) -> None:
    len(event.body)
    len(event.topic or "")


def router_to(handler: Handler) -> TopicRouter:
    function = Function(handler)
    trigger = Trigger(function, Source(), Loop(), budget=Budget(1 << 20, 1 << 16))
    triggers.append(trigger)
    InlineRunner(function, lambda worker: Context()).attach(trigger)
    router = TopicRouter()
    router.add("sensors/+/temperature", trigger)
    return router


topics = [b"sensors/%04d/temperature" % i for i in range(100)]
triggers: list[Trigger] = []
quiet, reading = router_to(no_op), router_to(reads)
found: dict[str, list[float]] = {
    "bare call": [],
    "runtime": [],
    "runtime, handler reads topic and body": [],
    "runtime, to be acknowledged": [],
}
for _ in range(ROUNDS):
    part = COUNT // ROUNDS
    found["bare call"].append(bare(no_op, Context(), None, part))
    found["runtime"].append(runtime(quiet, None, part))
    found["runtime, handler reads topic and body"].append(runtime(reading, None, part))
    found["runtime, to be acknowledged"].append(runtime(quiet, 1, part))
for trigger in triggers:
    assert trigger.admitted == trigger.handled > 0 and trigger.pending == 0 and sum(trigger.buckets) == trigger.handled
print(json.dumps({name: statistics.median(values) for name, values in found.items()}))
