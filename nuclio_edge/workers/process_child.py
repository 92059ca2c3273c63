"""The inside of a worker process: reads events, calls the handler, writes what came of it. Started by processes.py.

One event after the other, and the outcome of each is written before the next begins: a process that dies takes the
event with it that it was handling, and no other. Everything else that leaves (log records, binding calls) is written at
once as well, for the same reason.
"""

from __future__ import annotations

import marshal
import os
import sys

from nuclio_edge import clock  # noqa: F401 - it completes the class Event
from nuclio_edge.core import port
from nuclio_edge.core.context import Context
from nuclio_edge.core.encode import to_response
from nuclio_edge.core.event import Event, TriggerInfo
from nuclio_edge.core.log import Logger
from nuclio_edge.core.response import ExceptionWithResponse, Response
from nuclio_edge.core.worker import status_of
from nuclio_edge.functions.returned import WHOLE, is_stream
from nuclio_edge.functions.streams import is_async_stream, join, join_async
from nuclio_edge.nuclio_sdk.platform import Platform

from .frames import (
    BEGIN,
    BROKEN,
    CHANNEL,
    DONE,
    EVENT,
    FAILED,
    FILE,
    INIT,
    LIFELINE,
    LOADED,
    LOG,
    PARTED,
    READY,
    START,
    two,
)
from .process_remote import Channel, RemoteBindings, exception

BAD = 400  # a status from here on says that the event has failed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.functions.loader import Loaded


class _Known:
    """Attributes of the processor's side that are the same for every event."""

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)


class _Trigger:
    """As much of a trigger as an event needs to tell where it comes from."""

    __slots__ = ("address", "info", "kind", "name", "source", "spec")

    def __init__(
        self, kind: str, name: str, source: dict[str, Any], address: dict[str, Any], content_type: str | None
    ) -> None:
        self.kind = kind
        self.name = name
        self.info = TriggerInfo(kind, name)
        self.source = _Known(**source)
        self.address = _Known(**address)
        self.spec = _Known(content_type=content_type)


class Work:
    """The function in this process."""

    def __init__(self, channel: Channel, about: dict[str, Any]) -> None:
        self.channel = channel
        self.path: str = about["path"]
        self.triggers: list[_Trigger] = []
        self.classes: dict[str, type[Event]] = {}
        self.awaiter: Any = None
        self.context = Context(None, Platform("edge", about["namespace"], invoke=self._invoke), about["worker"])
        self.context.logger = Logger(about["level"], about["name"], self._emit, self.context)
        self.context.function_name = about["name"]
        self.context.function_version = about["version"]
        self.context.labels = about["labels"]
        self.context.env = os.environ
        self.running = self._surround(about["name"])

    def load(self, about: dict[str, Any]) -> Loaded:
        """Import the function's code."""
        from nuclio_edge.functions import capture, imports, running
        from nuclio_edge.functions.loader import load

        imports.on_read = self._read
        loaded = load(about["name"], **about["code"])
        capture.install_hooks()  # the import may have been the first of logging or threading
        self.running.space = loaded.package
        running.register(self.running)
        self.handler = loaded.handler
        return loaded

    def begin(self, loaded: Loaded, bindings: list[str], triggers: list[Any]) -> None:
        """Take the place of whatever ran before: it is known now what there is to write to. Runs init_context."""
        self.context.bindings = RemoteBindings(self.channel, bindings)
        self.triggers = [_Trigger(*one) for one in triggers]
        if loaded.init_context is not None:
            self.channel.send(INIT)
            self._finish(loaded.init_context(self.context))

    def handle(self, event: Any, wanted: bool, number: int) -> None:
        """Call the handler and send what came of it."""
        context = self.context
        context._event = event
        start = port.clock()
        try:
            result = self._finish(self.handler(context, event))
            if type(result) not in WHOLE and is_stream(result):
                result = self._finish(join_async(result)) if is_async_stream(result) else join(result)
        except BaseException as error:  # noqa: BLE001 - sys.exit of a handler is a failure of that handler
            end = port.clock()
            self.channel.check()
            self._end_lines()
            self._send_error(number, end - start, end, error)
            return
        end = port.clock()
        self.channel.check()
        self._end_lines()
        try:
            content = _outcome([number, end - start, end], event, result, wanted)
        except BaseException as error:  # noqa: BLE001 - a generator of the user's, or what no answer can hold
            self._send_error(number, end - start, end, error)
            return
        self.channel.send(DONE, *content)

    def event(self, class_name: str, trigger: int, state: dict[str, Any]) -> Event:
        """The event as its source made it, as lazy as there."""
        made = self.classes.get(class_name)
        if made is None:
            module, _, name = class_name.partition(":")
            __import__(module)
            made = self.classes[class_name] = getattr(sys.modules[module], name)
        event: Any = made.__new__(made)
        event._trigger = self.triggers[trigger]
        event._token = None
        for name, value in state.items():
            setattr(event, name, value)
        return event  # type: ignore[no-any-return]  # it is of that class

    def _invoke(self, name: str, event: Event, timeout: float | None) -> Response | None:
        """Have the processor call another function; None when it has none of that name."""
        from nuclio_edge.functions.calls import given_of

        answer = self.channel.call(["", "", [name, list(given_of(name, event)), timeout], {}], True)
        fine, value, text = answer
        if not fine:
            raise exception(value)(text)
        if value is None:
            return None
        headers, body, content_type, status = value
        return Response(headers, body, content_type, status)

    def _finish(self, value: Any) -> Any:
        """Wait for what an `async def` returned."""
        if not hasattr(type(value), "__await__"):
            return value
        if self.awaiter is None:
            from nuclio_edge.functions.awaiter import Awaiter

            self.awaiter = Awaiter()
        return self.awaiter.run(value)

    def _send_error(self, number: int, ticks: int, end: int, error: BaseException) -> None:
        from nuclio_edge.core.failure import error_response
        from nuclio_edge.functions.loader import format_user_error

        status: int | None = None
        content_type: str | None = None
        body = b""
        if isinstance(error, ExceptionWithResponse):
            answer = error_response(error)
            status, content_type, body = answer.status_code, answer.content_type, answer.body
        try:
            text = str(error)
        except BaseException:  # noqa: BLE001 - a __str__ of the user's
            text = ""
        shown = format_user_error(error, self.path)
        head = _json([number, ticks, end, type(error).__name__, text, shown, status, content_type])
        self.channel.send(FAILED, *two(head, body))

    def _end_lines(self) -> None:
        if self.running.partial:
            from nuclio_edge.functions import capture

            capture.flush()

    def _read(self, path: str, stamp: int) -> None:
        """Tell of a file of the function's code, now or whenever a handler imports it."""
        if path.isprintable():  # else its name would not get through
            self.channel.send(FILE, _json([path, stamp]))

    def _emit(self, record: Any) -> None:
        ms, level, name, message, pairs, _, event_id = record
        self.channel.send(LOG, _json([ms, level, name, message, list(pairs), event_id]))

    def _surround(self, name: str) -> Any:
        from nuclio_edge.functions import capture, running

        who = running.Running(name, os.environ, self.context)  # type: ignore[arg-type]  # it is the function's own here
        running.bind(who)
        capture.install()
        return who


