"""What a handler prints, and what it gives to Python's own logging, in the processor's log.

sys.stdout and sys.stderr are stood in for: a line written while a function runs becomes a record of that function
(info for stdout, warning for stderr) with its event's id; whatever nobody's thread writes goes to the real stream.
A line without its end waits for it until the next event's output, at most a second; none is longer than 8 KiB.
What is assigned to sys.stdout or sys.stderr while a function runs (contextlib.redirect_stdout does) is what that
worker finds there, and no other: the class of the module sys is exchanged while `install` holds.
"""

from __future__ import annotations

import sys

from nuclio_edge.core import port
from nuclio_edge.core.log import DEBUG, ERROR, INFO, WARNING
from nuclio_edge.functions import running

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from collections.abc import Iterable
    from typing import Any

    from nuclio_edge.functions.running import Running
    from nuclio_edge.logs import Log

LONGEST = 8192
PATIENCE_MS = 1000

_UNCAUGHT = "an exception has ended a thread"
_LEVELS = {"stdout": INFO, "stderr": WARNING}
_log: Log | None = None
_waiting: dict[tuple[int, str], Running] = {}
_timed = False
_GONE: Any = object()  # in the place of a stream that was deleted
_streams: dict[str, Stream] = {}
_doors: dict[str, _Door] = {}  # never given up: print may be in one, of which it holds no reference (CPython 3.11)
_nobodys: dict[str, Any] = {}  # what was put in their place while no function was running
_class: Any = type(sys)  # of the module sys before `install`
_thread_hook: Any = None  # threading's, that ours stands in for


class Stream:
    """What stands in for sys.stdout or sys.stderr: what a function does to it changes nothing for the others.

    `real` is what was there, None where the descriptor was closed.
    """

    def __init__(self, real: Any, name: str) -> None:
        self.real = real
        self.name = name
        self.buffer = _Buffer(self, getattr(real, "buffer", None))

    def write(self, text: str) -> int:
        """Log the text's lines when a function is running, else pass it on."""
        return self.put(running.current(), text)

    def put(self, who: Running | None, text: str) -> int:
        """The same for whoever is known to write."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if who is not None:
            _take(who, self.name, text)
        elif self.real is not None:
            self.real.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Nothing while a function is running: its lines are on their way. Else the real stream's."""
        if self.real is not None and running.current() is None:
            self.real.flush()

    def close(self) -> None:
        """Nothing while a function is running: others write to it."""
        if running.current() is None:
            self.real.close()

    def detach(self) -> Any:
        """The bytes below; for a function they stay usable from here too."""
        return self.real.detach() if running.current() is None else self.buffer

    def reconfigure(self, **how: Any) -> None:
        """Nothing while a function is running: records have an encoding of their own."""
        if running.current() is None:
            self.real.reconfigure(**how)

    def __getattr__(self, name: str) -> Any:  # fileno, isatty, encoding, errors, closed, mode ...
        return getattr(self.real, name)

    def __iter__(self) -> Any:
        return iter(self.real)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def __repr__(self) -> str:
        return f"<{self.name} of functions over {self.real!r}>"


