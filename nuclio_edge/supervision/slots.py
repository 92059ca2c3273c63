"""Who is running what, in memory that outlives the process: a preallocated mapping with a row a thread.

Each row has one writer at a time, which stores into it without a system call: since when something runs, whose it is,
and which event it began with. What it survives: every end of the process (a signal, the kernel for want of memory,
os._exit). What it does not: the end of the machine or the container. It lies in /dev/shm: of a file on a disk the
kernel would write the page back every 30 s while events flow, 11 MB a day, to know at a power cut what ran before.

Which mapping is whose says the state directory alone, by a link to it. The directory's path would not do: containers
that share /dev/shm (--ipc=host) have theirs at one path, and who empties the directory begins anew. The mapping's name
has the directory's inode number: the link in a copy of the directory leads to what is another processor's.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from errno import EPERM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ROWS = 64  # threads whose work is noted; those beyond are watched, not named
_MAGIC = b"NE2\0"
_NOTE = 236
_HEAD = struct.Struct(f"=4s8sq{_NOTE}s")  # magic, boot, the kernel's count of kills for want of memory, note
_NAME = 120
_EVENT = 192
# The event is noted at most once in `NOTE_NS`, and in `NOTE_DENSE_NS` where `DENSE` and more follow each other: between
# two turns of the loop a note costs 15 us, what two whole events cost.
NOTE_NS, NOTE_DENSE_NS, DENSE = 1_000_000, 16_000_000, 8
NOTE_GAP_NS = 4_000_000  # an event that comes after a pause is noted, whatever was before
_ROW = struct.Struct(f"=q{_NAME}s{_EVENT}s")  # start in ns of perf_counter, 0 when idle; function; event
_EVENT_AT = 8 + _NAME
_EVENT_IN_ROW = struct.Struct(f"{_EVENT}s").pack_into  # cuts and fills up with zeros
_SIZE = _HEAD.size + ROWS * _ROW.size
_MEMORY = "/dev/shm"  # noqa: S108 - the name is random, it is opened without following links, and only if it is ours


class Left:
    """What a process has left in the mapping; `running` has (function, event), the one that began last first."""

    __slots__ = ("boot", "kills", "note", "running")

    def __init__(self, boot: str, kills: int, note: str, running: list[tuple[str, str]]) -> None:
        self.boot = boot
        self.kills = kills
        self.note = note
        self.running = running


class Slots:
    """The mapping in a file, to which `link` leads if there is one (no path: it does not outlive the process)."""

    def __init__(self, path: str, link: str = "") -> None:
        self.path = path
        self._link = link
        self._map = self._open() if path else mmap.mmap(-1, _SIZE)
        view = memoryview(self._map)
        size, first = _ROW.size, _HEAD.size
        self._rows = [view[first + row * size : first + (row + 1) * size] for row in range(ROWS)]
        self._free = self._rows[::-1]

    def _open(self) -> mmap.mmap:
        path = self.path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise PermissionError(EPERM, "not ours alone", path)
            os.fchmod(descriptor, 0o600)
            os.ftruncate(descriptor, _SIZE)
            try:
                os.posix_fallocate(descriptor, 0, _SIZE)  # else a full memory shows as SIGBUS at the first write
            except OSError:
                _remove(path)
                raise
            return mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)

    def left(self) -> Left | None:
        """What the last process has left, None when it ended as it should."""
        magic, boot, kills, note = _HEAD.unpack_from(self._map)
        if magic != _MAGIC:
            return None
        rows = [_ROW.unpack_from(row) for row in self._rows]
        busy = sorted(((start, _text(name), _text(event)) for start, name, event in rows if start), reverse=True)
        return Left(_text(boot), kills, _text(note), [(name, event) for _, name, event in busy])

    def begin(self, boot: str, kills: int) -> None:
        """Say that this process runs from now on, and nothing in it yet."""
        self._map[:] = _HEAD.pack(_MAGIC, boot.encode(), kills, b"") + bytes(_SIZE - _HEAD.size)

    def note(self, text: str) -> None:
        """Leave a word of the processor itself."""
        raw = text.encode()[:_NOTE]
        self._map[_HEAD.size - _NOTE : _HEAD.size] = raw + bytes(_NOTE - len(raw))

    def take(self) -> Any:
        """A row for one thread: a memoryview; None when all are taken."""
        return self._free.pop() if self._free else None

    def give_back(self, row: Any) -> None:
        """Free a row whose thread has ended."""
        row[:] = bytes(len(row))
        self._free.append(row)

    def close(self) -> None:
        """Remove the mapping: the process ends as it should (the memory goes with it). Idempotent."""
        _remove(self.path)
        _remove(self._link)  # afterwards: a link that leads nowhere does no harm, a mapping without a link would stay


def open_slots(state_dir: str) -> tuple[Slots, str | None]:
    """Open what the last process of a state directory has left, or a new one; and why nothing will be left, or None.

    In memory if possible, else in the directory itself: there is no /dev/shm, or no room in it, or somebody else's file
    where ours should be, or the file system of the directory has no links.
    """
    here = os.path.join(state_dir, "running")
    trouble = None
    for place in (_in_memory, _in_directory):
        try:
            return place(here), None
        except OSError as error:
            trouble = f"{here}: {error.strerror}"
    return Slots(""), trouble


def _in_memory(here: str) -> Slots:
    mine = f"{_MEMORY}/nuclio-edge-{os.geteuid()}-{os.stat(os.path.dirname(here)).st_ino:x}-"
    try:
        path = os.readlink(here)
    except OSError:  # nothing there, or a mapping: then symlink() fails, and that one is used until it is closed
        path = ""
    if path.startswith(mine) and "/" not in path[len(mine) :]:
        return Slots(path, here)
    if path:  # of another user, whom the directory belonged to, or of the directory that this is a copy of
        os.unlink(here)
    slots = Slots(mine + os.urandom(8).hex(), here)
    try:
        os.symlink(slots.path, here)
    except OSError:
        _remove(slots.path)
        raise
    return slots


def _in_directory(here: str) -> Slots:
    if os.path.islink(here):
        os.unlink(here)
    return Slots(here)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def set_name(row: Any, function: str) -> None:
    """Note whose function a thread runs from now on."""
    raw = function.encode()[:_NAME]
    row[8 : 8 + _NAME] = raw + bytes(_NAME - len(raw))
    row[_EVENT_AT] = 0


def set_event(row: Any, event: Any) -> None:
    """Note with which event it does: its id and its path."""
    try:
        _EVENT_IN_ROW(row, _EVENT_AT, f"{event.id} {event.path}".encode())
    except Exception:  # noqa: BLE001 - a batch, or what a handler has made of it: no reason not to run it
        row[_EVENT_AT] = 0


def start_of(row: Any) -> Any:
    """The start time of a row, as something to assign to: `view[0] = ns`."""
    return row[:8].cast("q")


def _text(raw: bytes) -> str:
    text = raw.partition(b"\0")[0].decode("utf-8", "replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
