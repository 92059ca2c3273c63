"""One event through one function: a processor whose sources are stand-ins, and what it makes of the event.

Nothing is opened unless the call says `send`; what goes through outputs and bindings is noted either way.
"""

from __future__ import annotations

import inspect
import sys
import time

from nuclio_edge.cli import ANSWERED, FAULT, OK, PROGRAM
from nuclio_edge.cli.beside import Beside, changed
from nuclio_edge.core.response import Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.logs import Log
    from nuclio_edge.manifest.model import FunctionSpec, Manifest, OutputSpec, SourceSpec, TriggerSpec

# Kinds whose bindings only queue while the source is closed: the call itself may be made, so that a topic or a payload
# that the real one would refuse is refused here as well.
_QUEUEING = ("mqtt", "memory")


class Call:
    """One invocation: what is to be run, and what came of it."""

    def __init__(
        self,
        spec: FunctionSpec,
        trigger: TriggerSpec,
        *,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
        method: str | None = None,
        address: str | None = None,
        level: str = "info",
        limit_ms: int = 60_000,
        send: bool = False,
    ) -> None:
        # One attempt: who tries a function out wants to see the first failure, not to wait for the third.
        self.trigger = changed(trigger, retry=changed(trigger.retry, attempts=1), batch=None)
        self.spec = changed(spec, triggers=(self.trigger,), disabled=False)
        self.body = body
        self.headers = headers or {}
        self.content_type = content_type
        self.method = method
        self.address = address  # topic or path
        self.level = level
        self.limit_ms = limit_ms
        self.send = send
        self.event: Event | None = None
        self.response: Response | None = None
        self.sent: list[Sent] = []
        self.elapsed_ns = 0


class Sent:
    """One thing that was, or would be, sent: `broker.publish("t", "ON")`, or an output."""

    def __init__(self, binding: str, call: str, arguments: dict[str, Any], *, output: bool = False) -> None:
        self.binding = binding
        self.call = call
        self.arguments = arguments
        self.output = output

    def line(self) -> str:
        """As it would stand in a handler."""
        shown = ", ".join(
            _shown(value) if at < 2 else f"{key}={_shown(value)}"
            for at, (key, value) in enumerate(self.arguments.items())
        )
        return f"{self.binding}.{self.call}({shown})"

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        arguments = {
            key: text_of(value) if isinstance(value, bytes) else value for key, value in self.arguments.items()
        }
        return {"to": self.binding, "call": self.call, "arguments": arguments, "output": self.output}


class StandIn:
    """Stands for a source: gets the outcome of the event, and notes what is sent through it."""

    replies = True
    acks = True

    def __init__(self, real: Any, once: Once) -> None:
        self.real = real
        self.kind: str = real.kind
        self.name: str = real.name
        self.url: str = getattr(real, "url", "")
        self.content_type: str | None = getattr(real, "content_type", None)
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self._once = once
        if hasattr(real, "binding"):
            self.binding = self._binding

    @property
    def state(self) -> str:
        """The real one's with --send, else as good as open."""
        return str(self.real.state) if self._once.call.send else "open"

    def routes(self, triggers: list[Trigger]) -> None:
        """Nothing is subscribed to."""

    def open(self) -> None:
        """With --send, the connection that it takes."""
        if self._once.call.send and hasattr(self.real, "binding"):
            self.real.open()

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """The event has come to its end."""
        self._once.answered(response or Response(body=b"", status_code=200 if error is None else 500))

    def send(self, output: Any, response: Response, event: Event) -> None:
        """An output, with --send."""
        self.real.send(output, response, event)

    def sent(self) -> bool:
        """Whether nothing is on its way any more."""
        return not self._once.call.send or getattr(self.real, "sent", lambda: True)()

    def stop_receiving(self) -> None:
        """Nothing was received."""

    def close(self) -> None:
        """Close the real one; it was never opened without --send."""
        self.real.close()

    def _binding(self, context: Context) -> Any:
        return Noted(self.real.binding(context), self, context, self._once.call)


class Noted:
    """A binding whose calls are noted; they are made only with --send, and where nothing can come of it."""

    def __init__(self, real: Any, source: StandIn, context: Context, call: Call) -> None:
        self._real = real
        self._source = source
        self._context = context
        self._call = call

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._real, name)
        if not callable(real):
            return real

        def noted(*arguments: Any, **named: Any) -> Any:
            self._context.check()
            bound = inspect.signature(real).bind(*arguments, **named)
            given: dict[str, Any] = {}
            for key, value in bound.arguments.items():
                kind = bound.signature.parameters[key].kind
                given.update(value if kind is inspect.Parameter.VAR_KEYWORD else {key: value})
            result = None
            if self._call.send or self._source.kind in _QUEUEING:
                result = real(*arguments, **named)
            self._call.sent.append(Sent(self._source.name, name, given))
            return result

        return noted


