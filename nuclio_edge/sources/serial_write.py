"""What goes out by a serial port: a bounded queue that handlers fill from any thread and the loop empties."""

from __future__ import annotations

import os
import threading
from collections import deque

from nuclio_edge.errors import SourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.loop import Loop


class SerialBinding:
    """What `context.bindings["<source>"]` is; its calls may come from any thread."""

    __slots__ = ("_context", "_writer")

    def __init__(self, writer: Writer, context: Context) -> None:
        self._writer = writer
        self._context = context

    def write(self, data: bytes | str) -> None:
        """Send bytes, or text as UTF-8, in order; returns at once. SourceError when the port is away or the queue full.

        Framing is the caller's: nothing is added.
        """
        self._context.check()
        self._writer.put(data.encode() if isinstance(data, str) else bytes(data))


class Writer:
    """The outgoing half of one source. `put` is for any thread, the rest for the loop's."""

    def __init__(self, name: str, loop: Loop, limit: int, watch: Callable[[], Any], broken: Callable[[], Any]) -> None:
        self._name = name
        self._loop = loop
        self._limit = limit
        self._watch = watch  # look again whether `waits` has changed
        self._broken = broken  # the port is gone
        self._lock = threading.Lock()
        self._queue: deque[bytes] = deque()
        self._posted = False
        self.fd = -1
        self.held = 0  # bytes
        self.waits = False  # the driver takes no more at the moment
        self.written = 0
        self.dropped: dict[str, int] = {}  # reason -> writes

    def put(self, data: bytes) -> None:
        """Take data to be sent; SourceError when it is turned away."""
        with self._lock:
            if self.fd < 0:
                self._drop("away")
                raise SourceError(f"the port of source {self._name} is not open")
            if self.held + len(data) > self._limit:
                self._drop("full")
                message = f"{self.held} bytes wait to be sent by source {self._name}; write_buffer is {self._limit}"
                raise SourceError(message)
            self._queue.append(data)
            self.held += len(data)
            if self._posted:
                return
            self._posted = True
        self._loop.post(self.flush)

    def flush(self) -> None:
        """Give the driver what it takes."""
        with self._lock:
            self._posted = False
        while self._queue and self.fd >= 0:
            with self._lock:
                data = b"".join(self._queue)
                self._queue.clear()
            try:
                count = os.write(self.fd, data)
            except BlockingIOError:
                count = 0
            except OSError:
                self._broken()
                return
            self.written += count
            with self._lock:
                self.held -= count
                if count < len(data):
                    self._queue.appendleft(data[count:])
            if count < len(data):
                break
        waits = bool(self._queue)
        if waits != self.waits:
            self.waits = waits
            self._watch()

    def opened(self, fd: int) -> None:
        """There is a port."""
        with self._lock:
            self.fd = fd

    def closed(self, reason: str) -> None:
        """There is none any more; what waits is dropped and counted, as a device that comes back is another state."""
        with self._lock:
            self.fd = -1
            self.waits = False
            self.held = 0
            for _ in self._queue:
                self._drop(reason)
            self._queue.clear()

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
