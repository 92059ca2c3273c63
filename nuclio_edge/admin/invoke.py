"""`POST /invoke/NAME`: one event through a function of the running processor: its code, its workers, its environment.

The body is the event's, Content-Type and the other headers are as well. The query says the rest, each optional:

    headers={"n": "v"} more of them, as a JSON object: also what a header of HTTP cannot be
    trigger=NAME      the trigger that brings it: a name, a source or a number; default: the first
    topic=a/b, path=/x, method=PUT
    send=no           a trial: a worker of its own, with a fresh context, whose bindings and outputs only note what they
                      would send. Default: yes, everything is real
    timeout=1m        how long to wait for the answer
    logs=debug        with `whole`: also what the handler logs, from this level on
    whole=yes         answer with one JSON object (event, status, headers, body, sent, logs, changed) instead of the
                      function's answer itself

The event looks as if its trigger's source had made it, and is counted by itself: `function.x.trigger[0].invoke`.
"""

from __future__ import annotations

import os
from binascii import b2a_base64

from nuclio_edge.bindings.named import HEARERS
from nuclio_edge.core import port
from nuclio_edge.core.inbox import Trigger
from nuclio_edge.core.log import LEVELS
from nuclio_edge.core.port import json_dumps, json_loads
from nuclio_edge.functions.files import read_by, stamp_at
from nuclio_edge.invocation import Wanted, answer_of, choose, make_event
from nuclio_edge.logs import TAPS, as_json
from nuclio_edge.manifest.model import changed
from nuclio_edge.sources.http_head import headers
from nuclio_edge.trial import Noted, note_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.response import Response
    from nuclio_edge.functions.function import Function
    from nuclio_edge.manifest.model import TriggerSpec
    from nuclio_edge.processor import Processor
    from nuclio_edge.sources.http_exchange import Exchange
    from nuclio_edge.trial import Sent

NAME = "invoke"
KNOWN = ("headers", "trigger", "topic", "path", "method", "send", "timeout", "logs", "whole")
SIZE = 64  # events that wait in an inbox of ours
LIMIT_MS = 60_000
LOG_BYTES = 64 * 1024
# What belongs to the request and not to the event.
_TRANSPORT = frozenset((
    "accept", "accept-encoding", "connection", "content-length", "content-type", "expect", "host", "origin",
    "transfer-encoding", "user-agent",
))  # fmt: skip


class Invocations:
    """The source of the events that somebody wants to be run by hand."""

    kind = name = NAME
    state = "open"

    def __init__(self, processor: Processor) -> None:
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.processor = processor
        processor.own_sources.append(self)

    def begin(self, exchange: Exchange, name: str) -> None:
        """Run what a request asks for and answer it when that is done."""
        from .server import refuse

        processor = self.processor
        function = processor.functions.get(name)
        if function is None:
            from nuclio_edge.manifest.problems import suggest

            hint = suggest(name, processor.functions) or "GET /functions tells which there are"
            refuse(exchange, 404, f"no function is named {name!r} in the processor that runs; {hint}")
            return
        if processor.stopping:
            refuse(exchange, 503, "the processor stops")
            return
        try:
            call = Call(self, exchange, function)
        except ValueError as error:
            refuse(exchange, 400, str(error))
            return
        if not call.real and getattr(function.runner, "lost", 0) > 0:
            refuse(exchange, 503, "its handlers hang; another one is not begun for a trial")
            return
        self.received += 1
        self.routed += 1
        call.submit()


class Origin:
    """Stands for a trigger's source: the event looks as if it came from there, the outcome comes here."""

    def __init__(self, kind: str, name: str, real: Any) -> None:
        self.kind = kind
        self.name = name
        self.url: str = getattr(real, "url", "")
        self.content_type: str | None = getattr(real, "content_type", None)

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """The event has come to its end."""
        call: Call = event._token
        call.answer(event, response, error)


