"""The logger that a handler is given: levels, printf, ordered pairs, children.

A record is one tuple, made only after its level has been found wanted:
(ms since the Unix epoch, level, logger name, message, (key, value, key, value, …), function, event id).
Where records go is one callable, `emit(record)`; if it has a `flush` attribute, `Logger.flush` calls it.
"""

from . import port
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .context import Context

    Record = tuple[int, int, str, str, tuple[Any, ...], str | None, str | None]

DEBUG = 10
INFO = 20
WARNING = 30
ERROR = 40

LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "warn": WARNING, "error": ERROR}


def level_number(level: "int | str") -> int:
    """10, 20, 30 or 40 for a level's name, and a number as it is; raises KeyError for another name."""
    return LEVELS[level.lower()] if isinstance(level, str) else level


def _plain(level: int) -> "Callable[..., None]":
    """The method of a level that takes a message and printf arguments."""

    def say(self: "Logger", message: "Any", *args: "Any") -> None:
        if self.level <= level:
            self._log(level, message, args, None)

    return say


def _with(level: int) -> "Callable[..., None]":
    """The method of a level that takes a message, then ordered pairs, then named values."""

    def say(self: "Logger", message: "Any", *pairs: "Any", **named: "Any") -> None:
        if self.level <= level:
            self._log(level, message, pairs, named)

    return say


class Logger:
    """Nuclio's logger with the level enforced.

    Every method may be called from any thread, and raises only what a value's own `__str__` raises.
    """

    __slots__ = port.slots("level name _emit _context _bound")

    def __init__(
        self,
        level: "int | str" = INFO,
        name: str = "nuclio_sdk",
        emit: "Any" = None,
        context: "Context | None" = None,
    ) -> None:
        self.level = level_number(level)
        self.name = name
        self._emit = emit
        self._context = context
        self._bound: dict[str, Any] = {}

    debug = _plain(DEBUG)
    info = _plain(INFO)
    warn = _plain(WARNING)
    error = _plain(ERROR)
    debug_with = _with(DEBUG)
    info_with = _with(INFO)
    warn_with = _with(WARNING)
    error_with = _with(ERROR)
    warning = warn
    warning_with = warn_with

    def exception(self, message: "Any", *args: "Any", exc: "Any" = None) -> None:
        """An error with an exception (default: the one being handled, where the interpreter can tell) and its trace."""
        exc = exc or port.current_error()
        if exc is None:
            self.error(message, *args)
        elif self.level <= ERROR:
            named = {"exc": repr(exc), "traceback": port.error_text(exc)}
            self._log(ERROR, _format(message, args), (), named)

    def bind(self, **named: "Any") -> None:
        """Add these to every later record; a call's own value of the same name wins."""
        self._bound.update(named)

    def get_child(self, name: str) -> "Logger":
        """A logger called parent.name that starts with this one's level and bound values."""
        child = self.__class__(self.level, self.name + "." + name, self._emit, self._context)
        child._bound = dict(self._bound)
        return child

    def flush(self) -> None:
        """Ask for the records to be written now; returns without waiting for it."""
        flush = getattr(self._emit, "flush", None)
        if flush is not None:
            flush()

    def _log(self, level: int, message: "Any", args: "tuple[Any, ...]", named: "dict[str, Any] | None") -> None:
        pairs = args
        if named is None:
            message = _format(message, args)
            pairs = ()
        elif args:
            # The SDK has printf arguments here, the slides pairs: what fits the message is printf.
            if "%" in str(message):
                try:
                    message = message % args
                    pairs = ()
                except (TypeError, ValueError):
                    pass
            if len(pairs) % 2:
                pairs = pairs[:-1] + ("args", pairs[-1])  # noqa: RUF005 - MicroPython has no (*a, b)
        if named:
            for key in named:
                pairs += (key, named[key])
        bound = self._bound
        if bound:
            own = [pairs[at] for at in range(0, len(pairs), 2)]
            more: tuple[Any, ...] = ()
            for key in bound:
                if key not in own:
                    more += (key, bound[key])
            pairs = more + pairs
        function = event_id = None
        context = self._context
        if context is not None:
            function = context.function_name
            if context._event is not None:
                event_id = context._event.id
        if self._emit is not None:
            self._emit((port.now_ms(), level, self.name, str(message), pairs, function, event_id))


def _format(message: "Any", args: "tuple[Any, ...]") -> str:
    text = str(message)
    if args:
        try:
            return text % (args[0] if len(args) == 1 and isinstance(args[0], dict) else args)
        except (TypeError, ValueError, KeyError):
            return "%s %r" % (text, args)
    return text
