"""One worker process as the loop sees it: what it was given, what it says, and the descriptors in between."""

from __future__ import annotations

import marshal
from collections import deque

from nuclio_edge.core import port
from nuclio_edge.core.response import ExceptionWithResponse, Response
from nuclio_edge.core.worker import conclude

from .frames import (
    BEGIN,
    BROKEN,
    CALL,
    DONE,
    EVENT,
    FAILED,
    FILE,
    INIT,
    LOADED,
    LOG,
    PARTED,
    READY,
    START,
    FrameError,
    Reader,
    frame,
    parted,
)
from .process_spawn import Spawned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.loop import Loop

    from .processes import ProcessRunner

# Events that a process has beside the one it handles, once they have proved to be short.
WINDOW = 16
_SHORT = port.TICKS_PER_MS
_READ = 1 << 18
MOST_FILES = 2000  # that are remembered; a handler may send what it likes


class DiedError(Exception):
    """The process that was handling the event has ended."""


class RemoteError(Exception):
    """An exception of a handler in another process; its subclasses have the names of the originals."""

    user_text = ""  # the traceback, as `loader.format_user_error` shows it


class Child:
    """One worker process."""

    def __init__(self, runner: ProcessRunner, context: Context, number: int) -> None:
        self.runner = runner
        self.context = context
        self.number = number
        self.inflight: deque[tuple[int, Event]] = deque()
        self.loaded = False
        self.ready = False
        self.initialising = False
        self.since = port.clock()  # when the first of `inflight` began, or the process
        self.idle_since = 0
        self.window = 1
        self.sent = 0
        self.files: dict[str, int] = {}  # that it has read, with their stamps
        self._parted: Callable[[Child], Any] | None = None  # who waits for its last words
        self._triggers = 0  # how many of them it has been told of
        self.dying = False
        self.kill_at: int | None = None  # by the loop's time, unless it has ended by itself
        self.error: BaseException | None = None  # why it could not start
        self.expired = False
        self.reader = Reader()
        self._outcomes: deque[tuple[Any, Any, BaseException | None, int]] = deque()
        self._out: deque[bytes] = deque()
        self.unsent = 0  # bytes
        self._writing = False
        self._loop: Loop = runner.loop
        self.spawned = Spawned(
            runner.function.name, dict(context.env), self._readable, self._said, self._ended, self._loop
        )
        self.hold = runner.limits.hold(self._loop, self.spawned.pid, runner.function.name)
        self.write(frame(START, marshal.dumps(runner.about(context))))
        if not runner.beside:
            self.begin()

    def begin(self) -> None:
        """Let it go on to init_context and events when it has imported the code."""
        self.since = port.clock()
        bindings, triggers = self.runner.surroundings(self.context)
        self._triggers = len(triggers)
        self.write(frame(BEGIN, marshal.dumps((bindings, triggers))))

    def give(self, event: Any) -> None:
        """Hand an event over."""
        self.sent += 1
        if not self.inflight and self.ready:
            self.since = port.clock()
        self.inflight.append((self.sent, event))
        wanted = event._token is not None or bool(self.runner.function.outputs)
        what = [self.runner.state_of(one) for one in event] if isinstance(event, list) else self.runner.state_of(event)
        news = self.runner.triggers_from(self._triggers)  # one that came later: a function is called by another
        self._triggers += len(news)
        self.write(frame(EVENT, marshal.dumps((self.sent, wanted, what, news))))
        if self.hold is not None:
            self.hold.poke()

    def part(self, told: Callable[[Child], Any]) -> None:
        """Have it call its drain and termination callbacks; `told(child)` when it has."""
        self._parted = told
        self.write(frame(EVENT, marshal.dumps((0, False, None, ()))))

    def write(self, data: bytes) -> None:
        """Queue bytes for the process; `flush` sends them."""
        self._out.append(data)
        self.unsent += len(data)

    def flush(self) -> None:
        """Send what the socket takes; the rest when it takes more."""
        out = self._out
        if self._writing or not out:
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        try:
            sent = self.spawned.channel.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it has ended, which we shall hear
        self.unsent -= sent
        if sent < len(data):
            out.append(data[sent:])
            self._writing = True
            self._loop.modify(self.spawned.channel, True, True)

    def hang_up(self, kill_at: int) -> None:
        """Have the idle process end by itself; it is to be killed at that moment if it has not."""
        self.dying = True
        self.kill_at = kill_at
        self.spawned.hang_up()

    def kill(self) -> None:
        """End the process and what it has started, now."""
        self.dying = True
        self.kill_at = None
        self.context.revoke()
        self.spawned.kill()

    def read(self, *, whole: bool = False) -> None:
        """Take in what the process has written; the whole of it when it has ended."""
        while self._read(whole=whole):
            pass
        while self._outcomes:
            event, result, error, ticks = self._outcomes.popleft()
            try:
                conclude(event._trigger, event, result, error, ticks)
            except Exception as caught:  # noqa: BLE001 - a defect of ours or of a source's, not of the worker
                self._loop.on_error(caught, conclude)

    def _read(self, *, whole: bool) -> bool:
        """One read; whether there may be more."""
        try:
            data = self.spawned.channel.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._loop.remove(self.spawned.channel)
            self.kill()  # it is ending, or has closed a descriptor that it cannot work without
            self.spawned.expect_end()
            return False
        try:
            for kind, content in self.reader.feed(data):
                self._take(kind, content)
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
            self._spoilt(error)
            return False
        return whole or len(data) == _READ

    def close(self) -> None:
        """Give back what the processor holds of it; the process has ended."""
        self._has_parted()
        self.context.revoke()
        self.spawned.close()
        if self.hold is not None:
            self.hold.close()

    def _has_parted(self) -> None:
        told, self._parted = self._parted, None
        if told is not None:
            told(self)

    def _readable(self, mask: int) -> None:
        if mask & port.OUT and self._writing:
            self._writing = False
            self._loop.modify(self.spawned.channel, True, False)
            self.flush()
        if mask & port.IN:
            self.read()
            self.runner.flush()

    def _ended(self, status: int) -> None:
        self.read(whole=True)
        self.runner.child_ended(self, status)

    def _said(self, line: str) -> None:
        """A line that was written past Python: by C code, by what the handler has started, by a crash."""
        logger = self.context.logger
        if logger.level <= 20:
            name = f"{logger.name}.output"
            logger._emit((port.now_ms(), 20, name, line, (), self.context.function_name, None))

    def _spoilt(self, error: BaseException) -> None:
        self.error = FrameError(f"the function has written to the processor's own descriptor: {error}")
        self.kill()

    def _take(self, kind: int, content: bytes) -> None:
        if self.dying:
            return
        if kind == DONE:
            self._done(content)
        elif kind == FAILED:
            self._failed(content)
        elif kind == LOG:
            ms, level, name, message, pairs, event_id = port.json_loads(content)
            self.context.logger._emit((ms, level, name, message, tuple(pairs), self.context.function_name, event_id))
        elif kind == CALL:
            self.runner.call(self, content)
        elif kind == LOADED:
            self.loaded = True
            self.runner.child_loaded()
        elif kind == INIT:
            self.initialising = True
            self.since = port.clock()
        elif kind == READY:
            self.ready = True
            self.initialising = False
            self.since = port.clock()
            self.idle_since = self._loop.now
            self.runner.child_ready(self)
        elif kind == FILE:
            path, stamp = port.json_loads(content)
            if len(self.files) < MOST_FILES:
                self.files[str(path)] = int(stamp)
        elif kind == PARTED:
            self._has_parted()
        elif kind == BROKEN:
            name, text = port.json_loads(content)
            self.error = _remote(name, "", text)
            self.dying = True
        else:
            raise FrameError(f"a frame of kind {kind}")

    def _done(self, content: bytes) -> None:
        head, bodies = parted(content)
        about = port.json_loads(head)
        result: Any = None
        if len(about) > 3:  # else the handler returned None
            answers = []
            at = 0
            for status, content_type, headers, event_id, length in about[4:]:
                answers.append(Response(headers, bodies[at : at + length], content_type, status, event_id))
                at += length
            result = answers if about[3] else answers[0]
        self._conclude(about, result, None)

    def _failed(self, content: bytes) -> None:
        head, body = parted(content)
        about = port.json_loads(head)
        _, _, _, name, text, shown, status, content_type = about
        answered = status is not None
        error = ExceptionWithResponse(status, body, content_type) if answered else _remote(name, text, shown)
        self._conclude(about, None, error)

    def _conclude(self, about: list[Any], result: Any, error: BaseException | None) -> None:
        number, ticks, end = about[0], int(about[1]), int(about[2])
        if not self.inflight or self.inflight[0][0] != number:
            raise FrameError("an outcome of no event")
        event = self.inflight.popleft()[1]
        self.since = min(end, port.clock())
        self.idle_since = self._loop.now
        self.window = WINDOW if ticks < _SHORT else 1
        self.runner.deaths = 0
        self._outcomes.append((event, result, error, ticks))


def _remote(name: str, text: str, shown: str) -> RemoteError:
    error: RemoteError = type(str(name), (RemoteError,), {})(text)
    error.user_text = shown
    return error
