"""Answers in parts: what a generator of a handler yields, on its way to who asked.

A handler returns a generator, a status and one, or a Response whose body is one. The first item makes the response as
any returned value does (a status beside it, or a Response around it, wins); the bytes of those that follow are sent as
they come. A generator is run where its handler ran, never on the loop unless that is an inline function; it waits when
the client does not read as fast.

The event ends when the generator does: it counts as handled then, its timeout covers the whole, an exception before the
first item is a failure like any other, and one behind it breaks the answer off. Sources that cannot send parts
(`streams = True` is not theirs), functions with outputs, and batches get them joined.
"""

from __future__ import annotations

from _thread import allocate_lock
from collections import deque

from nuclio_edge.core.encode import Unencodable, to_response
from nuclio_edge.core.response import TEXT, Response
from nuclio_edge.functions.returned import STREAMS, WHOLE, AsyncGenerator, is_stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.loop import Loop

LIMIT = 64 * 1024  # bytes of parts that wait for the client
JOINED = 64 << 20  # bytes of parts that are joined: one without end, a common mistake, would take all memory


class Pipe:
    """The parts between the one that makes them, on its thread, and the loop, which sends them."""

    def __init__(self, loop: Loop, event: Event, wake: Callable[[], Any]) -> None:
        self.loop = loop
        self.event = event
        self.response: Any = None
        self.parts: deque[bytes] = deque()
        self.begun = False  # by the loop: the head is on its way
        self.whole = False
        self.broken = False
        self.gone = False  # by the loop: nobody wants any more of it
        self.waits = False
        self._put = 0  # by the maker
        self._taken = 0  # by the loop
        self._told = False
        self._wake = wake  # ends the maker's wait; from the loop's thread

    def put(self, part: bytes) -> bool:
        """Hand a part over; on the maker's thread. Whether somebody still wants more."""
        if self.gone:
            return False
        if part:
            self._put += len(part)
            self.parts.append(part)
            self.tell()
        return True

    def tell(self) -> None:
        """Have the loop look."""
        if not self._told:
            self._told = True
            self.loop.post(self._look)

    def full(self) -> bool:
        """Whether the maker has to wait."""
        return self._put - self._taken > LIMIT and not self.gone

    def _look(self) -> None:
        self._told = False
        trigger = self.event._trigger
        if not self.gone and trigger is not None:
            trigger.source.stream(self.event)

    # -- the loop's side ----------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """The next part."""
        part = self.parts.popleft()
        self._taken += len(part)
        return part

    def more(self) -> None:
        """The client has taken what there was."""
        if self.waits and not self.full():
            self.waits = False
            self._wake()

    def leave(self) -> None:
        """Nobody wants any more of it."""
        self.gone = True
        self.parts.clear()
        if self.waits:
            self.waits = False
            self._wake()

    def fail(self, error: BaseException) -> None:
        """It cannot be sent."""
        self.broken = True
        self.response = error
        self.leave()


def deliver(loop: Loop, event: Any, result: Any) -> tuple[Any, BaseException | None]:
    """Send or join what a handler's generator yields, on the thread that calls; the event's result, or its error."""
    if not _in_parts(event):
        try:
            return join(result), None
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            return None, error
    lock = allocate_lock()
    lock.acquire()
    pipe = Pipe(loop, event, lambda: _release(lock))
    source: Any = _source(result)
    if type(source) is AsyncGenerator:
        return None, TypeError(_NOT_ASYNC)
    try:
        response, first = _opened(result, next(source, None))
        _begin(pipe, event, response)
        part = first
        while pipe.put(part):
            while pipe.full():
                pipe.waits = True
                if pipe.full():
                    lock.acquire()
            part = next(source, _END)
            if part is _END:
                break
            part = _bytes(part)
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
        return None, error
    finally:
        source.close()
    return _ended(pipe, response)


