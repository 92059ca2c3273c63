"""The wires of an emulated machine, held from outside: QEMU's qtest protocol, and QMP to find the devices."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from tests.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from pathlib import Path


def options(folder: Path) -> list[str]:
    """What QEMU is told so that `Wires` can be held."""
    sockets = {name: f"unix:{folder}/{name},server=on,wait=off" for name in ("qtest", "qmp")}
    return ["-qtest", sockets["qtest"], "-qtest-log", "none", "-qmp", sockets["qmp"]]


class Wires:
    """The pins of one GPIO device; as a context manager."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._qmp = _connect(folder / "qmp")
        self._qtest = _connect(folder / "qtest")
        self._lines = self._qtest.makefile("r")
        self._answers = self._qmp.makefile("r")
        self._changes: list[tuple[int, int]] = []
        self._answers.readline()  # the greeting
        self._ask("qmp_capabilities")
        self.path = next(
            f"/machine/unattached/{child['name']}"
            for child in self._ask("qom-list", path="/machine/unattached")
            if child["type"] == f"child<{kind}>"
        )
        self._say(f"irq_intercept_out {self.path}")

    def __enter__(self) -> Wires:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._lines, self._answers, self._qtest, self._qmp):
            one.close()

    def drive(self, line: int, level: int) -> None:
        """Put a level on an input of the guest."""
        self._say(f"set_irq_in {self.path} unnamed-gpio-in {line} {level}")

    def change(self) -> tuple[int, int]:
        """The next (line, level) that the guest drives."""
        while not self._changes:
            self._read()
        return self._changes.pop(0)

    def _say(self, command: str) -> None:
        self._qtest.sendall(command.encode() + b"\n")
        while not self._read().startswith("OK"):
            pass

    def _read(self) -> str:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the machine has ended")
        if line.startswith("IRQ"):
            _, way, number = line.split()
            self._changes.append((int(number), int(way == "raise")))
        elif not line.startswith("OK"):
            raise ValueError(f"qtest says: {line}")
        return line

    def _ask(self, command: str, **arguments: Any) -> Any:
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self._answers.readline())
            if "error" in answer:
                raise ValueError(answer["error"])
            if "return" in answer:
                return answer["return"]


def _connect(path: Path) -> socket.socket:
    wait_until(path.exists, f"{path}")
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(LIMIT)
    made.connect(str(path))
    return made
