"""An event by hand: which trigger of a function brings it, and the event as its source would have made it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.functions.function import Function
    from nuclio_edge.manifest.model import FunctionSpec, TriggerSpec


class Wanted:
    """What somebody wants a function to be given. `trigger` is a trigger's name, its source's, or its number."""

    def __init__(
        self,
        body: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
        method: str | None = None,
        path: str | None = None,
        topic: str | None = None,
        trigger: str | None = None,
    ) -> None:
        self.body = body
        self.headers = headers or {}
        self.content_type = content_type
        self.method = method
        self.path = path
        self.topic = topic
        self.trigger = trigger


def choose(spec: FunctionSpec, wanted: Wanted) -> TriggerSpec:
    """The trigger that brings the event; ValueError says why there is none."""
    from nuclio_edge.cli.addresses import clock_trigger, matches
    from nuclio_edge.manifest.problems import listed, quote
    from nuclio_edge.sources.mqtt_params import topic_fault

    triggers = list(spec.triggers)
    if wanted.trigger is not None:
        for key in ("name", "source", "index"):
            found = [trigger for trigger in triggers if str(getattr(trigger, key)) == wanted.trigger]
            if found:
                triggers = found
                break
        else:
            there = listed([f"{t.index} ({t.name})" for t in triggers]) or "none"
            raise ValueError(f"{spec.name} has no trigger {quote(wanted.trigger)}; there are: {there}")
    topic = wanted.topic
    if topic is None and triggers and triggers[0].kind == "mqtt":
        topic = wanted.path  # of a message they are one
    if topic is not None:
        wrong = topic_fault(topic)
        if wrong:
            raise ValueError(wrong)
        triggers = [t for t in triggers if t.kind == "mqtt"]
        found = [t for t in triggers if matches(t.address.topic, topic)]
        if not found:
            filters = listed([quote(t.address.topic) for t in triggers])
            there = f"; its filters: {filters}" if filters else ""
            raise ValueError(f"no trigger of {spec.name} takes {quote(topic)}{there}")
        triggers = found
    return triggers[0] if triggers else clock_trigger(spec.name)


def answer_of(
    function: Function, response: Response | None, error: BaseException | None, mask: Callable[[str], str]
) -> Response:
    """The answer to an event by hand; one that a suspended function was not given says why that cannot run."""
    from nuclio_edge.core.response import Response

    if response is None:
        return Response(body=b"", status_code=200 if error is None else 500)
    if function.suspended is not None and response.body == b"shed: suspended":
        why = mask(f"suspended: {function.suspended}\n{function.fault}".rstrip())
        return Response(body=why.encode(), status_code=response.status_code)
    return response


def make_event(wanted: Wanted, trigger: Trigger, token: object) -> Event:
    """The event as the trigger's source would have made it."""
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.port import now_ms

    event: Event
    spec: Any = trigger.spec
    address = wanted.topic or wanted.path
    if trigger.kind == "mqtt":
        from nuclio_edge.cli.addresses import a_topic
        from nuclio_edge.core.mqtt_properties import CONTENT_TYPE, USER_PROPERTY, pack_properties
        from nuclio_edge.sources.mqtt_event import mqtt_event

        pairs: list[tuple[int, Any]] = [(CONTENT_TYPE, wanted.content_type)] if wanted.content_type else []
        pairs += [(USER_PROPERTY, header) for header in wanted.headers.items()]
        topic = address or a_topic(spec.address.topic)
        first = spec.address.qos << 1
        event = mqtt_event(trigger, 0, first, topic.encode(), pack_properties(pairs), wanted.body, now_ms())
    elif trigger.kind == "http":
        from nuclio_edge.sources.http_event import http_event, make_head

        path = address or spec.address.path.replace("*", "x")
        method = wanted.method or next(iter(spec.address.method), "POST" if wanted.body else "GET")
        more = {"Content-Type": wanted.content_type} if wanted.content_type else {}
        head = make_head(method, path, {**more, **wanted.headers})
        event = http_event(trigger, None, head, wanted.body, ("invoke", "http", ""), now_ms())
    else:
        event = Event.__new__(Event)
        if trigger.kind == "timer":
            from nuclio_edge.sources.timer import TimerEvent

            event = TimerEvent(trigger, now_ms())
        elif trigger.kind == "gpio":
            from nuclio_edge.sources.gpio_event import made

            event = made(trigger, wanted.body, now_ms())
        event._trigger = trigger
        if wanted.body or trigger.kind not in ("timer", "gpio"):
            event.raw_body = wanted.body
        if address or getattr(spec.address, "path", None):
            event.path = address or spec.address.path
        if wanted.content_type or spec.content_type:
            event.content_type = wanted.content_type or spec.content_type
        if wanted.headers:
            event.headers = dict(wanted.headers)
    event._token = token
    if wanted.method:
        event.method = wanted.method
    return event
