"""The kernel's gpio-sim: chips made by configfs, levels put on their lines and read from them by sysfs."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CONFIG = Path("/sys/kernel/config/gpio-sim")
_numbers = itertools.count()


class Chip:
    """A simulated chip; as a context manager it goes at the end."""

    def __init__(self, label: str, lines: int, names: Mapping[int, str] | None = None) -> None:
        self.label = label
        self._folder = CONFIG / f"chip{next(_numbers)}"
        self._bank = self._folder / "bank0"
        self._bank.mkdir(parents=True)
        (self._bank / "num_lines").write_text(str(lines))
        (self._bank / "label").write_text(label)
        for offset, name in (names or {}).items():
            (self._bank / f"line{offset}").mkdir()
            (self._bank / f"line{offset}" / "name").write_text(name)
        self._pulls: dict[int, int] = {}
        self.plug()

    def __enter__(self) -> Chip:
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        for folder in sorted(self._bank.glob("line*")):
            folder.rmdir()
        self._bank.rmdir()
        self._folder.rmdir()

    def plug(self) -> None:
        """Have it there."""
        (self._folder / "live").write_text("1")
        self.name = (self._bank / "chip_name").read_text().strip()
        device = (self._folder / "dev_name").read_text().strip()
        self._lines = f"/sys/devices/platform/{device}/{self.name}/sim_gpio"

    def unplug(self) -> None:
        """Take it away, under whoever uses it."""
        for number in self._pulls.values():
            os.close(number)
        self._pulls.clear()
        (self._folder / "live").write_text("0")

    @property
    def path(self) -> str:
        """Its device."""
        return f"/dev/{self.name}"

    def pull(self, offset: int, level: int) -> None:
        """Put a level on a line."""
        number = self._pulls.get(offset)
        if number is None:
            number = self._pulls[offset] = os.open(f"{self._lines}{offset}/pull", os.O_WRONLY)
        os.pwrite(number, b"pull-up" if level else b"pull-down", 0)

    def pulses(self, offset: int, count: int) -> None:
        """So many times up and down."""
        for _ in range(count):
            self.pull(offset, 1)
            self.pull(offset, 0)

    def value(self, offset: int) -> int:
        """What is on a line, whoever drives it."""
        with open(f"{self._lines}{offset}/value", encoding="ascii") as file:
            return int(file.read())


@contextlib.contextmanager
def world_at(chip: Chip, offset: int, rate: int, count: int) -> Iterator[Callable[[], float]]:
    """Pulses at a rate from a process of their own; the call that it gives waits for their end and says the seconds."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        begun = time.monotonic()
        for number in range(count):
            ahead = begun + number / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            chip.pulses(offset, 1)
        os.write(writing, struct.pack("d", time.monotonic() - begun))
        os._exit(0)
    os.close(writing)
    try:
        yield lambda: float(struct.unpack("d", os.read(reading, 8))[0])
    finally:
        os.close(reading)
        os.waitpid(child, 0)
