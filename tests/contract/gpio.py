"""The outside world of the GPIO source: simulated pins, or those of a kernel whose gpio-sim the test drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nuclio_edge import sim
from nuclio_edge.sources.gpio import GpioSource
from nuclio_edge.sources.gpio_params import LINE
from nuclio_edge.testing import SourceRig
from nuclio_edge.testing.rig import filled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nuclio_edge.manifest.schema import Values


class PinRig(SourceRig):
    """A pin that only its trigger names."""

    source = GpioSource
    trigger: Mapping[str, Any] = {"pin": "GPIO17", "edge": "rising"}
    path = "GPIO17"
    body = b"1"
    pushes_back = True  # up to the 1,024 edges that the kernel keeps

    def make(self, name: str, params: Values, host: Any) -> GpioSource:
        host.device.board = "sim"
        self.board = sim.board(host.state_dir)
        return GpioSource(name, params, host)

    def emit(self, body: bytes) -> None:
        pin = self.board.pin("GPIO17")
        pin.drive_high()
        pin.drive_low()

    def lose(self) -> None:
        self.board.unplug()

    def restore(self) -> None:
        self.board.plug()


class TableRig(PinRig):
    """Lines of a table: two inputs in one request, and an output."""

    trigger: Mapping[str, Any] = {"line": "door", "edge": "rising"}
    path = "door"

    def begin(self) -> None:
        lines: dict[str, dict[str, Any]] = {
            "door": {"pin": "pin 11", "edge": "rising"},
            "spare": {"pin": "GPIO4"},
            "relay": {"pin": "GPIO27", "direction": "out", "initial": 1, "shutdown": 0},
        }
        self.params = {"lines": {name: filled(LINE, line) for name, line in lines.items()}}

    def emit_unrouted(self) -> None:
        pin = self.board.pin("GPIO4")
        pin.drive(not pin.level)
