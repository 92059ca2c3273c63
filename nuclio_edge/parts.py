"""An answer that comes in parts (a generator), put together where its handler ran and within its function's timeout.

A generator is the handler's code: taken apart on the loop, a slow one would hold up everything. Left as it is only for
a source that sends the parts as they come (`streams = True`), where no output wants the whole.
"""

from __future__ import annotations

from types import GeneratorType

from .core.response import Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What a handler returns nearly always: none of these has parts, and `type(x) in WHOLE` is all that an event pays.
WHOLE = frozenset((type(None), dict, bytes, str, tuple, int, float, bool))
LIMIT = 64 << 20  # bytes: a generator without end is a common mistake, and would take all memory until the timeout


def gathered(result: Any, event: Any) -> Any:
    """A handler's result with every body in one piece; raises what a generator raises. On the handler's thread."""
    return _each(result, _join) if _is_wanted(event) else result


async def gathered_async(result: Any, event: Any) -> Any:
    """The same for an async function, whose answer may be an async generator."""
    if not _is_wanted(event):
        return result
    made: dict[int, bytes] = {}
    for one in result if isinstance(result, list) else (result,):
        body = one.body if isinstance(one, Response) else one
        if hasattr(body, "__anext__"):
            made[id(body)] = await _join_async(body)
    return _each(result, lambda body: made[id(body)] if id(body) in made else _join(body))


def _is_wanted(event: Any) -> bool:
    trigger = event._trigger
    return not getattr(trigger.source, "streams", False) or bool(trigger.function.outputs)


def _each(result: Any, join: Any) -> Any:
    if isinstance(result, list):  # of a batch, an answer for each event
        return [_one(part, join) if isinstance(part, Response) else part for part in result]
    return _one(result, join)


def _one(value: Any, join: Any) -> Any:
    if isinstance(value, Response):
        body = value.body
        if isinstance(body, GeneratorType) or hasattr(body, "__anext__"):
            return Response(value.headers, join(body), value.content_type, value.status_code, value.event_id)
    elif isinstance(value, GeneratorType) or hasattr(value, "__anext__"):
        return Response(None, join(value))
    return value


def _join(body: Any) -> bytes:
    if not isinstance(body, GeneratorType):
        raise TypeError("only an async function can answer with an async generator")
    whole = bytearray()
    try:
        for part in body:
            _add(whole, part)
    finally:
        body.close()
    return bytes(whole)


async def _join_async(body: Any) -> bytes:
    whole = bytearray()
    try:
        async for part in body:
            _add(whole, part)
    finally:
        close = getattr(body, "aclose", None)
        if close is not None:
            await close()
    return bytes(whole)


def _add(whole: bytearray, part: Any) -> None:
    whole += part if isinstance(part, (bytes, bytearray, memoryview)) else str(part).encode()
    if len(whole) > LIMIT:
        raise ValueError(f"the answer's parts are more than {LIMIT >> 20} MiB")
