"""The outside world of the sensor source: a device that answers when something is measured, and blocks before."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuclio_edge.sources.sensor import SensorSource
from nuclio_edge.testing import SourceRig

if TYPE_CHECKING:
    from collections.abc import Mapping

READER = """
def read():
    with open({fifo!r}, "rb", buffering=0) as device:
        if device.read(1) == b"e":
            return 21.5
        raise OSError("the end of the check")
"""


class SensorRig(SourceRig):
    """A read that blocks until an event comes: one event a reading, whatever the schedule."""

    source = SensorSource
    trigger: Mapping[str, Any] = {"sensor": "check*"}
    body = b'{"value":21.5,"sensor":"checked"}'

    def begin(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        fifo = str(Path(self._folder.name) / "device")
        os.mkfifo(fifo)
        self._device = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
        reader = Path(self._folder.name) / "reader.py"
        reader.write_text(READER.format(fifo=fifo))
        self.path = str(reader)
        self.params = {"reader": str(reader), "every": 10, "timeout": 600_000}

    def end(self) -> None:
        os.write(self._device, b"x" * 10)  # for the read that still waits
        self._folder.cleanup()
        os.close(self._device)

    def emit(self, body: bytes) -> None:
        os.write(self._device, b"e")
