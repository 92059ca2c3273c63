"""Pulses by the hardware: one channel of a PWM chip, through sysfs (Documentation/ABI/testing/sysfs-class-pwm)."""

from __future__ import annotations

import os

from nuclio_edge.sources.gpio_line import AwayError, BusyError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SYSFS = "/sys/class/pwm"
NS = 1_000_000_000


def open_pwm(facts: Any, sysfs: str = SYSFS) -> Pwm:
    """The channel of the chip whose device has one of the names or compatibles of `facts` (board.Pwm).

    AwayError says what is missing, BusyError that somebody else has the channel.
    """
    for chip in _chips(sysfs):
        path = f"{sysfs}/{chip}"
        device = os.path.basename(os.path.realpath(f"{path}/device"))
        if device in facts.devices or any(one in facts.of_compatible for one in _compatible(path)):
            return Pwm(path, facts.channel)
    note = f": {facts.note}" if facts.note else ""
    raise AwayError(f"there is no PWM {' or '.join((*facts.devices, *facts.of_compatible))}{note}")


class Pwm:
    """An exported channel; duty and frequency at any time, from any thread."""

    def __init__(self, chip: str, channel: int) -> None:
        self._chip = chip
        self._channel = channel
        self._path = f"{chip}/pwm{channel}"
        self._period = 0
        self._on = False
        if os.path.isdir(self._path):
            raise BusyError(f"channel {channel} of {chip} is exported already: somebody else uses it")
        _write(f"{chip}/export", channel)

    def set(self, duty: float, frequency: int) -> None:
        """Pulse so often a second, high for this part (0 to 1) of the time."""
        period = NS // frequency
        high = round(period * duty)
        if period != self._period:
            # The kernel refuses a duty cycle longer than the period: never in between either.
            _write(f"{self._path}/duty_cycle", 0)
            _write(f"{self._path}/period", period)
            self._period = period
        _write(f"{self._path}/duty_cycle", high)
        if not self._on:
            _write(f"{self._path}/enable", 1)
            self._on = True

    def close(self) -> None:
        """Give the channel back, low."""
        try:
            if self._on:
                _write(f"{self._path}/enable", 0)
            _write(f"{self._chip}/unexport", self._channel)
        except OSError:
            pass  # it went with its chip


def _chips(sysfs: str) -> list[str]:
    try:
        return sorted(os.listdir(sysfs))
    except OSError:
        return []


def _compatible(path: str) -> list[str]:
    try:
        with open(f"{path}/device/of_node/compatible", "rb") as file:
            return [one.decode("ascii", "replace") for one in file.read().split(b"\0") if one]
    except OSError:
        return []


def _write(path: str, value: int) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(str(value))
