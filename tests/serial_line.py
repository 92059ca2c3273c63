"""A pseudo-terminal as a serial line whose other end a test holds: plugged in and unplugged under one path."""

from __future__ import annotations

import os
import select
import termios
import tty
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class SerialLine:
    """`path` leads to the port, as a link of /dev/serial/by-id does; `plug` and `unplug` move it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "usb-adapter")
        self.master = -1
        self.plug()

    def plug(self) -> None:
        """A new device under the same path."""
        self.master, slave = os.openpty()
        tty.setraw(slave, termios.TCSANOW)
        os.set_blocking(self.master, False)
        os.symlink(os.ttyname(slave), self.path + ".new")
        os.replace(self.path + ".new", self.path)
        os.close(slave)

    def unplug(self) -> None:
        """Away with it."""
        if self.master >= 0:
            os.unlink(self.path)
            os.close(self.master)
            self.master = -1

    def send(self, data: bytes, limit_s: float = 30.0) -> None:
        """Everything, as fast as the port takes it."""
        while data:
            if not select.select([], [self.master], [], limit_s)[1]:
                raise TimeoutError(f"the port takes no more; {len(data)} bytes left")
            data = data[os.write(self.master, data) :]

    def heard(self, size: int = 65536) -> bytes:
        """What has come from the port, b"" for nothing yet."""
        try:
            return os.read(self.master, size)
        except (BlockingIOError, OSError):
            return b""
