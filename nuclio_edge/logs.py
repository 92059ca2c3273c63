"""Where log records go: one log, many sinks, none of which can hold up a handler or the loop.

A record is formatted on the thread that made it, queued as bytes (bounded; what does not fit is counted, and the count
is said as soon as there is room), and written on the loop's thread at the end of its turn, one write a burst. Levels:
a logger's own first, then each sink's. Secrets registered with `mask` show as ***.
"""

from __future__ import annotations

import os
import select
import stat
import time
from _thread import get_ident
from collections import deque

from nuclio_edge.core import port
from nuclio_edge.core.log import ERROR, INFO, WARNING, Logger, level_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.log import Record
    from nuclio_edge.core.loop import Loop

MAX_LINE = 16 * 1024  # bytes of one formatted record
MAX_RECORDS = 2000
MAX_BYTES = 256 * 1024
_PIECE = 4096  # PIPE_BUF: a pipe that is ready to be written takes this much without blocking
_COLOURS = {"debug": "\x1b[2m", "info": "", "warning": "\x1b[33m", "error": "\x1b[31m"}
_PLAIN = "\x1b[0m"


# Event id -> who wants the records of its handler, below the configured level too (the HTTP source, for a request that
# asks): `level`, and `take(record)`, which says whether the record was made for it alone.
TAPS: dict[str | None, Any] = {}


class Log:
    """The log of a processor. Callable as a logger's `emit` from any thread; never raises, never waits.

    Until `open` has given it a loop, and after `close`, records are written at once.
    """

    def __init__(self, *sinks: Any) -> None:
        self.sinks: list[Any] = list(sinks)
        self.emit = self  # a Logger finds `flush` beside it
        self._secrets: list[tuple[str, str]] = []
        self.loop: Loop | None = None
        self._asked = False

    def add(self, sink: Any) -> None:
        """Send records to one more sink: `level`, `put(record, mask)`, `write(loop)`, `close()`."""
        self.sinks.append(sink)

    def mask(self, secret: str | bytes) -> None:
        """Show this text as *** from now on, as it is and as Python and JSON write it; not below four characters."""
        text = secret.decode("utf-8", "replace") if isinstance(secret, bytes) else secret
        from nuclio_edge.redaction import forms

        for form in forms(text) | forms(text.strip()):
            if (form, "***") not in self._secrets:
                self._secrets.append((form, "***"))
        self._secrets.sort(key=_longest_first)

    def open(self, loop: Loop) -> None:
        """Write on this loop's thread, which is the calling one, from now on."""
        self.loop = loop
        loop.thread = get_ident()

    def close(self, limit_ms: int = 1000) -> None:
        """Write what is queued, for at most `limit_ms`, and let go of the loop; idempotent."""
        loop, self.loop = self.loop, None
        for sink in self.sinks:
            sink.finish(loop, limit_ms)

    def flush(self) -> None:
        """Have what is queued written soon (on the loop's thread: now, as far as nobody has to wait)."""
        if self.loop is None or get_ident() == self.loop.thread:
            self._write()
        else:
            self._ask()

    def counters(self) -> dict[str, int]:
        """Records written and dropped, over all sinks."""
        return {
            "written": sum(sink.written for sink in self.sinks),
            "dropped": sum(sink.dropped for sink in self.sinks),
        }

    def __call__(self, record: Record) -> None:
        """Take a record to every sink that wants its level, and to who asked for those of its event."""
        try:
            if TAPS and record[6] in TAPS and TAPS[record[6]].take(record):
                return
            wanted = False
            level = record[1]
            for sink in self.sinks:
                if level >= sink.level:
                    sink.put(record, self.masked)
                    wanted = True
            if not wanted:
                return
            if self.loop is None:
                self._write()
            elif not self._asked:
                self._ask()
        except Exception:  # noqa: BLE001 - a log that raises would be a fault of its own in every handler
            for sink in self.sinks:
                sink.dropped += 1

    def _ask(self) -> None:
        loop = self.loop
        if loop is not None:
            self._asked = True
            if get_ident() == loop.thread:
                loop.at_turn_end(self._write)
            else:
                loop.post(self._write)

    def _write(self) -> None:
        self._asked = False
        for sink in self.sinks:
            sink.write(self.loop)

    def masked(self, text: str) -> str:
        """The text with *** in the place of secrets."""
        for secret, stars in self._secrets:
            if secret in text:
                text = text.replace(secret, stars)
        return text


class FunctionLogger(Logger):
    """The logger of a handler: core's, and the one method of the SDK's that wants Python's logging."""

    __slots__ = ("_level",)

    @property
    def level(self) -> int:
        """Records below it are not made; lower while an event is handled whose sender asked for more."""
        if TAPS and self._context is not None and self._context._event is not None:
            tap = TAPS.get(self._context._event.id)
            if tap is not None:
                return min(self._level, int(tap.level))
        return self._level

    @level.setter
    def level(self, level: int) -> None:
        self._level = level

    def set_handler(self, handler_name: str, file: Any, formatter: Any) -> None:
        """Also write every record to a file, formatted by a logging.Formatter; replaces an earlier one of that name."""
        from nuclio_edge.nuclio_sdk.logger import Tee

        if not isinstance(self._emit, Tee):
            self._emit = Tee(self._emit)
        self._emit.handlers[handler_name] = (file, formatter)


