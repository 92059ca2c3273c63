"""What is appended between two commits: a group of records in memory, until it is on disk."""

from __future__ import annotations

from nuclio_edge.core.record import HEAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .lanes import Lane, Settlement

    Done = Callable[[OSError | None], Any]


class Group:
    """Parallel lists: the id of an entry is `first` plus its position.

    A payload of None was settled before it was handed to the writer: nothing is written of it. `live` counts the
    others, `size` their bytes. `late` and `oversize` are of a group that is being written.
    """

    __slots__ = (
        "companions",
        "dones",
        "early",
        "first",
        "lanes",
        "late",
        "live",
        "oversize",
        "payloads",
        "settles",
        "size",
    )

    def __init__(self, first: int) -> None:
        self.first = first
        self.lanes: list[Lane] = []
        self.payloads: list[Any] = []
        self.dones: list[Done | None] = []
        self.settles: dict[int, Settlement] = {}  # by position: what is settled together with it
        self.companions: dict[
            int, list[Done]
        ] = {}  # by position: of what came to be settled together with it, unwritten
        self.early: list[Done] = []  # of what was settled, unwritten, in the group before
        self.late: dict[int, Settlement] = {}  # by position: what settled it while it was on its way to the disk
        self.oversize: list[tuple[int, int]] = []  # position and size
        self.live = 0
        self.size = 0

    @property
    def next(self) -> int:
        """The id after its last."""
        return self.first + len(self.lanes)

    def has(self, number: int) -> bool:
        """Whether this id was given in it."""
        return 0 <= number - self.first < len(self.lanes)

    def payload(self, position: int) -> bytes | None:
        """The payload as bytes; None when the record is not pending."""
        payload = self.payloads[position]
        if payload is None or position in self.late:
            return None
        if type(payload) is not bytes:
            payload = self.payloads[position] = as_bytes(payload)
        return payload

    def split(self, taken: int) -> Group:
        """A group of the entries from a position on; they are in this one no more."""
        rest = Group(self.first + taken)
        rest.lanes, self.lanes = self.lanes[taken:], self.lanes[:taken]
        rest.payloads, self.payloads = self.payloads[taken:], self.payloads[:taken]
        rest.dones, self.dones = self.dones[taken:], self.dones[:taken]
        for position in [position for position in self.settles if position >= taken]:
            rest.settles[position - taken] = self.settles.pop(position)
        for position in [position for position in self.companions if position >= taken]:
            rest.companions[position - taken] = self.companions.pop(position)
        # What was appended before these were settled may be in the rest.
        for position, payload in enumerate(self.payloads):
            done = self.dones[position]
            if payload is None and done is not None:
                rest.early.append(done)
                self.dones[position] = None
        for payload in rest.payloads:
            if payload is not None:
                rest.live += 1
                rest.size += HEAD + length(payload)
        self.live -= rest.live
        self.size -= rest.size
        return rest

    def join(self, later: Group) -> None:
        """Add the entries of the group that comes next."""
        shift = len(self.lanes)
        self.lanes += later.lanes
        self.payloads += later.payloads
        self.dones += later.dones
        for position, one in later.settles.items():
            self.settles[position + shift] = one
        for position, those in later.companions.items():
            self.companions[position + shift] = those
        self.live += later.live
        self.size += later.size

    def tell(self, on_error: Callable[[BaseException, Any], Any]) -> None:
        """Call everything that waits for it to be durable."""
        for done in self._dones():
            try:
                done(None)
            except Exception as error:  # noqa: BLE001 - one bad call stays one bad call
                on_error(error, done)

    def _dones(self) -> Iterator[Done]:
        if not self.early and not self.companions:
            yield from filter(None, self.dones)
            return
        yield from self.early
        for position, done in enumerate(self.dones):
            if position in self.companions:
                yield from self.companions[position]
            if done is not None:
                yield done


def length(payload: Any) -> int:
    """Bytes of a payload; of one that is yet to be made 0."""
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return len(payload)
    return 0 if callable(payload) else sum(map(len, payload))


def as_bytes(payload: Any) -> bytes:
    """A payload whole."""
    if callable(payload):
        payload = payload()
    return bytes(payload) if isinstance(payload, (bytes, bytearray, memoryview)) else b"".join(payload)
