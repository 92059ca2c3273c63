"""Raising an exception in another thread, from the loop, which does not wait for the import of ctypes."""

from __future__ import annotations

from _thread import start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from typing import Any

_raise: list[Callable[[int, type[BaseException]], Any]] = []  # once ctypes is there


def raise_into(thread: threading.Thread, error: type[BaseException], then: Callable[[], Any] | None = None) -> None:
    """Raise `error` in a thread at its next bytecode, then call `then()`; what waits in C does not notice.

    The first time both are done from a thread of its own: importing ctypes takes 10 ms, on a small board 50, in which
    the loop would stand still for everybody because one handler hangs.
    """
    if not _raise:
        try:
            start_new_thread(_now, (thread, error, then))
            return
        except RuntimeError:  # no thread is to be had
            pass
    _now(thread, error, then)


def _now(thread: threading.Thread, error: type[BaseException], then: Callable[[], Any] | None) -> None:
    try:
        if not _raise:
            import ctypes

            set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
            _raise.append(lambda ident, what: set_exception(ctypes.c_ulong(ident), ctypes.py_object(what)))
        if thread.ident is not None and thread.is_alive():
            _raise[0](thread.ident, error)
    finally:
        if then is not None:
            then()
