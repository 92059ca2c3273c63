"""Named readers of the spool: each goes through the records of one kind in order, and remembers how far it came.

Records of a kind that has readers are settled by them, when the last has gone past. Several readers are independent.
"""

from __future__ import annotations

from nuclio_edge.core.port import json_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from .reading import Record
    from .spool import Spool


class Cursor:
    """One reader; loop thread only. `gap` counts records that were given up before it had read them.

    `at`, up to which it has advanced, is on disk with the next group: after a power cut a few records may come again.
    """

    __slots__ = ("_spool", "at", "changed", "gap", "kind", "name")

    def __init__(self, spool: Spool, name: str, kind: int, at: int = 0, gap: int = 0) -> None:
        self._spool = spool
        self.name = name
        self.kind = kind
        self.at = at
        self.gap = gap
        self.changed = False  # since the log was told

    def next(self, limit: int = 64 << 10) -> list[Record]:
        """The records after `at`, up to so many bytes, one at least if there is one; OSError as of `Spool.records`."""
        return self._spool.records(self.at, limit, self.kind)

    def advance(self, number: int) -> None:
        """Everything up to this id has been dealt with."""
        if number > self.at:
            self.at = number
            self.changed = True
            self._spool.readers.passed(self.kind)

    def close(self) -> None:
        """The reader does not come back: what only it had not read is settled."""
        self._spool.readers.forget(self)

    def as_row(self) -> dict[str, Any]:
        """What the log keeps of it."""
        return {"name": self.name, "kind": self.kind, "at": self.at, "gap": self.gap}


class Readers:
    """All readers of a spool, also those not asked for since the start: they still hold what they need."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._cursors: dict[str, Cursor] = {}
        self._gone: list[Cursor] = []  # until the log says so
        self._low: dict[int, int] = {}  # kind -> what all its readers have gone past

    def restore(self, rows: Iterable[dict[str, Any]]) -> None:
        """Those that the log knows."""
        for row in rows:
            self._cursors[row["name"]] = Cursor(self._spool, row["name"], row["kind"], row["at"], row["gap"])

    def open(self, name: str, kind: int) -> Cursor:
        """The reader of this name, as it was left; a new one begins with the oldest pending record of the kind."""
        cursor = self._cursors.get(name)
        if cursor is None or cursor.kind != kind:
            cursor = self._cursors[name] = Cursor(self._spool, name, kind)
            cursor.changed = True
            self._spool.later()
        return cursor

    def forget(self, cursor: Cursor) -> None:
        """See Cursor.close."""
        if self._cursors.get(cursor.name) is cursor:
            del self._cursors[cursor.name]
            self._gone.append(cursor)
            self.passed(cursor.kind)

    def passed(self, kind: int) -> None:
        """Settle what all readers of a kind have gone past."""
        positions = [cursor.at for cursor in self._cursors.values() if cursor.kind == kind]
        if positions:
            low = self._low.get(kind, 0)
            high = self._low[kind] = min(positions)
            for number in self._spool.numbers(low, high, kind):
                self._spool.settle(number)
        self._spool.later()

    def missed(self, kind: int, last: int, count: int) -> None:
        """So many records of a kind were given up, with ids up to `last`."""
        for cursor in self._cursors.values():
            if cursor.kind == kind and cursor.at < last:
                cursor.gap += count
                cursor.changed = True

    def has_work(self) -> bool:
        """Whether the log has to be told of any."""
        return bool(self._gone) or any(cursor.changed for cursor in self._cursors.values())

    def tell(self) -> Iterator[bytes]:
        """What the log is to be told; it counts as told, until `failed` says otherwise."""
        for cursor in self._cursors.values():
            if cursor.changed:
                cursor.changed = False
                yield json_bytes({**cursor.as_row(), "gone": False})
        for cursor in self._gone:
            yield json_bytes({**cursor.as_row(), "gone": True})

    def landed(self) -> None:
        """The log was told."""
        self._gone = []

    def failed(self) -> None:
        """The log was not told, or not of all."""
        for cursor in self._cursors.values():
            cursor.changed = True

    def rows(self) -> list[dict[str, Any]]:
        """All of them, for a checkpoint."""
        return [cursor.as_row() for cursor in self._cursors.values()]