async def deliver_async(loop: Loop, event: Any, result: Any) -> tuple[Any, BaseException | None]:
    """The same for an async handler, on its asyncio loop; the generator may be async or not."""
    from asyncio import Event as Flag
    from asyncio import get_running_loop

    if not _in_parts(event):
        try:
            return await join_async(result), None
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises, cancellation at the timeout too
            return None, error
    aio = get_running_loop()
    flag = Flag()
    pipe = Pipe(loop, event, lambda: _set(aio, flag))
    source: Any = _source(result)
    try:
        item = await _following(source)
        response, first = _opened(result, None if item is _END else item)
        _begin(pipe, event, response)
        part = first
        while pipe.put(part):
            while pipe.full():
                flag.clear()
                pipe.waits = True
                if pipe.full():
                    await flag.wait()
            item = await _following(source)
            if item is _END:
                break
            part = _bytes(item)
    except BaseException as error:  # noqa: BLE001 - whatever the user's code raises, cancellation at the timeout too
        return None, error
    finally:
        await _close(source)
    return _ended(pipe, response)


def pull_on_loop(event: Event, response: Response, headers: dict[str, str], look: Callable[[], Any]) -> None:
    """Send what an inline function's generator yields, one item a turn of the loop; the event has ended already."""
    trigger: Any = event._trigger
    loop: Loop = trigger.loop
    source: Any = response.body
    pipe = Pipe(loop, event, lambda: loop.call_soon(pull))

    def run(call: Callable[[], Any]) -> Any:
        take = getattr(trigger.function.runner, "take", None)
        if take is not None:
            take()  # environment and output are the function's while its generator runs
        return call()

    def pull() -> None:
        if pipe.gone:
            source.close()
            return
        try:
            item = run(lambda: next(source, _END))
            part = b"" if item is _END else _bytes(item)
        except BaseException as error:  # noqa: BLE001 - whatever the user's code raises
            trigger.function.on_failure(event, error, 500)
            event._token.abort()
            pipe.leave()
            return
        if item is _END:
            look()
            pipe.whole = True
            finish()
            return
        pipe.put(part)
        pipe.waits = True
        look()

    def finish() -> None:
        look()
        if pipe.gone:
            return
        if pipe.parts:
            pipe._wake = finish
            pipe.waits = True
        else:
            event._token.end()
            event._reply = None

    bare: Any = response  # a generator that was returned as it is has become a Response on its way here
    if response.status_code == 200 and response.content_type == TEXT and not response.headers:
        bare = None
    try:
        made, first = _opened(bare, run(lambda: next(source, None)))
        headers = {**made.headers, **headers}
    except BaseException as error:  # noqa: BLE001 - as above
        from nuclio_edge.core.failure import error_response

        trigger.function.on_failure(event, error, 500)
        failed = error_response(error, trigger.function)
        event._token.answer(failed.status_code, failed.content_type, failed.body)
        return
    made.headers = headers
    pipe.response = made
    event._reply = pipe  # type: ignore[assignment]  # the reply, in parts
    pipe.whole = True
    pipe.put(first)
    pipe.waits = True
    look()


_END: Any = object()
_NOT_ASYNC = "an async generator needs an async handler"


def _opened(result: Any, first: Any) -> tuple[Response, bytes]:
    """The response that a first item makes, without its body, and the body."""
    made = _sendable(first)
    if type(made.body) is not bytes:
        raise TypeError("a generator yields another one")
    body: bytes = made.body
    if isinstance(result, Response):
        made = _sendable(Response(result.headers, b"", result.content_type, result.status_code, result.event_id))
    elif type(result) is tuple:
        made = _sendable(Response(made.headers, b"", made.content_type, result[0]))
    made.body = b""
    return made, body


def _bytes(item: Any) -> bytes:
    """A later item's bytes."""
    if type(item) is bytes:
        return item
    body = _sendable(item).body
    if type(body) is not bytes:
        raise TypeError("a generator yields another one")
    return body


def _sendable(value: Any) -> Response:
    made = to_response(value)
    if isinstance(made, Unencodable):
        raise ValueError(made.body.decode("utf-8", "replace"))  # noqa: TRY004 - of no one type
    return made


