"""Simulated serial ports: pseudo-terminals whose other end the world holds.

A source opens the near end as it opens any port; each opening gets a new pair, as a plugged-in adapter is a new device.
What is sent to a port, and what a handler has written and nobody read yet, is bounded.
"""

from __future__ import annotations

import os
import tty
from _thread import RLock

from nuclio_edge.errors import SourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.sim.pins import SimBoard

PREFIX = "sim:"  # of a device or path that the simulation makes
UNSENT = 256 << 10  # bytes that may wait for a processor that does not read
KEPT = 4096  # bytes of what was written that are remembered


class SimPort:
    """One port, by name; `send` may be called by any thread, the rest is for the loop's."""

    def __init__(self, board: SimBoard, name: str) -> None:
        self.board = board
        self.name = name
        self.present = True
        self.path = ""  # of the near end, while a source has it
        self.written = 0  # bytes that came from the processor, ever
        self.tail = b""  # the last of them
        self._far = -1
        self._lock = RLock()
        self._unsent = b""

    # -- for tests and people -----------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Have the device on the line say something; ValueError when no source has the port, or it reads too slowly."""
        with self._lock:
            if self._far < 0 or self.board.loop is None:
                raise ValueError(f"no source has the port {self.name} open")
            if len(self._unsent) + len(data) > UNSENT:
                raise ValueError(f"{len(self._unsent)} bytes still wait to be read from the port {self.name}")
            self._unsent += data
        self.board.loop.post(self._flush)

    def unplug(self) -> None:
        """Pull the adapter out. On the loop."""
        self.present = False
        self._hang_up()

    def plug(self) -> None:
        """Bring it back; the source finds it when it looks the next time."""
        self.present = True

    # -- for the source -----------------------------------------------------------------------------------------------

    def open(self) -> str:
        """A new pair; the path of its near end. SourceError while it is unplugged."""
        self._hang_up()
        if not self.present or self.board.loop is None:
            raise SourceError(f"{PREFIX}{self.name} is unplugged")
        far, near = os.openpty()
        tty.setraw(near)
        os.set_blocking(far, False)
        self.path = os.ttyname(near)
        os.close(near)
        with self._lock:
            self._far = far
        self.board.loop.add(far, self._ready)
        return self.path

    def close(self) -> None:
        """The source has let go: take what it wrote at last, and give the pair back."""
        while self._read():
            pass
        self._hang_up()

    # -- the far end --------------------------------------------------------------------------------------------------

    def _ready(self, mask: int) -> None:
        if mask & 4:
            self._flush()
        if mask & ~4 and not self._read():
            self._hang_up()  # the source closed it, and opens a new pair when it wants one

    def _read(self) -> bool:
        """Take what was written; False when there is no more and never will be."""
        if self._far < 0:
            return False
        try:
            data = os.read(self._far, 65_536)
        except BlockingIOError:
            return True
        except OSError:
            return False  # EIO: nobody has the near end
        self.written += len(data)
        self.tail = (self.tail + data)[-KEPT:]
        for watcher in self.board.port_watchers:
            watcher(self, data)
        return bool(data)

    def _flush(self) -> None:
        with self._lock:
            if self._far < 0 or self.board.loop is None:
                return
            try:
                if self._unsent:
                    self._unsent = self._unsent[os.write(self._far, self._unsent) :]
            except BlockingIOError:
                pass  # the near end is full
            except OSError:
                self._unsent = b""  # nobody has it: the bytes go nowhere, as on an open line
            self.board.loop.modify(self._far, True, bool(self._unsent))

    def _hang_up(self) -> None:
        with self._lock:
            self.path = ""
            self._unsent = b""
            if self._far >= 0:
                if self.board.loop is not None:
                    self.board.loop.remove(self._far)
                os.close(self._far)
                self._far = -1
