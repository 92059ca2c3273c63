"""Which function the calling thread or task is running: what environment, output and imports go by.

A worker binds its `Running` once per thread (an asyncio worker once per task: it is a context variable), the inline
runner whenever another function's turn comes; per event it costs nothing. A thread that a handler started by itself
is known by the function's code on its stack.
"""

from __future__ import annotations

import sys
from _contextvars import ContextVar  # contextvars itself only re-exports it

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.functions.environment import Environment

ROOT = "nuclio_edge_functions"  # every function's code is a package below this one
_PREFIX = ROOT + "."
_NONE: dict[str, Any] = {}
_DEEP = 64  # frames looked at before a thread is taken for nobody's


class Running:
    """One worker of one function, as seen by what runs in it.

    `partial` holds printed text without its newline, `streams` what it has put in the place of sys.stdout and
    sys.stderr.
    """

    __slots__ = ("context", "env", "name", "partial", "space", "streams")

    def __init__(self, name: str, env: Environment, context: Context, space: str = "") -> None:
        self.name = name
        self.env = env
        self.context = context
        self.space = space  # the package of the function's code
        self.partial: dict[str, tuple[Any, str]] | None = None  # stream -> (event, text)
        self.streams: dict[str, Any] | None = None


_bound: ContextVar[Running | None] = ContextVar("nuclio_edge_running", default=None)
_by_space: dict[str, Running] = {}
BACK: Any = object()  # to `place`: what was there before
_redirected: dict[str, dict[str, Any]] = {}  # package -> the `streams` of its worker that has exchanged one last


# bind(running): make the calling thread or task run for this function, None for nobody, until the next call.
bind = _bound.set


def register(running: Running) -> None:
    """Let threads that the function's own code starts be known as its; the newest worker stands for all."""
    if running.space:
        _by_space[running.space] = running


def forget(space: str) -> None:
    """End what `register` began; no error when it never did."""
    _by_space.pop(space, None)
    _redirected.pop(space, None)


def current() -> Running | None:
    """Whose the calling thread is, or None when it is the processor's own."""
    running = _bound.get()
    if running is None and _by_space:
        space = space_of_stack()
        if space:
            running = _by_space.get(space)
    return running


def streams(who: Running) -> dict[str, Any]:
    """What the calling thread, which is `who`'s, finds in the place of sys.stdout and sys.stderr.

    A thread that a handler has started finds what was put there last in any worker of the function: which of them has
    started it is not known.
    """
    return (who.streams if _bound.get() is who else _redirected.get(who.space)) or _NONE


def place(who: Running, name: str, stream: Any) -> None:
    """Put a stream in the place of sys.stdout or sys.stderr for the calling thread, which is `who`'s; or `BACK`."""
    placed = who.streams if _bound.get() is who else _redirected.get(who.space, who.streams)
    if placed is None:
        placed = who.streams = {}
    if stream is BACK:
        placed.pop(name, None)
    else:
        placed[name] = stream
    if not who.space:
        return
    if placed:
        _redirected[who.space] = placed
    elif _redirected.get(who.space) is placed:
        del _redirected[who.space]


def of_traceback(trace: Any) -> Running | None:
    """Whose code an exception came through, or None: what is left of a thread that has ended by it."""
    while trace is not None:
        space = space_of(trace.tb_frame.f_globals.get("__name__"))
        if space:
            return _by_space.get(space)
        trace = trace.tb_next
    return None


def space_of(name: object) -> str:
    """The package (`nuclio_edge_functions.x_1`) that a module of this name belongs to; empty when to none."""
    if type(name) is str and name.startswith(_PREFIX):
        end = name.find(".", len(_PREFIX))
        return name if end < 0 else name[:end]
    return ""


def space_of_stack() -> str:
    """The package of the innermost function code on the calling thread's stack; empty when there is none."""
    frame = sys._getframe(1)
    for _ in range(_DEEP):
        space = space_of(frame.f_globals.get("__name__"))
        if space:
            return space
        if frame.f_back is None:
            break
        frame = frame.f_back
    return ""