class Once(Beside):
    """A processor of one function that handles one event."""

    def __init__(self, manifest: Manifest, log: Log, call: Call) -> None:
        from nuclio_edge.manifest.schema import values

        keys = tuple(manifest.log.__slots__)
        levels = values(keys, {**{key: getattr(manifest.log, key) for key in keys}, "level": call.level})
        # The others are there to be called by it; nothing else reaches them, and none is loaded before that.
        functions = {
            name: changed(spec, triggers=(), load="first-event")
            for name, spec in manifest.functions.items()
            if not spec.disabled
        }
        functions[call.spec.name] = call.spec
        super().__init__(changed(manifest, log=levels), log, "invoke", functions)
        self.call = call
        self._code = FAULT
        self._since = 0
        self.intercept(self._output)

    def answer(self) -> int:
        """Run the event to its end; returns the exit code."""
        self.loop.call_later(self.call.limit_ms, self._too_late)
        self.open()
        self.loop.call_soon(self._begin)
        self.run()
        return self._code

    def answered(self, response: Response) -> None:
        """The answer is there."""
        if self.call.response is None:
            self.call.elapsed_ns = time.perf_counter_ns() - self._since
            self.call.response = response
            self._code = ANSWERED if response.status_code >= 400 else OK
            self.loop.call_soon(self.stop)

    def make_source(self, spec: SourceSpec) -> Any:
        """The stand-in of a source."""
        return StandIn(super().make_source(spec), self)

    def _begin(self) -> None:
        if any(source.state == "connecting" for source in self.sources.values()):
            self.loop.call_later(20, self._begin)
            return
        function = self.functions[self.call.spec.name]
        trigger = function.triggers[0]
        self.call.event = event = make_event(self.call, trigger)
        trigger.source.received += 1
        trigger.source.routed += 1
        self._since = time.perf_counter_ns()
        trigger.submit(event)

    def _too_late(self) -> None:
        if self.call.event is None:
            waiting = ", ".join(name for name, source in self.sources.items() if source.state == "connecting")
            what = "the import has not ended" if self.assembly.importing else f"no connection to {waiting}"
            print(f"{PROGRAM} invoke: {what} within --timeout", file=sys.stderr)
            self.stop()
        else:
            self.answered(Response(body=b"no answer within --timeout", status_code=408))

    def _output(self, output: OutputSpec, response: Response, event: Event) -> None:
        given = {key: value for key in output.params.__slots__ if (value := getattr(output.params, key)) is not None}
        first = next(iter(given), None)
        ordered = (
            {first: given.pop(first), "payload": response.body} if first is not None else {"payload": response.body}
        )
        self.call.sent.append(
            Sent(output.to, "publish" if "topic" in ordered else "send", {**ordered, **given}, output=True)
        )
        if self.call.send:
            self.sources[output.to].send(output.params, response, event)


def make_event(call: Call, trigger: Trigger) -> Event:
    """The event as the trigger's source would have made it."""
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.port import now_ms

    event: Event
    spec: Any = trigger.spec
    if trigger.kind == "mqtt":
        from nuclio_edge.cli.addresses import a_topic
        from nuclio_edge.core.mqtt_properties import CONTENT_TYPE, USER_PROPERTY, pack_properties
        from nuclio_edge.sources.mqtt_event import mqtt_event

        pairs: list[tuple[int, Any]] = [(CONTENT_TYPE, call.content_type)] if call.content_type else []
        pairs += [(USER_PROPERTY, header) for header in call.headers.items()]
        topic = call.address or a_topic(spec.address.topic)
        first = spec.address.qos << 1
        event = mqtt_event(trigger, 0, first, topic.encode(), pack_properties(pairs), call.body, now_ms())
    elif trigger.kind == "http":
        from nuclio_edge.sources.http_event import http_event, make_head

        path = call.address or spec.address.path.replace("*", "x")
        method = call.method or next(iter(spec.address.method), "POST" if call.body else "GET")
        more = {"Content-Type": call.content_type} if call.content_type else {}
        head = make_head(method, path, {**more, **call.headers})
        event = http_event(trigger, None, head, call.body, ("invoke", "http", ""), now_ms())
    else:
        event = Event.__new__(Event)
        if trigger.kind == "timer":
            from nuclio_edge.sources.timer import TimerEvent

            event = TimerEvent(trigger, now_ms())
        elif trigger.kind == "gpio":
            from nuclio_edge.sources.gpio_event import made

            event = made(trigger, call.body, now_ms())
        event._trigger = trigger
        if call.body or trigger.kind not in ("timer", "gpio"):
            event.raw_body = call.body
        if call.address or getattr(spec.address, "path", None):
            event.path = call.address or spec.address.path
        if call.content_type or spec.content_type:
            event.content_type = call.content_type or spec.content_type
        if call.headers:
            event.headers = dict(call.headers)
    event._token = call
    if call.method:
        event.method = call.method
    return event


def text_of(body: bytes) -> str:
    """Bytes in JSON: their text, or Latin-1 escapes of what is none, as Python shows them."""
    try:
        return body.decode()
    except UnicodeDecodeError:
        return repr(body)


def _shown(value: Any) -> str:
    return repr(value.decode()) if isinstance(value, bytes) and value.isascii() else repr(value)
