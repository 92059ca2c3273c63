"""What a handler has returned, at a glance: whether it comes in parts, and whether it can still be changed.

Apart from what is done with parts (streams.py), which most processors never need: 40 KB.
"""

from __future__ import annotations

from nuclio_edge.core.response import Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _gen() -> Any:
    yield


async def _agen() -> Any:
    yield


Generator = type(_gen())
AsyncGenerator = type(_agen())
STREAMS = (Generator, AsyncGenerator)


# What a handler returns nearly always: none of these comes in parts, and `type(x) in WHOLE` is all that an event pays.
WHOLE = frozenset((type(None), dict, bytes, str, int, float, bool))

# Those of them that a handler cannot change after it has returned them.
FIRM = frozenset((bytes, str, int, float, bool))


def is_stream(result: Any) -> bool:
    """Whether a returned value comes in parts; of the answers to a batch, whether one of them does."""
    kind = type(result)
    if kind is list:
        return bool(result) and isinstance(result[0], Response) and any(map(is_stream, result))
    if kind is tuple:
        return len(result) == 2 and type(result[1]) in STREAMS
    return kind in STREAMS or (isinstance(result, Response) and type(result.body) in STREAMS)