class _Queue:
    """What every sink that writes lines shares: the bounded queue, and the count of what did not fit."""

    def __init__(self, level: int | str, form: Callable[[Record, Callable[[str], str]], str]) -> None:
        self.level = level_number(level)
        self.written = 0
        self.dropped = 0
        self._form = form
        self._lines: deque[bytes] = deque()
        self._held = 0
        self._unsaid = 0

    def put(self, record: Record, mask: Callable[[str], str]) -> None:
        """Queue a record; on whichever thread made it."""
        line = self._form(record, mask).encode("utf-8", "backslashreplace")
        if len(line) > MAX_LINE:
            line = b"%s... %d bytes left out" % (line[:MAX_LINE], len(line) - MAX_LINE)
        if len(self._lines) >= MAX_RECORDS or self._held + len(line) > MAX_BYTES:
            self.dropped += 1
            self._unsaid += 1
            return
        self._held += len(line) + 1
        self._lines.append(line + b"\n")

    def take(self) -> bytes:
        """Everything that is queued, as one piece, with a word on what was dropped."""
        lines = self._lines
        pieces = [lines.popleft() for _ in range(len(lines))]  # other threads append meanwhile
        self._held = 0
        self.written += len(pieces)
        if self._unsaid:
            count, self._unsaid = self._unsaid, 0
            said = (port.now_ms(), 30, "log", "records dropped", ("count", count), None, None)
            pieces.append(self._form(said, str).encode() + b"\n")
        return b"".join(pieces)


class Console(_Queue):
    """Standard error: text on a terminal (coloured unless NO_COLOR or TERM=dumb say otherwise), JSON lines elsewhere.

    The descriptor stays blocking, as it is shared with whoever else has it: nothing is written that poll has not
    announced room for, and no more at a time than a pipe takes.
    """

    def __init__(self, level: int | str = INFO, fd: int = 2, *, text: bool | None = None) -> None:
        terminal = _is_terminal(fd)
        text = terminal if text is None else text
        colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        super().__init__(level, _coloured if text and colour else as_text if text else as_json)
        self.fd = fd
        self._left = b""
        self._polled = False
        try:
            self._regular = stat.S_ISREG(os.fstat(fd).st_mode)  # never blocks, and epoll refuses it
        except OSError:
            self._regular = False
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, loop: Loop | None) -> None:
        """Write what there is room for; the rest follows when there is. On the loop's thread."""
        if self._polled:
            return
        self._step(0 if loop is not None else 1000)
        if self._left and loop is not None:
            self._polled = True
            loop.add(self.fd, lambda _mask: self._resume(loop), read=False, write=True)

    def finish(self, loop: Loop | None, limit_ms: int) -> None:
        """Write the rest, waiting for room for at most `limit_ms`."""
        if self._polled and loop is not None:
            self._polled = False
            loop.remove(self.fd)
        self._step(limit_ms)

    def _resume(self, loop: Loop) -> None:
        self._step(0)
        if not self._left:
            self._polled = False
            loop.remove(self.fd)

    def _step(self, patience_ms: int) -> None:
        end = time.monotonic() + patience_ms / 1000
        while self._left or self._lines:
            if not self._left:
                self._left = self.take()
            if not self._regular and not self._poll.poll(max(int((end - time.monotonic()) * 1000), 0)):
                return
            piece = self._left if self._regular else self._left[:_PIECE]
            if len(piece) < len(self._left) and not self._regular:
                whole = piece.rfind(b"\n") + 1  # pieces end with a line where they can: others write here too
                piece = piece[:whole] if whole else piece
            try:
                count = os.write(self.fd, piece)
            except BlockingIOError:
                return
            except OSError:  # closed, or its reader is gone: nobody could read what we would say of it
                self.dropped += self._left.count(b"\n")
                self._left = b""
                return
            self._left = self._left[count:]