def _source(result: Any) -> Any:
    """The generator itself."""
    if type(result) is tuple:
        return result[1]
    return result if type(result) in STREAMS else result.body


async def _following(source: Any) -> Any:
    if type(source) is not AsyncGenerator:
        return next(source, _END)
    try:
        return await source.__anext__()
    except StopAsyncIteration:
        return _END


async def _close(source: Any) -> None:
    if type(source) is AsyncGenerator:
        await source.aclose()
    else:
        source.close()


def _in_parts(event: Any) -> bool:
    """Whether somebody takes the parts as they come."""
    trigger = event._trigger
    return event._token is not None and bool(getattr(trigger.source, "streams", False)) and not trigger.function.outputs


def _begin(pipe: Pipe, event: Any, response: Response) -> None:
    pipe.response = response
    event._attempt = 1 << 30  # part of the answer is out: there is no second attempt
    event._reply = pipe
    pipe.whole = True
    pipe.tell()


def _ended(pipe: Pipe, response: Response) -> tuple[Any, BaseException | None]:
    if pipe.broken:
        return None, pipe.response
    return response, None


def whole(event: Event, result: Any) -> Any:
    """What an inline handler returned in one piece, unless its source takes the parts as they come; on the loop.

    Raises whatever the user's code raises; TypeError for what is to be awaited, as the loop cannot wait.
    """
    kind = type(result)
    if kind in WHOLE or (kind is tuple and (len(result) != 2 or type(result[1]) not in STREAMS)):
        return result
    if hasattr(kind, "__await__"):
        if hasattr(kind, "close"):
            result.close()  # else Python warns that it was never awaited
        raise TypeError('the handler returned something to await, and isolation = "inline" cannot: leave it out')
    if not is_stream(result):
        return result
    if not _in_parts(event):
        return join(result)
    return _beginning(result) if type(result) is tuple else result


def _beginning(result: tuple[Any, Any]) -> Any:
    """A generator with a status beside it as one whose first item has that status."""
    _, source = result
    made, body = _opened(result, next(source, None))
    yield Response(made.headers, body, made.content_type, made.status_code)
    yield from source


def is_async_stream(result: Any) -> bool:
    """Whether a stream comes from an async generator, or one of the answers to a batch does."""
    if type(result) is list:
        return any(is_stream(one) and is_async_stream(one) for one in result)
    return type(_source(result)) is AsyncGenerator


def join(result: Any) -> Any:
    """The same answer in one piece; of the answers to a batch, each."""
    if type(result) is list:
        return [join(one) for one in result] if is_stream(result) else result
    if not is_stream(result):
        return result
    source = _source(result)
    if type(source) is AsyncGenerator:
        raise TypeError(_NOT_ASYNC)
    try:
        response, first = _opened(result, next(source, None))
        whole = bytearray(first)
        for item in source:
            _add(whole, item)
    finally:
        source.close()
    response.body = bytes(whole)
    return response


async def join_async(result: Any) -> Any:
    """The same for an async handler; the generator may be async or not."""
    if type(result) is list:
        return [await join_async(one) for one in result] if is_stream(result) else result
    if not is_stream(result):
        return result
    source = _source(result)
    try:
        item = await _following(source)
        response, first = _opened(result, None if item is _END else item)
        whole = bytearray(first)
        while (item := await _following(source)) is not _END:
            _add(whole, item)
    finally:
        await _close(source)
    response.body = bytes(whole)
    return response


def _add(whole: bytearray, item: Any) -> None:
    whole += _bytes(item)
    if len(whole) > JOINED:
        raise ValueError(f"the answer's parts are more than {JOINED >> 20} MiB")


def _release(lock: Any) -> None:
    try:
        lock.release()
    except RuntimeError:
        pass  # it was not waiting any more


def _set(aio: Any, flag: Any) -> None:
    try:
        aio.call_soon_threadsafe(flag.set)
    except RuntimeError:
        pass  # its loop is closed
