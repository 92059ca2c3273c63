"""What a handler forks ends where its handler ends.

A child that returns from the handler, or raises, would go on as a second processor on the same connections, and outlive
the first. So it is watched from the fork on, in the child alone: when the frame that the processor's code called is
left, the process ends, with the code that a script of its own would have had.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any

# Whose frames call user code. A child that came out of a coroutine must not run its parent's asyncio loop either.
_CALLERS = (
    "nuclio_edge.workers.thread_worker",
    "nuclio_edge.core.worker",
    "nuclio_edge.workers.aio_worker",
    "nuclio_edge.functions.function",
    "asyncio.",
)
_installed = False
_raised: BaseException | None = None


def install() -> None:
    """Watch what is forked from now on, for the life of the process; may be called again."""
    global _installed  # noqa: PLW0603 - os.register_at_fork cannot be undone
    if not _installed:
        _installed = True
        os.register_at_fork(after_in_child=_forked)


def _forked() -> None:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_back is not None:
        if frame.f_back.f_globals.get("__name__", "").startswith(_CALLERS):
            frame.f_trace = _watch
            sys.settrace(_nothing)
            return
        frame = frame.f_back


def _nothing(_frame: FrameType, _what: str, _value: Any) -> None:
    """Trace no other frame."""


def _watch(_frame: FrameType, what: str, value: Any) -> Any:
    global _raised  # noqa: PLW0603 - one frame is watched
    if what == "exception":
        _raised = value[1]
    elif what == "line":
        _raised = None  # it was caught
    elif what == "return":
        os._exit(0 if _raised is None else _code(_raised))
    return _watch


def _code(error: BaseException) -> int:
    if not isinstance(error, SystemExit):
        return 1
    code = error.code
    return code & 255 if isinstance(code, int) else 0 if code is None else 1
