"""How much may wait to be sent: bounds on count and bytes that one large message cannot use up for all others.

Law: the largest message that waits does not count, so that one above the whole bound goes, and the others have their
room beside it. Of that room a quarter is kept for small messages: large ones cannot crowd readings and alarms out.
Memory is bounded by `LIMIT_BYTES` and one message.
"""

from __future__ import annotations

LIMIT_COUNT = 10_000  # messages that wait, of each of the three kinds: from threads, in the socket, unacknowledged
LIMIT_BYTES = 8 << 20
SMALL = 16_384
RESERVED = LIMIT_BYTES // 4
UNDISPUTED = LIMIT_BYTES - RESERVED  # up to here everything fits


def fits(waiting: int, largest: int, size: int) -> bool:
    """Whether `size` bytes may join `waiting` bytes, the largest message of which has `largest`."""
    room = LIMIT_BYTES if size <= SMALL else LIMIT_BYTES - RESERVED
    return waiting + size - max(largest, size) <= room


class Room:
    """The sizes of the messages that wait in one place, by id."""

    __slots__ = ("bytes", "largest", "sizes")

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.bytes = 0
        self.largest = 0  # of the large ones; a small one makes no difference

    def takes(self, size: int) -> bool:
        """Whether another message may wait."""
        return len(self.sizes) < LIMIT_COUNT and fits(self.bytes, self.largest, size)

    def add(self, number: int, size: int) -> None:
        """Another message waits."""
        self.sizes[number] = size
        self.bytes += size
        if size > SMALL and size > self.largest:
            self.largest = size

    def remove(self, number: int) -> bool:
        """A message waits no more; whether it did."""
        size = self.sizes.pop(number, None)
        if size is None:
            return False
        self.bytes -= size
        if size == self.largest:
            self.largest = max((one for one in self.sizes.values() if one > SMALL), default=0)
        return True

    def clear(self) -> None:
        """None waits."""
        self.sizes.clear()
        self.bytes = self.largest = 0
