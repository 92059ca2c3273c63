"""The clock that a replayed function sees: each event comes at the time at which it was recorded.

Replaced are the names through which the function's own modules reach the time: `time` and `datetime`, as modules or
imported from them at the top of a module. Nothing else of the process is concerned; what libraries ask is real.
"""

from __future__ import annotations

import datetime as dt
import sys
import time as real_time
from types import ModuleType

from nuclio_edge.core import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEFAULT_NOW = ("gmtime", "localtime", "ctime")  # which take seconds, and the present without


class ReplayClock:
    """Stands at `ms` (since 1970) until it is set; while a handler sleeps it goes on, `speed` times as fast as ours."""

    def __init__(self, speed: float = 0) -> None:
        self.ms = 0
        self._speed = speed
        self._began = 0
        self._time = self._module(real_time)
        self._datetime = self._module(dt)
        self._put: dict[int, Any] = {}
        self._now_ms = port.now_ms
        self._replace()

    def __enter__(self) -> ReplayClock:
        port.now_ms = lambda: self.ms
        return self

    def __exit__(self, *_: object) -> None:
        port.now_ms = self._now_ms

    def set(self, ms: int) -> None:
        """It is so late now; never earlier than the event before: a clock that was set back stands still."""
        self._began = self._began or ms
        self.ms = max(self.ms, ms)

    def dress(self, package: str) -> None:
        """Have the modules of a function's package see this clock."""
        for name, module in list(sys.modules.items()):
            if name == package or name.startswith(f"{package}."):
                names = vars(module)
                for key, value in list(names.items()):
                    found = self._put.get(id(value))
                    if found is not None and not key.startswith("__"):
                        names[key] = found

    def _module(self, real: ModuleType) -> ModuleType:
        made = ModuleType(real.__name__, real.__doc__)
        vars(made).update({key: value for key, value in vars(real).items() if not key.startswith("__")})
        return made

    def _replace(self) -> None:
        clock = self

        def strftime(form: str, when: Any = None) -> str:
            return real_time.strftime(form, real_time.localtime(clock.ms / 1000) if when is None else when)

        given: dict[str, Any] = {
            "time": lambda: clock.ms / 1000,
            "time_ns": lambda: clock.ms * 1_000_000,
            "monotonic": lambda: (clock.ms - clock._began) / 1000 + 1000,
            "monotonic_ns": lambda: (clock.ms - clock._began + 1_000_000) * 1_000_000,
            "sleep": self._sleep,
            "strftime": strftime,
        }
        for name in _DEFAULT_NOW:
            ask = getattr(real_time, name)
            given[name] = lambda seconds=None, ask=ask: ask(clock.ms / 1000 if seconds is None else seconds)
        for name, made in given.items():
            self._put[id(getattr(real_time, name))] = made
            setattr(self._time, name, made)
        day, moment = _classes(self)
        self._put[id(dt.datetime)] = moment
        self._put[id(dt.date)] = day
        self._datetime.datetime = moment  # type: ignore[attr-defined]  # a module of ours
        self._datetime.date = day  # type: ignore[attr-defined]  # as above
        self._put[id(real_time)] = self._time
        self._put[id(dt)] = self._datetime

    def _sleep(self, seconds: float) -> None:
        if self._speed:
            real_time.sleep(seconds / self._speed)
        self.ms += int(seconds * 1000)


def _classes(clock: ReplayClock) -> tuple[type, type]:
    """The two classes of datetime that know what day it is."""

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, cls.__mro__[1])

    class date(dt.date, metaclass=Kind):  # noqa: N801 - the name that the function knows
        @classmethod
        def today(cls) -> Any:
            return dt.datetime.fromtimestamp(clock.ms / 1000).date()  # noqa: DTZ006 - as the real one

    class datetime(dt.datetime, metaclass=Kind):  # noqa: N801 - as above
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return dt.datetime.fromtimestamp(clock.ms / 1000, tz)

        @classmethod
        def utcnow(cls) -> Any:
            return port.utc(clock.ms)

        @classmethod
        def today(cls) -> Any:
            return dt.datetime.fromtimestamp(clock.ms / 1000)  # noqa: DTZ006 - as the real one

    return date, datetime
