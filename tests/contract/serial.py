"""The outside world of the serial source: the other end of a pseudo-terminal."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nuclio_edge.sources.serial import SerialSource
from nuclio_edge.testing import SourceRig, sim_board
from tests.serial_line import SerialLine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nuclio_edge.manifest.schema import Values


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


class SimulatedSerialRig(SourceRig):
    """The same lines, from a port of the simulated board."""

    source = SerialSource
    trigger: Mapping[str, Any] = {"prefix": tuple("0123456789")}
    params: Mapping[str, Any] = {"device": "sim:meter"}
    path = "sim:meter"
    pushes_back = True

    def make(self, name: str, params: Values, host: Any) -> SerialSource:
        self._port = sim_board(host.state_dir).port("meter")
        return SerialSource(name, params, host)

    def emit(self, body: bytes) -> None:
        self._port.send(body + b"\n")

    def emit_unrouted(self) -> None:
        self.emit(b"!")

    def lose(self) -> None:
        self._port.unplug()

    def restore(self) -> None:
        self._port.plug()
