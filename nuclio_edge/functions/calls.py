"""One function calls another of the same processor: `context.platform.call_function`, by the way of every event.

The call is an event of a trigger of its own, made with the first call: it waits in an inbox, is handled by a worker
within the function's timeout, and counted. A full inbox answers 503, a failed handler what HTTP would answer.

Who waits holds a worker. A function that waits for itself, directly or through others, with no worker left for the
answer, is told so at once; where workers that ran side by side took each other's last place, the timeouts end it.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident

from nuclio_edge.core import port
from nuclio_edge.core.event import Event
from nuclio_edge.core.inbox import Trigger
from nuclio_edge.core.response import JSON, TEXT, Response

from . import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from nuclio_edge.processor import Processor
    from nuclio_edge.workers.queues import Entry

    from .function import Function

    Given = tuple[bytes, str, str, str, dict[str, str]]  # body, content type, method, path, headers
    Chain = tuple[tuple[str, bool], ...]  # who waits for whom: function, and whether it can do nothing else meanwhile

NAME = "call"
# An exception raised into a thread is seen between two bytecodes: the wait for an answer is cut, so that a worker that
# was given up ends.
_SLICE_S = 1.0


class Call:
    """A call that somebody waits for; the token of its event. `done(answer)` is called once, on the loop."""

    __slots__ = ("chain", "done")

    def __init__(self, chain: Chain, done: Callable[[Response | Exception], Any]) -> None:
        self.chain = chain
        self.done = done


class Calls:
    """The source of the events by which functions call each other."""

    kind = NAME
    name = NAME
    url = ""
    content_type = None
    state = "open"

    def __init__(self, processor: Processor) -> None:
        self.received = self.routed = self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self._processor = processor
        self._loop = processor.loop
        self._waiting: set[Call] = set()
        self._closed = False

    def invoke(self, name: str, event: Event, timeout: float | None) -> Response:
        """Call a function of this processor and wait for its answer; on a function's thread.

        Raises TimeoutError after `timeout` seconds, at the latest after the caller's own timeout, and RuntimeError for
        who must not wait: an inline handler, on the loop's thread, and a function that would wait for itself.
        """
        who = running.current()
        caller = None if who is None else self._processor.functions.get(who.name)
        if get_ident() == self._loop.thread:
            where = "this function" if who is None else f"function.{who.name}"
            raise RuntimeError(
                f'call_function: {where} runs on the loop, which cannot wait; leave isolation = "inline" out'
            )
        chain: Chain = ()
        if who is not None:
            who.context.check()
            asyncio = sys.modules.get("asyncio")
            # Whether all its events stand still while this one waits; another's asyncio loop is of one worker alone.
            whole = (
                getattr(caller, "is_async", False) and asyncio is not None and asyncio._get_running_loop() is not None
            )
            chain = (*chain_of(who.context._event), (who.name, whole))
        longest = caller.timeout_ms / 1000 if caller is not None else 30.0
        return self._wait(name, given_of(name, event), chain, min(longest if timeout is None else timeout, longest))

    def begin_for_process(
        self,
        caller: str,
        event: Any,
        name: str,
        given: list[Any],
        timeout: float | None,
        tell: Callable[[Callable[[], Any]], Any],
    ) -> None:
        """The call of a function in a worker process; `tell(run)` once: what `run()` comes to is its answer.

        `run()` gives (headers, body, content type, status), or None where there is no function of that name here.
        """
        if name not in self._processor.functions:
            tell(lambda: None)
            return
        told: list[Any] = []

        def done(answer: Response | Exception) -> None:
            if not told:
                told.append(answer)
                tell(run)

        def run() -> tuple[Any, ...]:
            answer = told[0]
            if isinstance(answer, Exception):
                raise answer
            got = whole(answer)
            return got.headers, got.body, got.content_type, got.status_code

        if timeout is not None:
            self._loop.call_later(int(timeout * 1000), lambda: done(_late(name, timeout)))
        body, content_type, method, path, headers = given
        self.begin(name, (body, content_type, method, path, headers), (*chain_of(event), (caller, False)), done)

    def begin(self, name: str, given: Given, chain: Chain, done: Callable[[Response | Exception], Any]) -> None:
        """Hand a call to its function; on the loop. `done` gets the answer, or why there can be none."""
        function = self._processor.functions.get(name)
        if self._closed or function is None:
            done(RuntimeError("call_function: " + ("the processor stops" if self._closed else f"{name} is gone")))
            return
        stuck = _stuck(function, chain)
        if stuck:
            done(RuntimeError(f"call_function: {stuck}"))
            return
        trigger = self._trigger(function)
        event = Event.__new__(Event)
        event._trigger = trigger
        event.raw_body, event.content_type, event.method, event.path, event.headers = given
        event._token = call = Call(chain, done)
        self._waiting.add(call)
        self.received += 1
        self.routed += 1
        if not trigger.submit(event):  # an event of the function runs alone, after a crash: nothing else may
            trigger.turn_away(event, "reject")

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """A called function has answered, or its event was turned away."""
        call: Call = event._token
        if call in self._waiting:
            self._waiting.remove(call)
            call.done(response or Response(body=b""))

    def close(self) -> None:
        """Let go of whoever still waits; idempotent."""
        self._closed = True
        self.received = self.routed = 0  # the processor has added them up
        waiting, self._waiting = self._waiting, set()
        for call in waiting:
            call.done(RuntimeError("call_function: the processor has stopped"))

    def _wait(self, name: str, given: Given, chain: Chain, limit_s: float) -> Response:
        answers: list[Response | Exception] = []
        lock = allocate_lock()
        lock.acquire()

        def done(answer: Response | Exception) -> None:
            answers.append(answer)
            lock.release()

        end = port.ticks_ms() + int(limit_s * 1000)
        self._loop.post(lambda: self.begin(name, given, chain, done))
        while not answers:
            left = (end - port.ticks_ms()) / 1000
            if left <= 0:
                raise _late(name, limit_s)
            lock.acquire(timeout=min(left, _SLICE_S))
        answer = answers[0]
        if isinstance(answer, Exception):
            raise answer
        return whole(answer)

    def _trigger(self, function: Function) -> Trigger:
        for trigger in function.triggers:
            if trigger.source is self:
                return trigger
        made = Trigger(
            function,
            self,
            self._loop,
            f"function.{function.name}.call",
            NAME,
            when_full="reject",
            budget=self._processor.budget,
        )
        attach(function, made)
        return made


def attach(function: Function, trigger: Trigger) -> None:
    """Give a function that runs one more trigger than its manifest has."""
    queue = getattr(function.runner, "queue", None)
    if queue is not None:
        queue.widen(_entries(function))
    if any(spec.batch for spec in function.trigger_specs):  # its handler takes lists
        from nuclio_edge.workers import batch

        batch.attach(function.runner, trigger, 1, 0)
    else:
        function.runner.attach(trigger)
    function.triggers += (trigger,)


def given_of(name: str, event: Event) -> Given:
    """What the called function gets of an event, as the SDK would send it over HTTP."""
    body, content_type = event.body, event.content_type or TEXT
    if body is None or isinstance(body, (bytes, bytearray, memoryview, str)):
        raw = (body or "").encode() if body is None or isinstance(body, str) else bytes(body)
    else:
        raw, content_type = port.json_dumps(body).encode(), JSON
    headers = {str(key): str(value) for key, value in (event.headers or {}).items() if key != "Content-Length"}
    headers["Content-Type"] = content_type
    headers.setdefault("X-Nuclio-Target", name)
    return raw, content_type, event.method or "", event.path or "/", headers


def chain_of(event: Any) -> Chain:
    """Who waits for the handling of this event."""
    token = None if event is None else getattr(event, "_token", None)
    return token.chain if isinstance(token, Call) else ()


def whole(answer: Response) -> Response:
    """The answer with a body of bytes, a generator run to its end, and its content type among the headers."""
    body = answer.body
    if hasattr(body, "__anext__"):
        raise TypeError("call_function: an async generator cannot be an answer")
    if not isinstance(body, (bytes, str)):
        body = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in body or ())
    headers = {"Content-Type": answer.content_type, **answer.headers}
    return Response(headers, body, answer.content_type, answer.status_code)


def _late(name: str, limit_s: float) -> TimeoutError:
    return TimeoutError(f"call_function: {name} has not answered within {limit_s:g} s")


def _stuck(function: Function, chain: Chain) -> str:
    """Why this function could never answer; empty when it can."""
    waits = [blocked for name, blocked in chain if name == function.name]
    if not waits:
        return ""
    runner = function.runner
    places: int = getattr(runner, "concurrency", function.spec.workers_max)
    if len(waits) < places and not any(waits):
        return ""
    way = " -> ".join([*(name for name, _ in chain), function.name])
    cure = "await asyncio.to_thread(call_function, ...)" if any(waits) else f"workers = {places + 1}"
    return f"{way}: it would wait for itself, as no worker is left; write {cure}, or do not wait"


def _entries(function: Function) -> Iterator[Entry]:
    """The ways into the function's queue."""
    for trigger in function.triggers:
        owner: Any = trigger.submit.__self__  # type: ignore[attr-defined]  # an Entry's, or a Batcher's
        while hasattr(owner, "wrapped"):  # who stands before it
            owner = owner.wrapped.__self__
        yield owner.carrier.submit.__self__ if hasattr(owner, "carrier") else owner
