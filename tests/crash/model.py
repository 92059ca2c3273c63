"""A disk that is only a model: it records every operation, and makes of them what a power cut might leave.

What a cut may do to what was not synced, at any moment:
- of the bytes written to a file since its last sync any sectors may be there and any others not, in any order;
- a sector may be torn in the middle, zeroed where it had never been synced, or full of rubbish;
- of the names made, changed or removed in a folder since that was synced any may be so and any others not.
What was synced stays. A sector that is not being written stays too ("powersafe overwrite", as SQLite assumes of disks).

`ModelDisk` has the methods of nuclio_edge.spool.disk.Disk; whatever goes through those can be tried with it.
"""

from __future__ import annotations

import errno
import itertools
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR = 64  # bytes that are written whole or not; smaller than any disk's, so that more is torn
ALL = 7  # of so many effects every subset is tried; of more the empty one, the full one, and all that differ by one

Image = dict[str, bytes]  # path -> content
Effect = tuple[Any, ...]


class ModelDisk:
    """Files in memory, from an image; `operations` is what was done to them. `note` puts a word of the test between."""

    def __init__(self, image: Image | None = None, *, honest: bool = True) -> None:
        self._files: dict[int, bytearray] = {}
        self._names: dict[str, int] = {}
        self._open: dict[int, int] = {}
        self._numbers = itertools.count(1)
        self._honest = honest  # false: a sync does nothing, as if the code under test had left it out
        self.operations: list[Effect] = []
        self.fail: dict[str, int] = {}  # operation -> errno that it fails with
        for path, content in (image or {}).items():
            number = next(self._numbers)
            self._files[number] = bytearray(content)
            self._names[path] = number
        self.start = {path: (number, bytes(self._files[number])) for path, number in self._names.items()}

    def note(self, *what: Any) -> None:
        """Remember that this happened here, between two operations."""
        self.operations.append(("note", *what))

    def _may(self, operation: str, path: str = "") -> None:
        code = self.fail.get(operation)
        if code:
            raise OSError(code, os.strerror(code), path or None)

    def names(self, folder: str) -> list[str]:
        self._may("names", folder)
        return sorted(os.path.basename(path) for path in self._names if os.path.dirname(path) == folder)

    def make_folder(self, folder: str) -> None:
        self._may("make_folder", folder)

    def create(self, path: str) -> int:
        self._may("create", path)
        if path in self._names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        number = next(self._numbers)
        self._files[number] = bytearray()
        self._names[path] = number
        self.operations.append(("link", path, number))
        return self._descriptor(number)

    def open(self, path: str, *, write: bool = False) -> int:
        self._may("write_open" if write else "open", path)
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._descriptor(self._names[path])

    def _descriptor(self, number: int) -> int:
        descriptor = next(self._numbers)
        self._open[descriptor] = number
        return descriptor

    def close(self, descriptor: int) -> None:
        del self._open[descriptor]

    def allocate(self, descriptor: int, size: int) -> None:
        self._may("allocate")
        number = self._open[descriptor]
        self._files[number] += bytes(max(0, size - len(self._files[number])))
        self.operations.append(("size", number, size))

    def size(self, descriptor: int) -> int:
        return len(self._files[self._open[descriptor]])

    def filled(self, descriptor: int, size: int) -> int:
        return size

    def write(self, descriptor: int, data: bytes, at: int) -> None:
        self._may("write")
        number = self._open[descriptor]
        _put(self._files[number], at, data)
        self.operations.append(("write", number, at, bytes(data)))

    def read(self, descriptor: int, size: int, at: int) -> bytes:
        self._may("read")
        return bytes(self._files[self._open[descriptor]][at : at + size])

    def sync(self, descriptor: int) -> None:
        self._may("sync")
        if self._honest:
            self.operations.append(("sync", self._open[descriptor]))

    def sync_folder(self, folder: str) -> None:
        self._may("sync_folder")
        if self._honest:
            self.operations.append(("sync folder", folder))

    def rename(self, path: str, new: str) -> None:
        self._may("rename", path)
        number = self._names.pop(path)
        self._names[new] = number
        self.operations.append(("rename", path, new, number))

    def unlink(self, path: str) -> None:
        self._may("unlink", path)
        if self._names.pop(path, None) is not None:
            self.operations.append(("unlink", path))

    def image(self) -> Image:
        """What is there now, synced or not: what a process finds that comes after one that was killed."""
        return {path: bytes(self._files[number]) for path, number in self._names.items()}

    def descriptors(self) -> int:
        """How many are open."""
        return len(self._open)


