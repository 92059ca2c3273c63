"""How the last process ended when it did not end by itself: the evidence, the verdict, and the report that is kept."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from nuclio_edge.manifest.model import FunctionSpec

    from .slots import Left

FROZE, CRASHED, EXITED, MEMORY, KILLED, POWER = "froze", "crashed", "exited", "out of memory", "killed", "power"
EVIDENCE = "Stack (most recent call first):\n"  # faulthandler's heading of a note of who uses the processor
_VERDICT = "Timeout ("  # of the report of a process that was frozen
_EXIT = r"^os\._exit\((.*)\)$"  # ours, before the stack of who called it
_FATAL = r"^Fatal Python error: (.*)$"  # of a signal
_CURRENT = r"^Current thread 0x\w+.*\(most recent call first\):\n((?: .*\n?)*)"
KEPT = 3  # reports
LONGEST = 65_536  # bytes of a report


class End:
    """The end of a process that did not end by itself.

    `what` says it in words; `proven`: whether it came from within, None when the device went down. `culprit` is the
    function that is taken for the cause, or None, `why` how that is known, `event` what it had begun with: that one was
    running, or one that came within a millisecond of it.
    """

    __slots__ = ("culprit", "event", "kind", "proven", "report", "running", "what", "why")

    def __init__(self, kind: str, what: str, report: str, running: list[tuple[str, str]]) -> None:
        self.kind = kind
        self.proven = None if kind == POWER else kind != KILLED
        self.what = what
        self.report = report
        self.running = running
        self.culprit: str | None = None
        self.why = ""
        self.event = ""

    def blame(self, name: str | None, why: str) -> None:
        """Name who it was."""
        self.culprit = name
        self.why = why
        self.event = next((event for function, event in self.running if function == name), "")


def judge(
    report: str,
    left: Left | None,
    functions: Mapping[str, FunctionSpec],
    boot: str,
    kills: int,
    before: Mapping[str, int],
) -> End:
    """What to think of what a process that did not end by itself has left: its report, and its rows if there are any.

    `kills` is the kernel's present count of processes killed for want of memory. `before` says how many such ends in
    a row each function was suspected of: without evidence, of several that were running, it is rather that one.
    """
    import re  # 0.5 MB that a process whose last one ended well does without

    if left is not None and left.boot != boot:
        left = None
    running = left.running if left is not None else []
    names = [name for name, _ in running]
    fatal = re.search(_FATAL, report, re.MULTILINE)
    exit_ = re.search(_EXIT, report, re.MULTILINE)
    if _VERDICT in report:
        end = End(FROZE, "was ended because a handler froze it", report, running)
        end.blame(*culprit(report, names, functions))
    elif fatal is not None:
        end = End(CRASHED, f"crashed: {fatal[1]}", report, running)
        current = re.compile(_CURRENT, re.MULTILINE).search(report, fatal.end())
        name, what = _owner(current[1] if current else "", names, functions)
        if name is not None:
            end.blame(name, f"{what} was running in the thread that crashed")
        elif fatal[1].startswith("Abort") and left is not None and left.note:
            end.what += f" ({left.note})"  # whoever supervises us has ended it
        else:
            end.blame(*_likeliest(names, before))
    elif exit_ is not None:
        end = End(EXITED, f"was ended by os._exit({exit_[1]})", report, running)
        name, what = _owner(report[exit_.end() :], names, functions)
        end.blame(*(name, f"{what} called it") if name is not None else _likeliest(names, before))
    elif left is None:
        end = End(POWER, "went down with the device", "", [])
    elif kills > left.kills >= 0:
        end = End(MEMORY, "was killed for want of memory", report, running)
        name, what = _busiest(report, names, functions)
        end.blame(*(name, f"{what} used the processor most") if name is not None else _likeliest(names, before))
    else:
        end = End(KILLED, "was killed", "", running)
        end.blame(*_likeliest(names, before))
    return end


def culprit(report: str, running: list[str], functions: Mapping[str, FunctionSpec]) -> tuple[str | None, str]:
    """Who froze the process, by name, and how that is known.

    The evidence is the last note of who used the processor: the function whose file is in that stack. Without it (a
    call that waits with the lock held, a process that was stopped) it is the function that began last.
    """
    notes = report.split(EVIDENCE)[1:]
    if not notes:
        return (running[0] if running else None), "no thread used the processor; it began last"
    name, what = _owner(notes[-1].partition(_VERDICT)[0], running, functions)
    if name is None:
        return (running[0] if running else None), "it began last"
    return name, f"{what} was using the processor"


def keep(path: str, end: End) -> str:
    """Keep what is known of an end at `path`, before that the last ones as `path` with .2 and .3; returns `path`.

    Function names, ids and paths of events, files and lines of code: no contents, no variables. Raises OSError.
    """
    stem, dot, suffix = path.rpartition(".")
    names = [path] + [f"{stem}.{number}{dot}{suffix}" for number in range(2, KEPT + 1)]
    for older, newer in zip(reversed(names[1:]), reversed(names[:-1]), strict=True):
        try:
            os.replace(newer, older)
        except FileNotFoundError:
            pass
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8", errors="backslashreplace") as kept:
        kept.write(text_of(end)[:LONGEST])
    return path


def text_of(end: End) -> str:
    """A report for people; the evidence is at its end."""
    from nuclio_edge import __version__

    lines = [
        f"nuclio-edge {__version__}, Python {sys.version.split()[0]}: the process {end.what}",
        f"culprit: {end.culprit}: {end.why}" if end.culprit else "culprit: unknown",
        *(f"running: {name}{', event ' + event if event else ''}" for name, event in end.running),
    ]
    return "\n".join(lines) + ("\n\n" + end.report if end.report else "\n")


def _owner(stack: str, running: list[str], functions: Mapping[str, FunctionSpec]) -> tuple[str | None, str]:
    """The running function whose file, else whose folder, is in a stack, and which of the two it was.

    A stack with the file of a function that does not run any more (an earlier second's, or a thread's) is nobody's.
    """
    owners = [name for name, function in functions.items() if f'"{_shown(function.file or "")}"' in stack]
    for name in running:
        if name in owners:
            return name, "its code"
    if owners:
        return None, ""
    for name in running:
        function = functions.get(name)
        if function is not None and f'"{_shown(function.path)}{os.sep}' in stack:
            return name, "its folder's code"
    return None, ""


def _busiest(report: str, running: list[str], functions: Mapping[str, FunctionSpec]) -> tuple[str | None, str]:
    """The one of several running functions that most notes of who uses the processor are of, and what of it they saw.

    Memory is taken by writing to it, which is work. When it runs short, whatever begins gets stuck as the kernel drops
    the pages of its code: the one that began last is rather a victim. One note is a second of processor time.
    """
    if len(set(running)) < 2:
        return None, ""
    seen: dict[str, list[str]] = {}
    for note in report.split(EVIDENCE)[1:]:
        name, what = _owner(note, running, functions)
        if name is not None:
            seen.setdefault(name, []).append(what)
    if not seen:
        return None, ""
    most = max(seen, key=lambda one: len(seen[one]))
    return most, min(seen[most])  # "its code" before "its folder's code"


def _likeliest(names: list[str], before: Mapping[str, int]) -> tuple[str | None, str]:
    """Who of those that were running it may have been when there is no evidence."""
    if not names:
        return None, ""
    if len(set(names)) == 1:
        return names[0], "nothing else was running"
    most = max(before.get(name, 0) for name in names)
    if most:
        return next(name for name in names if before.get(name, 0) == most), "it was running the last time, too"
    return names[0], "it began last"


def _shown(path: str) -> str:
    """A path as faulthandler writes it."""
    return path.encode("ascii", "backslashreplace").decode()