class Call:
    """One invocation; ValueError says what is wrong with the request. Also the tap of its log records."""

    def __init__(self, invocations: Invocations, exchange: Exchange, function: Function) -> None:
        from nuclio_edge.core.decode_text import form
        from nuclio_edge.manifest.units import duration_ms

        asked: dict[str, str] = form(exchange.head.query)
        unknown = [key for key in asked if key not in KNOWN]
        if unknown:
            raise ValueError(f"the query has no {unknown[0]!r}; it has {', '.join(KNOWN)}")
        limit = duration_ms(asked["timeout"]) if "timeout" in asked else LIMIT_MS
        if not limit:
            raise ValueError('timeout is a duration, e.g. "30s"')
        self.exchange = exchange
        self.function = function
        self.processor = invocations.processor
        self.real = _yes(asked, "send", True)
        self.whole = _yes(asked, "whole", False)
        self.level = LEVELS.get(asked.get("logs", "info"), LEVELS["info"])  # of the records taken
        self.own = self.processor.logger.level  # what the log takes anyhow
        self.logs: list[str] = []
        self.sent: list[Sent] = []
        self.wanted = _wanted(exchange, asked)
        self.spec = choose(function.spec, self.wanted)
        self._taken = 0
        self._over = False
        self._since = 0
        self._event: Event | None = None
        self._trial: Function | None = None
        self._timer = self.processor.loop.call_later(limit, self._too_late)

    def submit(self) -> None:
        """Hand the event to the function."""
        if self.real:
            trigger = self._trigger(self.function)
        else:
            from .trial import begin

            self._trial, trigger = begin(self)
        self._event = event = make_event(self.wanted, trigger, self)
        if self.whole:
            TAPS[event.id] = self
            if self.real:
                HEARERS[event.id] = self.hear
        self._since = port.clock()
        if not trigger.submit(event):  # an event of the function runs alone, after a crash: nothing else may
            trigger.turn_away(event, "reject")

    def take(self, record: Any) -> bool:
        """Keep a log record of the handler; whether it is for nobody else. Any thread."""
        level: int = record[1]
        if self.whole and level >= self.level and self._taken < LOG_BYTES:
            text = as_json(record, self.processor.log.masked)
            self._taken += len(text)
            self.logs.append(text)
        return level < self.own

    def hear(self, name: str, binding: Any, context: Context) -> Noted:
        """A binding that notes what the event's handler sends by it. Any thread."""
        like = binding
        if self.processor.assembly.recorder is not None:
            from nuclio_edge.recorder.witness import real_of

            like = real_of(binding)
        return Noted(binding, name, context, self.sent, really=True, like=like)

    def answer(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """The outcome is there, once."""
        self._timer.cancel()
        function = self._trial or self.function
        if self.whole:
            TAPS.pop(event.id, None)
            HEARERS.pop(event.id, None)
            if self.real and response is not None and response.status_code < 400:
                self.sent += [note_output(output, response) for output in function.spec.outputs]
        if self._trial is not None:
            from nuclio_edge.reload import let_go

            trial, self._trial = self._trial, None
            self.processor.loop.call_later(0, lambda: let_go(self.processor, trial))
        if self._over:
            return
        self._over = True
        from nuclio_edge.functions.calls import whole

        got = whole(answer_of(function, response, error, self.processor.log.masked))
        try:
            if self.whole:
                text = json_dumps(self._about(event, got))
                self.exchange.answer(200, "application/json", text.encode())
            else:
                named = {**got.headers, "X-Nuclio-Edge-Event": event.id}
                self.exchange.answer(max(got.status_code, 200), got.content_type, _bytes(got), named)
        except ValueError as wrong:  # a header that HTTP does not allow
            self.exchange.answer(500, "text/plain", str(wrong).encode())

    def _about(self, event: Event, got: Response) -> dict[str, Any]:
        return {
            "function": self.function.name,
            "version": self.function.version,
            "trigger": self.spec.ledger_id,
            "event": {"id": event.id, "kind": event.trigger.kind, "name": event.trigger.name, "path": event.path or ""},
            "status": got.status_code,
            "content_type": got.content_type,
            "headers": {key: str(value) for key, value in got.headers.items() if key != "Content-Type"},
            "body_base64": b2a_base64(_bytes(got), newline=False).decode(),
            "really_sent": self.real,
            "sent": [{**one.as_dict(), "line": one.line()} for one in self.sent],
            "elapsed_ms": round((port.clock() - self._since) / port.TICKS_PER_MS, 3),
            "logs": self.logs,
            "changed": _changed(self.function) if self.real or self.function.spec.isolation != "process" else [],
            "pid": os.getpid(),
        }

    def _too_late(self) -> None:
        """Whoever asked waits no longer; the event goes on, and is counted when it ends."""
        self._over = True
        from .server import refuse

        refuse(self.exchange, 408, "no answer within the timeout; the function goes on")

    def _trigger(self, function: Function) -> Trigger:
        """The trigger of the function that is for invocations by way of this one; made for the first of them."""
        ledger_id = f"{self.spec.ledger_id}.{NAME}"
        for trigger in function.triggers:
            if trigger.ledger_id == ledger_id:
                return trigger
        from nuclio_edge.functions.calls import attach

        made = make_trigger(self, function, ledger_id)
        attach(function, made)
        return made


def make_trigger(call: Call, function: Function, ledger_id: str) -> Trigger:
    """A trigger by which an invoked event reaches a function."""
    spec: TriggerSpec = call.spec
    processor = call.processor
    return Trigger(
        function,
        Origin(spec.kind, spec.source, processor.sources.get(spec.source)),
        processor.loop,
        ledger_id,
        spec.name,
        size=SIZE,
        when_full="reject",
        spec=changed(spec, batch=None),
        budget=processor.budget,
    )


def _wanted(exchange: Exchange, asked: dict[str, str]) -> Wanted:
    fields: dict[str, str] = {}
    content_type = None
    for name, value in _more_headers(asked):
        if name.lower() == "content-type":
            content_type = value
        else:
            fields[name] = value
    for raw_name, raw_value in headers(exchange.head.raw):
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name.lower() == "content-type":
            content_type = content_type or value
        elif name.lower() not in _TRANSPORT and not name.lower().startswith("sec-"):
            fields[name] = value
    return Wanted(
        exchange.body,
        headers=fields,
        content_type=content_type,
        method=asked.get("method"),
        path=asked.get("path"),
        topic=asked.get("topic"),
        trigger=asked.get("trigger"),
    )


def _more_headers(asked: dict[str, str]) -> list[tuple[str, str]]:
    try:
        found = json_loads(asked.get("headers", "{}"))
    except ValueError:
        found = None
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return list(found.items())
    raise ValueError('headers is a JSON object of text, e.g. {"name": "value"}')


def _changed(function: Function) -> list[str]:
    """The source files that are not as the function has read them; one that is gone cannot be run instead."""
    return sorted(path for path, stamp in read_by([function])[function.name] if stamp_at(path) not in (stamp, None))


def _yes(asked: dict[str, str], key: str, otherwise: bool) -> bool:
    value = asked.get(key)
    if value in (None, "yes", "no"):
        return otherwise if value is None else value == "yes"
    raise ValueError(f"{key} is yes or no")


def _bytes(response: Response) -> bytes:
    body = response.body
    return body if isinstance(body, bytes) else str(body).encode()