class Cut:
    """What is on disk for certain after the first operations, and what may be: feed `operations` one by one."""

    def __init__(self, disk: ModelDisk) -> None:
        self._names = {path: number for path, (number, _) in disk.start.items()}
        self._files = dict(disk.start.values())
        self._synced = {number: len(content) for number, content in disk.start.values()}  # ever, from the start
        self._data: dict[int, list[Effect]] = {}
        self._entries: list[Effect] = []

    def feed(self, operation: Effect) -> None:
        """One operation more was done before the cut."""
        kind = operation[0]
        if kind in ("write", "size"):
            self._data.setdefault(operation[1], []).append(operation)
        elif kind == "sync":
            number = operation[1]
            content = bytearray(self._files.get(number, b""))
            for effect in self._data.pop(number, ()):
                _apply(content, effect)
            self._files[number] = bytes(content)
            self._synced[number] = len(content)
        elif kind in ("link", "unlink", "rename"):
            self._entries.append(operation)
        elif kind == "sync folder":
            for effect in self._entries:
                if os.path.dirname(effect[1]) == operation[1]:
                    _enter(self._names, effect)
            self._entries = [one for one in self._entries if os.path.dirname(one[1]) != operation[1]]

    def images(self) -> Iterator[Image]:
        """Every disk that this cut may leave; some more than once."""
        effects: list[Effect] = list(self._entries)
        for number, pending in self._data.items():
            for effect in pending:
                effects += [effect] if effect[0] == "size" else _sectors(number, effect[2], effect[3])
        for chosen in _subsets(effects):
            yield self._image(chosen)
        for place, effect in enumerate(effects):
            if effect[0] == "write":
                for spoilt in self._spoilt(effect):
                    yield self._image([*effects[:place], spoilt, *effects[place + 1 :]])
                    yield self._image([*effects[:place], spoilt])

    def _spoilt(self, effect: Effect) -> Iterator[Effect]:
        _, number, at, data = effect
        yield ("write", number, at, data[: len(data) // 2])
        yield ("write", number, at, bytes((7 * place + at) & 0xFF for place in range(len(data))))
        if at >= self._synced.get(number, 0):
            yield ("write", number, at, bytes(len(data)))

    def _image(self, effects: list[Effect]) -> Image:
        names = dict(self._names)
        changed: dict[int, bytearray] = {}
        for effect in effects:
            if effect[0] in ("link", "unlink", "rename"):
                _enter(names, effect)
            else:
                number = effect[1]
                if number not in changed:
                    changed[number] = bytearray(self._files.get(number, b""))
                _apply(changed[number], effect)
        files = self._files
        return {
            path: bytes(changed[number]) if number in changed else files.get(number, b"")
            for path, number in names.items()
        }


def _subsets(effects: list[Effect]) -> Iterator[list[Effect]]:
    if len(effects) <= ALL:
        for size in range(len(effects) + 1):
            for chosen in itertools.combinations(effects, size):
                yield list(chosen)
        return
    yield []
    yield effects
    for place in range(len(effects)):
        yield effects[:place]
        yield effects[place:]
        yield effects[place : place + 1]
        yield effects[:place] + effects[place + 1 :]


def _sectors(number: int, at: int, data: bytes) -> list[Effect]:
    """A write as the sectors that it consists of."""
    found: list[Effect] = []
    start = 0
    while start < len(data):
        stop = min(len(data), start + SECTOR - (at + start) % SECTOR)
        found.append(("write", number, at + start, data[start:stop]))
        start = stop
    return found


def _put(content: bytearray, at: int, data: bytes) -> None:
    content += bytes(max(0, at - len(content)))
    content[at : at + len(data)] = data


def _apply(content: bytearray, effect: Effect) -> None:
    if effect[0] == "size":
        content += bytes(max(0, effect[2] - len(content)))
    else:
        _put(content, effect[2], effect[3])


def _enter(names: dict[str, int], effect: Effect) -> None:
    if effect[0] == "link":
        names[effect[1]] = effect[2]
    elif effect[0] == "unlink":
        names.pop(effect[1], None)
    else:
        names.pop(effect[1], None)
        names[effect[2]] = effect[3]
