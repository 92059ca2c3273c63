"""Functions that were running when a process died: for how long each begins suspended, remembered over restarts.

One end with evidence (a crash, a freeze, os._exit, want of memory) suspends its culprit for a minute, each further one
twice as long, up to an hour. A process that was just killed proves nothing: whoever was running then is only
noted, and suspended from the third time in a row on, for a second, and up to a minute. Who has run for ten minutes
without another such end is no suspect any more. A stop in good order lifts the suspension, not the memory.
"""

from __future__ import annotations

import os

from nuclio_edge.core import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .crash import End

HEALTH_MS = 600_000
_PROVEN = (60_000, 3_600_000)  # the first pause and the longest
_KILLED = (1_000, 60_000)
_KILLS = 3  # so many in a row until somebody pauses
_MOST = 256  # functions that are remembered


class Suspects:
    """The counts of one state directory, in `suspects.json`; at the start, before there is anything to hold up.

    `trouble` is None, or why they could not be written down: then the next start begins to count anew.
    """

    def __init__(self, state_dir: str) -> None:
        self.path = os.path.join(state_dir, "suspects.json")
        self.trouble: str | None = None
        self.ends: dict[str, int] = {}  # with evidence, in a row
        self.kills: dict[str, int] = {}  # without
        self._read()

    def names(self) -> set[str]:
        """Who is suspected of anything."""
        return {*self.ends, *self.kills}

    def before(self) -> dict[str, int]:
        """How many ends in a row each was suspected of."""
        return {name: self.ends.get(name, 0) + self.kills.get(name, 0) for name in self.names()}

    def convict(self, end: End) -> int:
        """Note an end; for how many ms its culprit is to begin suspended, 0 for not at all."""
        if end.proven is None:
            return 0
        name = end.culprit
        pause = 0
        if end.proven:
            if name is not None:
                count = self.ends[name] = self.ends.get(name, 0) + 1
                pause = _pause(_PROVEN, count)
        else:
            running = {function for function, _ in end.running}
            self.kills = {function: self.kills.get(function, 0) + 1 for function in sorted(running)[:_MOST]}
            if name is not None and self.kills[name] >= _KILLS:
                pause = _pause(_KILLED, self.kills[name] - _KILLS + 1)
        self._write()
        return pause

    def clear(self) -> None:
        """Everybody has run well for long enough; on any thread."""
        self.ends = {}
        self.kills = {}
        self._write()

    def _read(self) -> None:
        try:
            with open(self.path, "rb") as file:
                said: Any = port.json_loads(file.read(1 << 16))
            for counts, there in ((self.ends, said["ends"]), (self.kills, said["kills"])):
                counts.update({str(name): int(count) for name, count in list(there.items())[:_MOST]})
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self.ends.clear()  # damaged: it is written anew, and nobody is suspected
            self.kills.clear()

    def _write(self) -> None:
        try:
            if self.ends or self.kills:
                from nuclio_edge.durable import replace_file

                replace_file(self.path, port.json_dumps({"ends": self.ends, "kills": self.kills}).encode())
            else:
                try:
                    os.unlink(self.path)
                except FileNotFoundError:
                    pass
            self.trouble = None
        except OSError as error:
            self.trouble = f"{self.path}: {error.strerror}"


def _pause(limits: tuple[int, int], count: int) -> int:
    first, longest = limits
    return min(first << min(count - 1, 30), longest)


def kills_for_memory() -> int:
    """How many processes the kernel has killed since its boot because memory ran out; -1 when it does not tell."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            for line in file:
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return -1
