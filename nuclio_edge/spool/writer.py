"""What touches the spool's files after the start: jobs, one after another, on a thread that waits without waking up.

A job's writes are made and synced in their order; the first that fails ends the job.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue

from nuclio_edge.core.record import frames

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.loop import Loop

    from .disk import Disk
    from .segment import Segment

# A group smaller than this fills what follows with zeros, once in a file's life: from then on a sync of it writes
# data and nothing else, where it would commit the file system's journal too (three pages more a sync on ext4). For
# larger groups the zeros would be as dear as the journal.
SMALL = 12 << 10
FILL = 256 << 10
PAGE = 4096  # what a disk is written in
PROBE = "probe.seg"  # to a recovery a segment that was never begun


class Write:
    """Frames that go to one place of one segment; `begins` a new life of its file, which may have to be made."""

    __slots__ = ("at", "ats", "begins", "copies", "create", "frames", "lanes", "numbers", "segment", "size")

    def __init__(self, segment: Segment, at: int, *, begins: bool = False, create: bool = False) -> None:
        self.segment = segment
        self.at = at
        self.begins = begins
        self.create = create
        self.frames: list[tuple[int, int, int, int, bytes]] = []  # kind, flags, lane, id, payload
        self.size = 0
        # For the index: of the frames that are records of its owner, in order; and of copies (id, at, lane).
        self.numbers: list[int] = []
        self.ats: list[int] = []
        self.lanes: list[int] = []
        self.copies: list[tuple[int, int, int]] = []


class Job:
    """Something to be done by the writer; `then(job)` is called on the loop afterwards.

    `error` is what went wrong, `broken` the segment where it did, `durable` those that were written before that.
    """

    __slots__ = ("broken", "device", "durable", "error", "removed", "then", "work", "written")

    def __init__(self, work: Callable[[Hand, Job], Any], then: Callable[[Job], Any]) -> None:
        self.work = work
        self.then = then
        self.error: OSError | None = None
        self.broken: Segment | None = None
        self.durable: list[Segment] = []
        self.written = 0  # bytes that were given to write(2)
        self.device = 0  # bytes of the pages that they are in
        self.removed: list[str] = []


class Hand:
    """The one who writes: keeps the descriptor of the segment that is being written."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self._segment: Segment | None = None
        self._descriptor = -1

    def do(self, job: Job) -> None:
        """Do it; whatever the operating system says is in the job."""
        try:
            job.work(self, job)
        except OSError as error:
            job.error = error

    def write(self, job: Job, writes: list[Write]) -> None:
        """Make the writes durable. New files are made first: a full disk shows before anything is done."""
        for write in writes:
            if write.create:
                self.create(write.segment.path, write.segment.size)
                write.create = False
        small = sum(write.size for write in writes) < SMALL
        for write in writes:
            descriptor = self._open(write)
            try:
                self._put(job, write, descriptor, fill=small)
                self.disk.sync(descriptor)
            except OSError:
                job.broken = write.segment
                self.close()
                raise
            job.durable.append(write.segment)

    def _put(self, job: Job, write: Write, descriptor: int, *, fill: bool) -> None:
        segment = write.segment
        parts = []
        at = write.at
        if write.begins:
            parts.append(segment.header)
            at = 0
        parts += frames(segment.seed, write.frames)
        end = write.at + write.size
        if end > segment.filled:
            segment.filled = end
            if fill:
                segment.filled = min(segment.room, (end + FILL - 1) // FILL * FILL)  # not over the header's copy
                parts.append(bytes(segment.filled - end))
            if segment.filled == segment.room:
                segment.filled = segment.size
        data = b"".join(parts)
        if write.begins:
            self.disk.write(descriptor, segment.header, segment.room)
            job.written += len(segment.header)
            job.device += PAGE
        self.disk.write(descriptor, data, at)
        job.written += len(data)
        job.device += (at + len(data) - 1) // PAGE * PAGE - at // PAGE * PAGE + PAGE

    def _open(self, write: Write) -> int:
        segment = write.segment
        if segment is self._segment:
            return self._descriptor
        self.close()
        descriptor = self.disk.open(segment.path, write=True)
        segment.filled = self.disk.filled(descriptor, segment.size)
        self._segment, self._descriptor = segment, descriptor
        return descriptor

    def create(self, path: str, size: int) -> None:
        """Make an allocated file whose name is durable.

        A file that is there under the name is one whose making was interrupted.
        """
        disk = self.disk
        disk.make_folder(os.path.dirname(path))
        disk.unlink(path)
        descriptor = disk.create(path)
        try:
            disk.allocate(descriptor, size)
            disk.sync(descriptor)
            disk.sync_folder(os.path.dirname(path))
        except OSError:
            disk.unlink(path)
            raise
        finally:
            disk.close(descriptor)

    def probe(self, job: Job, folder: str, size: int) -> None:
        """Make a file, write to it and remove it; one that a power cut leaves is for the next start to remove."""
        disk = self.disk
        path = os.path.join(folder, PROBE)
        job.device = PAGE
        self.create(path, size)
        try:
            descriptor = disk.open(path, write=True)
            try:
                disk.write(descriptor, bytes(PAGE), 0)
                disk.sync(descriptor)
            finally:
                disk.close(descriptor)
        finally:
            disk.unlink(path)

    def remove(self, job: Job, paths: list[str]) -> None:
        """Remove files; what cannot be removed now is tried again with another job."""
        for path in paths:
            try:
                self.disk.unlink(path)
            except OSError:
                continue
            job.removed.append(path)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._descriptor >= 0:
            try:
                self.disk.close(self._descriptor)
            except OSError:
                pass  # what it had to tell, a sync has told
        self._segment = None
        self._descriptor = -1


class Writer:
    """The thread; it starts with the first job. `submit` and `close` belong to the loop."""

    def __init__(self, loop: Loop, disk: Disk) -> None:
        self._loop = loop
        self._hand = Hand(disk)
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._done: SimpleQueue[Job] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._open = 0  # jobs whose `then` has not been called

    def submit(self, job: Job) -> None:
        """Do it after those before."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
            self._thread.start()
        self._open += 1
        self._jobs.put(job)

    def wait(self) -> None:
        """Return when one job more is done and its `then` was called, if any is open."""
        if self._open:
            self._tell(self._done.get())

    def close(self) -> None:
        """Finish what was submitted and end the thread. Idempotent."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
        while not self._done.empty():
            self._tell(self._done.get())

    def _run(self) -> None:
        hand = self._hand
        while True:
            job = self._jobs.get()
            if job is None:
                hand.close()
                return
            hand.do(job)
            self._done.put(job)
            self._loop.post(self._collect)

    def _collect(self) -> None:
        if not self._done.empty():
            self._tell(self._done.get())

    def _tell(self, job: Job) -> None:
        self._open -= 1
        job.then(job)
