"""One event through one function: a processor whose sources are stand-ins, and what it makes of the event.

Nothing is opened unless the call says `send`; what goes through outputs and bindings is noted either way.
"""

from __future__ import annotations

import sys
import time

from nuclio_edge.cli import ANSWERED, FAULT, OK, PROGRAM
from nuclio_edge.cli.beside import Beside
from nuclio_edge.core.response import Response
from nuclio_edge.invocation import answer_of, make_event
from nuclio_edge.manifest.model import changed
from nuclio_edge.processor import READY_PATIENCE_MS
from nuclio_edge.trial import Noted, note_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.invocation import Wanted
    from nuclio_edge.logs import Log
    from nuclio_edge.manifest.model import FunctionSpec, Manifest, OutputSpec, SourceSpec, TriggerSpec
    from nuclio_edge.trial import Sent

# Kinds whose bindings only queue while the source is closed: the call itself may be made, so that a topic or a payload
# that the real one would refuse is refused here as well.
_QUEUEING = ("mqtt", "memory")


class Call:
    """One invocation: what is to be run, and what came of it."""

    def __init__(
        self,
        spec: FunctionSpec,
        trigger: TriggerSpec,
        wanted: Wanted,
        *,
        level: str = "info",
        limit_ms: int = 60_000,
        send: bool = False,
    ) -> None:
        # One attempt: who tries a function out wants to see the first failure, not to wait for the third. A batch is
        # full with this event. And what is waited for begins when the code is there.
        retry, batch = changed(trigger.retry, attempts=1), trigger.batch and changed(trigger.batch, size=1)
        self.trigger = changed(trigger, retry=retry, batch=batch)
        self.spec = changed(spec, triggers=(self.trigger,), disabled=False, load="start")
        self.wanted = wanted
        self.level = level
        self.limit_ms = limit_ms
        self.send = send
        self.event: Event | None = None
        self.response: Response | None = None
        self.sent: list[Sent] = []
        self.elapsed_ns = 0


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
        once = self._once
        once.answered(answer_of(once.functions[once.call.spec.name], response, error, once.log.masked))

    def send(self, output: Any, response: Response, event: Event) -> None:
        """An output, with --send."""
        self.real.send(output, response, event)

    def sent(self) -> bool:
        """Whether nothing is on its way any more."""
        return not self._once.call.send or getattr(self.real, "sent", lambda: True)()

    def stop_receiving(self) -> None:
        """Nothing was received."""

    def close(self) -> None:
        """Close the real one; without --send it was never opened, and what it queued it would tell as lost."""
        if self._once.call.send or self.kind not in _QUEUEING:
            self.real.close()

    def _binding(self, context: Context) -> Any:
        call = self._once.call
        really = call.send or self.kind in _QUEUEING
        return Noted(self.real.binding(context), self.name, context, call.sent, really=really)


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
        self._limit: Any = None
        bindings = manifest.sources if call.spec.bindings is None else call.spec.bindings
        self._needed = {*bindings, *(output.to for output in call.spec.outputs)}
        self._others_until = 0
        self.intercept(self._output)

    def answer(self) -> int:
        """Run the event to its end; returns the exit code."""
        self._limit = self.loop.call_later(self.call.limit_ms, self._too_late)
        self.open()
        self._others_until = self.loop.now + min(READY_PATIENCE_MS, self.call.limit_ms // 2)
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
        if self.stopping:
            return
        function = self.functions[self.call.spec.name]
        if self._connecting() or not function.settled():
            self.loop.call_later(20, self._begin)
            return
        self._limit.cancel()
        self._limit = self.loop.call_later(self.call.limit_ms, self._too_late)
        trigger = function.triggers[0]
        self.call.event = event = make_event(self.call.wanted, trigger, self.call)
        trigger.source.received += 1
        trigger.source.routed += 1
        self._since = time.perf_counter_ns()
        trigger.submit(event)

    def _connecting(self) -> list[str]:
        """What is waited for: what the function can send by; of what it can call somebody for a moment only."""
        moment = self.loop.now < self._others_until
        return [
            name
            for name, source in self.sources.items()
            if source.state == "connecting"
            and (name in self._needed or (moment and getattr(source.real, "attempts", 0) < 2))
        ]

    def _too_late(self) -> None:
        if self.call.event is None:
            away = ", ".join(self._connecting())
            what = f"no connection to {away}" if away else f"{self.call.spec.name} has not started"
            if self.assembly.importing:
                what = "the import has not ended"
            print(f"{PROGRAM} invoke: {what} within --timeout", file=sys.stderr)
            self.stop()
        else:
            self.answered(Response(body=b"no answer within --timeout", status_code=408))

    def _output(self, output: OutputSpec, response: Response, event: Event) -> None:
        self.call.sent.append(note_output(output, response))
        if self.call.send:
            self.sources[output.to].send(output.params, response, event)
