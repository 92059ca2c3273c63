"""What a start makes of the last end: says it, keeps the report, decides who begins suspended."""

from __future__ import annotations

import os

from nuclio_edge.clock import CLOCK

from .suspects import HEALTH_MS, Suspects, kills_for_memory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.processor import Processor

    from .crash import End
    from .watchdog import Watchdog


def inquire(processor: Processor, watchdog: Watchdog) -> None:
    """Look at what the last process has left, then let this one leave its own; before anything is imported."""
    suspects = processor.suspects = Suspects(processor.manifest.device.state_dir)
    badly, report, left = watchdog.last()
    boot, kills = CLOCK.boot, kills_for_memory()
    if badly:
        from .crash import judge

        end = judge(report, left, processor.manifest.functions, boot, kills, suspects.before())
        processor.last_end = end
        pause = suspects.convict(end)
        if end.culprit is not None and pause:
            processor.pauses[end.culprit] = f"the last process {end.what}", pause
        _say(processor, watchdog, end)
    watchdog.guard(boot, kills)
    trouble = watchdog.trouble or suspects.trouble
    if trouble is not None:
        processor.logger.warn_with("whoever brings this process down could not be named", "reason", trouble)
    if suspects.names():
        longest = max((pause for _, pause in processor.pauses.values()), default=0)
        processor.loop.call_later(HEALTH_MS + longest, lambda: _clear(processor, suspects))


def _say(processor: Processor, watchdog: Watchdog, end: End) -> None:
    from .crash import KILLED, POWER, keep

    if end.kind == POWER:
        processor.logger.info_with("the last process went down with the device")
        return
    path = os.path.join(processor.manifest.device.state_dir, "crash.last.txt")
    try:
        keep(path, end)
    except OSError as error:
        path = f"not kept: {error.strerror}"
    say = processor.logger.warn_with if end.kind == KILLED else processor.logger.error_with
    say(
        f"the last process {end.what}",
        "culprit",
        f"{end.culprit}: {end.why}" if end.culprit else "unknown",
        "culprit_event",
        end.event or "unknown",
        "running",
        ", ".join(f"{name} ({event})" if event else name for name, event in end.running) or "nothing",
        "report",
        path,
    )


def _clear(processor: Processor, suspects: Suspects) -> None:
    """Ten minutes have gone well; on a thread, as a slow card would hold the loop up."""
    for function in processor.functions.values():
        function.suspect = False
    from _thread import start_new_thread

    try:
        start_new_thread(suspects.clear, ())
    except RuntimeError:
        pass  # no thread to be had: they are forgiven after the next start
