"""Simulated sensors: files with a number, in <state_dir>/sim, that a sensor source reads like the kernel's."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.sim.pins import SimBoard


class SimSensor:
    """One sensor, by the name of its file; any thread may set it."""

    def __init__(self, board: SimBoard, name: str) -> None:
        if not name or "/" in name or name.startswith(".") or any(char in name for char in "*?[\0"):
            raise LookupError(f"{name!r} is no name of a sensor")
        self.name = name
        self.path = os.path.join(board.folder, name)

    def set(self, value: float | str | None) -> None:
        """What is read from now on, a text for one that is broken; None takes the sensor away."""
        if value is None:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass
            return
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        beside = os.path.join(os.path.dirname(self.path), f".{self.name}")  # no wildcard finds it
        with open(beside, "w", encoding="utf-8") as file:
            file.write(f"{value}\n")
        os.replace(beside, self.path)  # a reading has the old number or the new one, never half of it

    @property
    def text(self) -> str | None:
        """What it says; None when it is away."""
        try:
            with open(self.path, encoding="utf-8", errors="replace") as file:
                return file.read().strip()
        except OSError:
            return None


def watched(patterns: list[str], name: str) -> bool:
    """Whether a source of the board reads a sensor of this name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