class File(_Queue):
    """A file of JSON lines; full (`max_size` bytes) it becomes path.1, path.1 path.2, and `keep` of them stay."""

    def __init__(self, path: str, level: int | str = INFO, max_size: int = 1 << 20, keep: int = 3) -> None:
        super().__init__(level, as_json)
        self.path = path
        self.max_size = max_size
        self.keep = keep
        self._fd = -1
        self._size = 0

    def write(self, loop: Loop | None) -> None:
        """Append what is queued: one write, into the page cache. What cannot be written is counted as dropped."""
        if not self._lines:
            return
        unsaid, before = self._unsaid, self.written
        data = self.take()
        count = 0
        try:
            if self._fd >= 0 and self._size + len(data) > self.max_size:
                self._rotate()
            if self._fd < 0:
                self._open()
            count = os.write(self._fd, data)
            self._size += count
        except OSError:
            self._close()
        if count < len(data):  # a full or read-only disk must not stop the processor; the next record tries again
            lost = self.written - before - data[:count].count(b"\n")
            self.written -= lost
            self.dropped += lost
            self._unsaid += lost + unsaid

    def finish(self, loop: Loop | None, limit_ms: int) -> None:
        """Write the rest and close the file."""
        self.write(None)
        self._close()

    def _open(self) -> None:
        os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._size = os.fstat(self._fd).st_size
        if self._size and self._size >= self.max_size:
            self._rotate()
            self._open()

    def _rotate(self) -> None:
        self._close()
        if self.keep == 0:
            os.truncate(self.path, 0)
        for number in range(self.keep, 0, -1):
            older = self.path if number == 1 else f"{self.path}.{number - 1}"
            if os.path.exists(older):
                os.replace(older, f"{self.path}.{number}")

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def level_name(level: int) -> str:
    """debug, info, warning or error."""
    return "debug" if level < INFO else "info" if level < WARNING else "warning" if level < ERROR else "error"


def as_json(record: Record, mask: Callable[[str], str]) -> str:
    """One line of JSON: the SDK's datetime (local time), level, message, with; and who logged it.

    A pair named `event` of the processor's own records ("ready") stands at the top, for programs that wait for it.
    """
    ms, level, name, message, pairs, function, event_id = record
    said: dict[str, Any] = {"datetime": _when(ms), "level": level_name(level), "message": message, "with": {}}
    said["logger"] = name
    if function is not None:
        said["function"] = function
    if event_id is not None:
        said["event_id"] = event_id
    for at in range(0, len(pairs) - 1, 2):
        key = str(pairs[at])
        if key == "event" and function is None:
            said["event"] = str(pairs[at + 1])
        else:
            said["with"][key] = pairs[at + 1]
    try:
        text = port.json_dumps(said)
    except Exception:  # noqa: BLE001 - a value that JSON refuses is shown as it shows itself
        said["with"] = {key: _shown(value) for key, value in said["with"].items()}
        said["message"] = _shown(message)
        text = port.json_dumps(said)
    return mask(text)


def as_text(record: Record, mask: Callable[[str], str]) -> str:
    """A line for people: local time, level, who, message, pairs; the lines of a longer text are indented below it."""
    ms, level, name, message, pairs, _function, event_id = record
    parts = [_when(ms)[11:].replace(",", "."), " ", level_name(level).ljust(7), " ", name, ": ", mask(message)]
    below = ""
    for at in range(0, len(pairs) - 1, 2):
        value = pairs[at + 1]
        text = value if isinstance(value, str) else _shown(value)
        shown = mask(text)
        if "\n" in shown:
            below += "\n" + str(pairs[at]) + ":\n" + shown.rstrip("\n")
        elif isinstance(value, str) and (shown == "" or " " in shown or '"' in shown):
            parts.append(f" {pairs[at]}={_quoted(shown)}")
        else:
            parts.append(f" {pairs[at]}={shown}")
    if event_id is not None:
        parts.append(f" ({event_id})")
    # The terminal must not obey what came with an event.
    lines = ("".join(parts) + below).split("\n")
    return "\n    ".join([line if line.isprintable() else _printable(line) for line in lines])


def _coloured(record: Record, mask: Callable[[str], str]) -> str:
    colour = _COLOURS[level_name(record[1])]
    text = as_text(record, mask)
    return colour + text + _PLAIN if colour else text


def _when(ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms // 1000)) + f",{ms % 1000:03d}"


def _shown(value: Any) -> str:
    if type(value) in (dict, list, tuple):
        try:
            return port.json_dumps(value)
        except Exception:  # noqa: BLE001, S110 - then as Python shows it
            pass
    try:
        return ascii(value) if isinstance(value, bytes) else str(value)
    except Exception as error:  # noqa: BLE001 - a __str__ of the user's
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() or c == "\t" else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


def _longest_first(pair: tuple[str, str]) -> int:
    return -len(pair[0])


def make_log(values: Any) -> Log:
    """The log that a manifest's `[log]` asks for; sinks over a binding or the network are added by who has those."""
    log = Log()
    for sink in values.sinks or (None,):
        kind = "console" if sink is None else _of(sink, "kind")
        level = (None if sink is None else _of(sink, "level")) or values.level
        if kind == "console":
            log.add(Console(level))
        elif kind == "file":
            log.add(File(_of(sink, "path"), level, _of(sink, "max_size") or 1 << 20, _keep(_of(sink, "keep"))))
    return log


def _of(sink: Any, key: str) -> Any:
    return sink.get(key) if isinstance(sink, dict) else getattr(sink, key, None)


def _keep(value: Any) -> int:
    return 3 if value is None else int(value)