class _Buffer:
    """The `buffer` of a Stream: bytes that a function writes are lines of its log as well."""

    def __init__(self, stream: Stream, real: Any) -> None:
        self._stream = stream
        self._real = real

    def write(self, data: Any) -> int:
        who = running.current()
        if who is None:
            return self._real.write(data)  # type: ignore[no-any-return]
        _take(who, self._stream.name, bytes(data).decode("utf-8", "backslashreplace"))
        return len(data)

    def flush(self) -> None:
        if running.current() is None:
            self._real.flush()

    def close(self) -> None:
        """Nothing: a TextIOWrapper around it does that when it is forgotten."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class _Door:
    """What print and the interpreter find in the dictionary of sys: it leads to what sys.stdout is for who asks.

    Somebody may have kept it beyond `uninstall`: then it leads to the real stream.
    """

    __slots__ = ("_own", "name")

    def __init__(self, own: Stream) -> None:
        self._own = own
        self.name = own.name

    def write(self, text: str) -> int:
        who = running.current()
        stream = self._stream(who)
        if stream is self._own:
            return int(self._own.put(who, text))
        if stream is not None:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        stream = self._stream(running.current())
        if stream is not None:
            stream.flush()

    def _stream(self, who: Running | None) -> Any:
        stream = _placed(who).get(self.name, self._own)
        if stream is _GONE:
            raise RuntimeError(f"lost sys.{self.name}")  # print's words
        return stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream(running.current()), name)


def _placed(who: Running | None) -> dict[str, Any]:
    """What was put in the place of a stream by whoever asks."""
    return _nobodys if who is None else running.streams(who)


def _attribute(name: str) -> property:
    """sys.stdout or sys.stderr, answering by the running function."""

    def get(module: Any) -> Any:
        who = running.current()
        found = _placed(who).get(name, module)
        if found is _GONE:
            raise AttributeError(f"module 'sys' has no attribute {name!r}")
        if found is not module:
            return found
        own = _streams.get(name)
        if own is None:
            return vars(module).get(name)
        return None if who is None and own.real is None else own

    def place(_: Any, stream: Any) -> None:
        own = _streams.get(name)
        back = isinstance(stream, (Stream, _Door)) and stream.name == name
        if back or (own is not None and stream is own.real):
            stream = running.BACK  # as before; also sys.stdout = sys.__stdout__
        who = running.current()
        if who is not None:
            running.place(who, name, stream)
        elif stream is running.BACK:
            _nobodys.pop(name, None)
        else:
            _nobodys[name] = stream

    def delete(module: Any) -> None:
        get(module)
        place(module, _GONE)

    return property(get, place, delete)


class _Sys(type(sys)):  # type: ignore[misc]  # ModuleType: types would have to be imported for it
    """The class of the module sys while installed, or one of its bases, where somebody had exchanged it already."""

    stdout = _attribute("stdout")
    stderr = _attribute("stderr")


def _take(who: Running, name: str, text: str) -> None:
    """Turn text into records of `who`, keeping what has no newline yet."""
    kept = who.partial
    if kept is not None and name in kept:
        event, before = kept.pop(name)
        if event is who.context._event:
            text = before + text
        else:
            _say(who, name, before, event)
    elif not text:
        return
    lines = text.split("\n")
    rest = lines.pop()
    for line in lines:
        if line:  # an empty line only sets others apart
            _say(who, name, line, who.context._event)
    while len(rest) > LONGEST:
        _say(who, name, rest[:LONGEST], who.context._event)
        rest = rest[LONGEST:]
    if rest:
        if who.partial is None:
            who.partial = {}
        who.partial[name] = (who.context._event, rest)
        _wait(who, name)


def _say(who: Running, name: str, line: str, event: Any) -> None:
    logger = who.context.logger
    line = line.rstrip("\r")
    while True:
        piece, line = line[:LONGEST], line[LONGEST:]
        _emit(who, logger, _LEVELS[name], name, port.now_ms(), piece, (), event)
        if not line:
            return


def _emit(
    who: Running, logger: Any, level: int, name: str, ms: int, message: str, pairs: tuple[Any, ...], event: Any
) -> None:
    """Give a record to where the function's logger gives its own; while it is being imported there is none yet."""
    if level < getattr(logger, "level", INFO):
        return
    emit = getattr(logger, "_emit", None) or _log
    if emit is not None:
        name = f"{getattr(logger, 'name', who.name)}.{name}"
        emit((ms, level, name, message, pairs, who.name, event.id if event else None))


def _wait(who: Running, name: str) -> None:
    """See to it that a line without its end is logged in a second or two; a thread's write must not start a timer."""
    global _timed  # noqa: PLW0603 - one timer for all
    _waiting[id(who), name] = who
    loop = None if _log is None else _log.loop
    if loop is not None and not _timed:
        _timed = True
        loop.post(lambda: loop.call_later(PATIENCE_MS, _expire))


def _expire() -> None:
    global _timed  # noqa: PLW0603 - as above
    _timed = False
    flush()


def flush() -> None:
    """Log every line that still waits for its end; at a stop, and by the timer."""
    while _waiting:
        (_, name), who = _waiting.popitem()
        kept = who.partial
        found = kept.pop(name, None) if kept else None
        if found is not None:
            _say(who, name, found[1], found[0])


def install(log: Log | None = None) -> None:
    """Stand in for both streams, and for what logging and threading do where they are in use; may be called again.

    `log` is whose loop times unfinished lines.
    """
    global _class, _log  # noqa: PLW0603 - the streams are the process's as well
    if log is not None:
        _log = log
    for name in ("stdout", "stderr"):
        real = vars(sys).get(name)
        if isinstance(real, _Door):
            if name in _streams:
                continue
            real = real._own.real  # somebody has put it back after `uninstall`
        own = _streams[name] = Stream(real, name)
        door = _doors.setdefault(name, _Door(own))
        door._own = own
        vars(sys)[name] = door
    found = type(sys)
    if not issubclass(found, _Sys):
        _class = found
        sys.__class__ = _Sys if found is _Sys.__base__ else type("_Sys", (_Sys, found), {})
    install_hooks()


