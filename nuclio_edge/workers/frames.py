"""Frames between the processor and its worker processes: a length, a kind, the content.

What goes to a worker is `marshal` (fast, the interpreter is the same, the processor is trusted). What comes from one is
JSON, MessagePack and raw bytes, which no content can crash: a function may write to any descriptor it likes.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# The descriptors of a worker process, beside the standard three.
CHANNEL = 3
LIFELINE = 4

# to the worker
START, BEGIN, EVENT, ANSWER = range(4)
# from the worker
LOADED, INIT, READY, BROKEN, DONE, FAILED, PARTED, LOG, CALL, FILE = range(16, 26)

LONGEST = 1 << 28
HEAD = Struct("<IB")  # length of the content, kind
SPLIT = Struct("<I")  # length of the JSON before raw bytes


class FrameError(ValueError):
    """What was read is no frame: somebody else has written to the channel."""


def frame(kind: int, *parts: bytes) -> bytes:
    """One frame."""
    return HEAD.pack(sum(map(len, parts)), kind) + b"".join(parts)


def two(first: bytes, second: bytes) -> tuple[bytes, bytes, bytes]:
    """The parts of a content that is JSON and raw bytes."""
    return SPLIT.pack(len(first)), first, second


def parted(content: bytes) -> tuple[bytes, bytes]:
    """JSON and raw bytes of such a content; FrameError when it is none."""
    if len(content) < SPLIT.size:
        raise FrameError("a frame is too short")
    end = SPLIT.size + SPLIT.unpack_from(content)[0]
    if end > len(content):
        raise FrameError("a frame is cut off")
    return content[SPLIT.size : end], content[end:]


class Reader:
    """Takes bytes as they come, gives whole frames."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames that are complete now, (kind, content) each; take them all. FrameError after the last good one."""
        kept = self._kept
        kept += data
        at = 0
        while len(kept) - at >= HEAD.size:
            length, kind = HEAD.unpack_from(kept, at)
            if length > LONGEST or kind > FILE:
                raise FrameError(f"a frame of kind {kind} and {length} bytes")
            start = at + HEAD.size
            if len(kept) - start < length:
                break
            at = start + length
            yield kind, bytes(kept[start:at])
        del kept[:at]
