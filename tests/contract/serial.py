"""The outside world of the serial source: the other end of a pseudo-terminal."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuclio_edge.sources.serial import SerialSource
from nuclio_edge.testing import SourceRig
from tests.serial_line import SerialLine

if TYPE_CHECKING:
    from collections.abc import Mapping


class SerialRig(SourceRig):
    """Lines; what begins with ! fits no trigger."""

    source = SerialSource
    trigger: Mapping[str, Any] = {"prefix": tuple("0123456789")}
    pushes_back = True

    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._line = SerialLine(Path(self._folder.name))
        self.path = self._line.path
        self.params = {"device": self._line.path}

    def end(self) -> None:
        self._line.unplug()
        self._folder.cleanup()

    def emit(self, body: bytes) -> None:
        self._line.send(body + b"\n")

    def emit_unrouted(self) -> None:
        self.emit(b"!")

    def lose(self) -> None:
        self._line.unplug()

    def restore(self) -> None:
        self._line.plug()
