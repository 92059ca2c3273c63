"""Nanoseconds of one event in process, without a socket: Event, route, call, metrics; and of a bare Python call. Argument: events.

Prints one line of JSON. CPU time of this thread; interleaved in short rounds, the median of them.
"""

import json
import statistics
import sys
import time

from nuclio_edge.core.context import Context
from nuclio_edge.core.inbox import Budget, Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.router import TopicRouter
from nuclio_edge.core.worker import InlineRunner
from nuclio_edge.sources.mqtt_event import MqttEvent

COUNT = int(sys.argv[1])
ROUNDS = 20


class Source:
    kind, name, content_type, url = "mqtt", "broker", None, "mqtt://x"

    def settle(self, event, response, error):
        pass


class Function:
    name, suspended, outputs, timeout_ms = "f", False, (), 30_000

    def handler(self, context, event):
        pass

    def may_retry(self):
        return False

    def bind(self, context):
        pass


def bare(handler, context, event, count):
    start = time.thread_time_ns()
    for _ in range(count):
        handler(context, event)
    return (time.thread_time_ns() - start) / count


def runtime(router, topics, body, wall, token, count):
    match = router.match
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


def no_op(context, event):
    pass


def reads(context, event):
    len(event.body)
    event.topic


function = Function()
function.handler = no_op
context, router = Context(), TopicRouter()
triggers = [Trigger(function, Source(), Loop(), budget=Budget(1 << 20, 1 << 16))]
router.add("sensors/+/temperature", triggers[0])
InlineRunner(function, context).attach(triggers[0])
reading = Function()
reading.handler = reads
triggers.append(Trigger(reading, Source(), Loop(), budget=Budget(1 << 20, 1 << 16)))
readers = TopicRouter()
readers.add("sensors/+/temperature", triggers[1])
InlineRunner(reading, Context()).attach(triggers[1])

topics = [b"sensors/%04d/temperature" % i for i in range(100)]
found = {"bare call": [], "runtime": [], "runtime, handler reads topic and body": [], "runtime, to be acknowledged": []}
for _ in range(ROUNDS):
    part = COUNT // ROUNDS
    found["bare call"].append(bare(no_op, context, None, part))
    found["runtime"].append(runtime(router, topics, b"x" * 64, 1, None, part))
    found["runtime, handler reads topic and body"].append(runtime(readers, topics, b"x" * 64, 1, None, part))
    found["runtime, to be acknowledged"].append(runtime(router, topics, b"x" * 64, 1, 1, part))
for trigger in triggers:
    assert trigger.admitted == trigger.handled > 0 and trigger.pending == 0 and sum(trigger.buckets) == trigger.handled
print(json.dumps({name: statistics.median(values) for name, values in found.items()}))
