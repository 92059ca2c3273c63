"""`run`: a processor from its manifest to the line that sums it up."""

from __future__ import annotations

import os
import sys

from nuclio_edge.cli import FAULT, UNDRAINED, USAGE
from nuclio_edge.errors import EdgeError, ManifestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.cli.parser import Parser
    from nuclio_edge.cli.watch import Watch
    from nuclio_edge.logs import Log
    from nuclio_edge.manifest.model import Manifest
    from nuclio_edge.processor import Processor
    from nuclio_edge.supervision.heartbeat import Heart
    from nuclio_edge.supervision.obituary import Obituary
    from nuclio_edge.supervision.supervise import Signals

# Characters that a line of a secret has at least to be hidden by itself: "}" or "key:" stand in many an innocent text.
SECRET_LINE = 12
STOP_MARGIN_MS = 5_000  # after the drain: sources and threads are closed
SILENT_MS = 500  # at a terminal, a stop that takes longer says what it waits for


def parser() -> Parser:
    """The command's options; not asked for on the way of a plain `run FILE`."""
    from nuclio_edge.cli.parser import Parser

    made = Parser(
        "run",
        "Run a processor until SIGTERM or Ctrl-C; a second one ends it at once, SIGHUP reads the manifest again.",
        "",
        "/etc/nuclio-edge/edge.toml",
        "--watch                  # while you write functions",
    )
    made.manifest()
    made.add_argument("--watch", action="store_true", help="read manifest and functions again when their files change")
    return made


def main(arguments: list[str]) -> int:
    """Run until stopped; returns the exit code of DESIGN.md's table."""
    _fill_standard_descriptors()
    path, watching = "edge.toml", False
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        options = parser().parse_args(arguments)
        path, watching = options.manifest, options.watch
    elif arguments:
        path = arguments[0]
    try:
        code = run(path, watching)
    except ManifestError as error:
        from nuclio_edge.cli.refusal import refusal

        say(refusal(error, "run"))
        code = USAGE
    except EdgeError as error:
        say(f"nuclio-edge: {error}" + (f"\n  {error.hint}" if error.hint else ""))
        code = FAULT
    from _thread import _count

    if _count():
        _leave(code)  # a thread that does not end, of a handler or an import, would keep the process for ever
    return code


def run(path: str, watching: bool = False) -> int:
    """Load the manifest at `path` and run it; EdgeError when that cannot begin."""
    from nuclio_edge import toml

    manifest = toml.apart(lambda: load(path))
    from nuclio_edge.logs import make_log
    from nuclio_edge.processor import Processor
    from nuclio_edge.supervision import supervise

    lock = supervise.StateLock(manifest.device.state_dir)
    try:
        log = make_log(manifest.log)
        hide_secrets(log, manifest)
        processor = Processor(manifest, log, guarded=True)
        if lock.trouble:
            text = "the state directory cannot be written"
            if not lock.held:
                processor.keeps = False
                text += ", nor locked against another processor: nothing is kept until the next start"
            folder = manifest.device.state_dir
            processor.logger.error_with(text, "folder", folder, "error", lock.trouble)
        running = Run(processor, path)
        return running.run(watching)
    finally:
        lock.release()


def load(path: str) -> Manifest:
    """Import what loads manifests, and load this one."""
    from nuclio_edge.manifest import load

    return load(path)