def uninstall() -> None:
    """Give the streams, the root logger and the hook of threads back."""
    global _log, _timed, _thread_hook  # noqa: PLW0603 - as above
    flush()
    _log = None
    _timed = False
    if issubclass(type(sys), _Sys):
        sys.__class__ = _class
    for name, stream in _streams.items():
        vars(sys)[name] = _nobodys.get(name, stream.real)
        if vars(sys)[name] is _GONE:
            del vars(sys)[name]
    _streams.clear()
    _nobodys.clear()
    if _thread_hook is not None:
        threading: Any = sys.modules.get("threading")
        if threading is not None and threading.excepthook is _thread_failed:
            threading.excepthook = _thread_hook
        _thread_hook = None
    if "logging" in sys.modules:
        root = sys.modules["logging"].getLogger()
        for handler in list(root.handlers):
            if getattr(handler, "nuclio_edge", False):
                root.removeHandler(handler)


def install_hooks() -> None:
    """Take what Python's logging and threading have to say, once something has imported them."""
    if "threading" in sys.modules:
        _install_thread_hook(sys.modules["threading"])
    if "logging" in sys.modules:
        _install_root_handler(sys.modules["logging"])


def _install_thread_hook(module: Any) -> None:
    global _thread_hook  # noqa: PLW0603 - it is the process's
    if module.excepthook is not _thread_failed:
        _thread_hook = module.excepthook
        module.excepthook = _thread_failed
    elif _thread_hook is None:  # somebody has put ours back after `uninstall`
        _thread_hook = module.__excepthook__


def _thread_failed(args: Any) -> None:
    """Log what has ended a thread that a function, or a library of its, has started; a threading.excepthook."""
    if args.exc_type is SystemExit:
        return
    threading: Any = sys.modules["threading"]
    who = running.current() or running.of_traceback(args.exc_traceback)
    before = _thread_hook or threading.__excepthook__
    if who is None and (_log is None or before is not threading.__excepthook__):
        before(args)
        return
    from nuclio_edge.functions.loader import format_user_error

    error = args.exc_value if args.exc_value is not None else args.exc_type()
    thread = args.thread.name if args.thread is not None else ""
    pairs = ("thread", thread, "exc", repr(error), "traceback", format_user_error(error))
    if who is not None:
        _emit(who, who.context.logger, ERROR, "thread", port.now_ms(), _UNCAUGHT, pairs, who.context._event)
    elif _log is not None:
        _log((port.now_ms(), ERROR, "thread", _UNCAUGHT, pairs, None, None))


def _install_root_handler(module: Any) -> None:
    root = module.getLogger()
    if any(getattr(handler, "nuclio_edge", False) for handler in root.handlers):
        return

    class Handler(module.Handler):  # type: ignore[misc]  # made here: importing logging costs memory
        """Records of a function's thread go to its log; those of nobody's as Python does without a handler."""

        nuclio_edge = True

        def emit(self, record: logging.LogRecord) -> None:
            try:
                who = running.current()
                if who is not None:
                    _say_record(who, record)
                elif len(root.handlers) == 1 and record.levelno >= module.lastResort.level:
                    module.lastResort.handle(record)
            except Exception:  # noqa: BLE001 - logging's own way with a record that cannot be formatted
                self.handleError(record)

    untouched = not root.handlers and root.level == module.WARNING
    root.addHandler(Handler())
    if untouched:
        root.setLevel(module.DEBUG if _any_debug() else module.INFO)


def _any_debug() -> bool:
    who = running.current()
    return who is not None and getattr(who.context.logger, "level", INFO) <= DEBUG


def _say_record(who: Running, record: logging.LogRecord) -> None:
    number = record.levelno
    level = DEBUG if number < INFO else INFO if number < WARNING else WARNING if number < ERROR else ERROR
    pairs: tuple[Any, ...] = ()
    if record.exc_info and record.exc_info[1] is not None:
        from nuclio_edge.functions.loader import format_user_error

        pairs = ("exc", repr(record.exc_info[1]), "traceback", format_user_error(record.exc_info[1]))
    try:
        message = record.getMessage()
    except Exception:  # noqa: BLE001 - arguments that do not fit the message are shown beside it
        message = f"{record.msg} {record.args!r}"
    context = who.context
    name = _own_name(record.name)
    _emit(who, context.logger, level, name, int(record.created * 1000), message, pairs, context._event)


def _own_name(name: str) -> str:
    """A logger's name without the package that a function's module is in."""
    space = running.space_of(name)
    return name[len(space) + 1 :] if space else name