def main() -> None:
    """Be a worker process until the processor closes the channel."""
    os.closerange(LIFELINE + 1, 65536)
    for descriptor in (CHANNEL, LIFELINE):
        os.set_inheritable(descriptor, False)
    _end_with_the_processor()
    import faulthandler

    faulthandler.enable(2)
    channel = Channel()
    about = marshal.loads(channel.next(lambda kind, _: kind == START))  # noqa: S302 - the processor's own
    if about["data_limit"]:
        import resource
        from _thread import stack_size

        resource.setrlimit(resource.RLIMIT_DATA, (about["data_limit"], about["data_limit"]))
        stack_size(1 << 20)  # the system's 8 MiB would count as used
    work = Work(channel, about)
    try:
        loaded = work.load(about)
        channel.send(LOADED)
        begin = channel.next(lambda kind, _: kind == BEGIN)
        work.begin(loaded, *marshal.loads(begin))  # noqa: S302 - as above
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
        from nuclio_edge.functions.loader import format_user_error

        channel.check()
        channel.send(BROKEN, _json([type(error).__name__, format_user_error(error, work.path)]))
        os._exit(0)
    channel.send(READY)
    while True:
        number, wanted, what, news = marshal.loads(channel.next(_is_work))  # noqa: S302 - as above
        work.triggers += [_Trigger(*one) for one in news]
        if not number:
            from nuclio_edge.functions.farewell import part

            part(work.context, work.path, work._finish)
            work._end_lines()
            channel.send(PARTED)
        elif type(what) is list:
            from .batch import Events

            batch = Events()
            batch += [work.event(*one) for one in what]
            batch.fill()
            work.handle(batch, wanted, number)
        else:
            work.handle(work.event(*what), wanted, number)


def _end_with_the_processor() -> None:
    """Have the kernel kill this process when the processor ends, however it ends.

    The processor alone holds the other end of this pipe; SIGKILL comes in the place of SIGIO when it goes away. No
    thread, and none of the megabyte that prctl by ctypes would cost.
    """
    import fcntl
    import select
    from _signal import SIGKILL  # type: ignore[import-not-found]  # signal itself needs enum

    fcntl.fcntl(LIFELINE, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(LIFELINE, fcntl.F_SETSIG, SIGKILL)
    fcntl.fcntl(LIFELINE, fcntl.F_SETFL, fcntl.fcntl(LIFELINE, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([LIFELINE], [], [], 0)[0]:
        os._exit(0)  # it went before the kernel was asked


def _is_work(kind: int, _: bytes) -> bool:
    return kind == EVENT


def _json(value: Any) -> bytes:
    return port.json_dumps(value).encode("utf-8", "backslashreplace")


def _outcome(about: list[int], event: Any, result: Any, wanted: bool) -> tuple[bytes, ...]:
    """What a returned value comes to, as the processor reads it; raises what the user's code raises."""
    if isinstance(event, list) and isinstance(result, list) and any(isinstance(r, Response) for r in result):
        answers = [to_response(one) for one in result if isinstance(one, Response)]
        bodies = [_whole(one.body) for one in answers]
        heads = [
            [one.status_code, one.content_type, one.headers, one.event_id, len(body)]
            for one, body in zip(answers, bodies, strict=True)
        ]
        return two(_json([*about, True, *heads]), b"".join(bodies))
    if result is None:
        return two(_json(about), b"")
    if not wanted and status_of(result) < BAD:  # what a bad one says is for the log
        return two(_json([*about, False, [200, None, {}, None, 0]]), b"")
    answer = to_response(result)
    body = _whole(answer.body)
    head = [answer.status_code, answer.content_type, answer.headers, None, len(body)]  # the id is for batches
    return two(_json([*about, False, head]), body)


def _whole(body: Any) -> bytes:
    """A body that came as a generator, in one piece."""
    if isinstance(body, bytes):
        return body
    if hasattr(body, "__anext__"):
        raise TypeError("an async generator cannot leave a worker process")
    return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in body)