class Run:
    """One run of a processor: what is said of it, and how it is told to stop and to reload."""

    def __init__(self, processor: Processor, path: str) -> None:
        self.processor = processor
        self.path = path
        self.text = sys.stderr is not None and sys.stderr.isatty()
        self.watch: Watch | None = None
        self.heart: Heart | None = None
        self.signals: Signals | None = None
        self.obituary: Obituary | None = None
        self._reloading = False
        self._again = False

    def run(self, watching: bool) -> int:
        """Open the processor and turn its loop until it is stopped."""
        from nuclio_edge.supervision import supervise

        processor = self.processor
        signals = self.signals = supervise.Signals(processor.loop, self.stop, self.reload, self.abort)
        code = FAULT
        try:
            self._warn(processor.manifest)
            if self.text:
                from nuclio_edge.supervision.obituary import Obituary
                from nuclio_edge.supervision.watchdog import report_path

                signals.on_terminal_stop(self._stand_still)
                self.obituary = Obituary(report_path(processor.manifest.device.state_dir))
            processor.on_ready = self._ready
            self._reloading = True  # what is asked for while modules are imported is done afterwards
            processor.open()
            self._reloading = False
            if self._again:
                processor.loop.call_soon(self._reload_again)
            if watching:
                from nuclio_edge.cli.watch import Watch

                self.watch = Watch(processor, self.path, self.reload)
            code = processor.run()
        except BaseException:
            processor.close()
            raise
        finally:
            if self.watch is not None:
                self.watch.close()
            if self.heart is not None:
                self.heart.close()
            signals.close()
            self._sum_up(code)
            processor.log.close()
            processor.loop.close()
            if self.obituary is not None:
                self.obituary.close()
        return code

    def stop(self) -> None:
        """End in good order."""
        from nuclio_edge.supervision import supervise

        supervise.stopping(self.processor.manifest.device.stop_timeout_ms + STOP_MARGIN_MS)
        if self.text:
            self._end_line()
            self.processor.loop.call_later(SILENT_MS, self._say_what_is_waited_for)
        self.processor.stop()

    def _end_line(self) -> None:
        """What is said next does not stand behind the ^C of the terminal."""
        if self.signals is not None and self.signals.typed:
            say("")

    def _say_what_is_waited_for(self) -> None:
        what = ", ".join(self.processor.waits_for()) or "the disk"
        say(f"waiting for {what}; Ctrl-C again ends at once")

    def _stand_still(self) -> None:
        """Ctrl-Z; without job control, that is without a terminal, nobody would continue us."""
        from nuclio_edge.supervision.supervise import stop_process

        watchdog = self.processor.watchdog
        if watchdog is None:
            stop_process()
        else:
            watchdog.stand_still(stop_process)

    def abort(self) -> None:
        """End at once: whatever runs or is queued is not acknowledged."""
        if self.text:
            self._end_line()
        say("nuclio-edge: stopped at once by a second signal; what was pending is not acknowledged")
        if self.obituary is not None:
            self.obituary.close()
        if self.processor.watchdog is not None:
            self.processor.watchdog.disown()
        os._exit(UNDRAINED)

    def reload(self) -> None:
        """Read the manifest and changed code again and become that; a manifest that cannot be used changes nothing."""
        if self._reloading:  # what comes meanwhile is done afterwards
            self._again = True
            return
        from nuclio_edge.functions import files
        from nuclio_edge.manifest.problems import render
        from nuclio_edge.supervision import supervise

        logger = self.processor.logger
        supervise.reloading()
        try:
            manifest = self._manifest()
        except ManifestError as error:
            said = render(error.problems, error.path, outcome="nothing was changed")
            logger.error_with(
                "the manifest cannot be used; the old one stays", "event", "reload-failed", "problems", said
            )
            supervise.ready(self._counts()[0])
            if self.watch is not None:
                self.watch.look_at(error.files)
            return
        self._reloading = True
        hide_secrets(self.processor.log, manifest)
        self._warn(manifest)
        self.processor.reload(manifest, files.changed(self.processor.functions.values()), self._reloaded)

    def _manifest(self) -> Manifest:
        """The manifest as it is now; ManifestError. A pipe in its place would keep the loop waiting."""
        from nuclio_edge.manifest import Problem, load

        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise ManifestError([Problem(0, "", "is no longer a file", None, "E101")], self.path)
        return load(self.path)

    def _reloaded(self, lines: list[str]) -> None:
        from nuclio_edge.supervision import supervise

        self._reloading = False
        self.processor.logger.info_with(
            "reloaded", "event", "reloaded", "changes", "; ".join(lines) if lines else "nothing changed"
        )
        supervise.ready(self._counts()[0])
        if self.watch is not None:
            self.watch.look()
        self._reload_again()

    def _reload_again(self) -> None:
        again, self._again = self._again, False
        if again and not self.processor.stopping:
            self.reload()

    def _ready(self, processor: Processor) -> None:
        from nuclio_edge.supervision import supervise

        line, counts = self._counts()
        self._tell("ready", f"ready: {line}", counts)
        supervise.ready(line)
        interval = supervise.watchdog_ms()
        if interval:
            self._begin_to_beat(interval)

    def _begin_to_beat(self, interval_ms: int) -> None:
        from nuclio_edge.supervision.heartbeat import DISK_MS, Heart
        from nuclio_edge.supervision.watchdog import limit_ms

        processor = self.processor
        longest = limit_ms(processor.manifest.functions.values())
        if interval_ms <= longest:
            processor.logger.warn_with(
                "WatchdogSec is shorter than a handler may hold this process up: systemd may end it for no fault",
                "watchdog_ms",
                interval_ms,
                "needed_ms",
                longest,
            )
        self.heart = Heart(processor, interval_ms, lambda: self._counts()[0])
        self.heart.watch("the spool's writer", self._on_its_way_to_disk, DISK_MS)

    def _on_its_way_to_disk(self) -> Any:
        """The group that the spool's writer has in hand, None without one."""
        delivery = self.processor.delivery
        return None if delivery is None else delivery.spool.in_hand

    def _counts(self) -> tuple[str, dict[str, Any]]:
        processor = self.processor
        functions, sources = processor.functions.values(), processor.sources.values()
        loading = [function.name for function in functions if not function.settled()]
        suspended = sum(function.suspended is not None and not function.loading for function in functions)
        connecting = sum(source.state != "open" for source in sources)
        states = [f"{suspended} suspended"] if suspended else []
        if loading:
            states.append(f"{len(loading)} loading: {', '.join(loading)}")
        line = _counted(len(functions), "function") + (f" ({'; '.join(states)})" if states else "")
        line += ", " + _counted(len(sources), "source") + (f" ({connecting} connecting)" if connecting else "")
        counts: dict[str, Any] = {"functions": len(functions), "suspended": suspended, "sources": len(sources)}
        if loading:
            counts["loading"] = loading
        return line, {**counts, "connecting": connecting, "pid": os.getpid()}

    def _sum_up(self, code: int) -> None:
        tally = self.processor.tally()
        self._tell("stopped", tally.line(), {**tally.as_dict(), "exit": code})

    def _tell(self, event: str, line: str, values: dict[str, Any]) -> None:
        """Say what others wait for: a line on a terminal, else a record, whatever the log's level and sinks."""
        self.processor.log.flush()
        if not self.text:
            from nuclio_edge.core.log import INFO
            from nuclio_edge.core.port import now_ms
            from nuclio_edge.logs import as_json

            pairs = ("event", event, *(part for pair in values.items() for part in pair))
            line = as_json((now_ms(), INFO, self.processor.logger.name, line, pairs, None, None), str)
        say(line)

    def _warn(self, manifest: Manifest) -> None:
        if not manifest.warnings:
            return
        from nuclio_edge.manifest.problems import render_warnings

        if self.text:
            say(render_warnings(manifest.warnings, manifest.path))
            return
        for problem in manifest.warnings:
            self.processor.logger.warn_with(
                "manifest", *(part for pair in problem.as_dict(manifest.path).items() for part in pair)
            )


def hide_secrets(log: Log, manifest: Manifest) -> None:
    """Have the log show *** for what the manifest's sources, and its functions in `env`, have as secrets.

    A key of many lines is printed line by line: each line of it is hidden as well.
    """
    from nuclio_edge.manifest.schema import Secret

    for source in manifest.sources.values():
        for key in source.params.__slots__:
            value = getattr(source.params, key)
            if isinstance(value, Secret):
                log.mask(value.content)
    for function in manifest.functions.values():
        for name in function.secrets:
            text = function.env.get(name, "")
            log.mask(text)
            for line in text.splitlines():
                if len(line) >= SECRET_LINE and not line.startswith("-----"):
                    log.mask(line)


def say(text: str) -> None:
    """Write a line to standard error; a reader that is gone, or does not read, is no reason to stay."""
    import select

    try:
        poll = select.poll()
        poll.register(2, select.POLLOUT)
        if poll.poll(1000):
            os.write(2, text.encode("utf-8", "backslashreplace") + b"\n")
    except OSError:
        pass


def _fill_standard_descriptors() -> None:
    """Open /dev/null as 0, 1 and 2 where they are closed: else a socket would get the number that the log writes to."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _leave(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            pass
    os._exit(code)
