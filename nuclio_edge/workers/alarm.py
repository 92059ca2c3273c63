"""A timer of the kernel on which one thread sleeps and which another moves on without waking it: timerfd_create(2).

A thread that waits with a time limit needs the interpreter's lock each time that the limit is over. Beside a loop that
turns without a pause it does not get it: at each system call of the loop it is woken in vain (15 us a turn, measured).
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_CLOEXEC = os.O_CLOEXEC


class Alarm:
    """One timer; OSError, ImportError or AttributeError when the system has none for us. Any thread."""

    def __init__(self) -> None:
        create, self._set = _calls()
        self.descriptor = create()

    def set(self, delay_ns: int) -> None:
        """Let the present or the next `wait` end after so long, counted from now, more than 0."""
        self._set(self.descriptor, delay_ns)

    def wait(self) -> None:
        """Return when it has gone off since the last call; waits until it does."""
        os.read(self.descriptor, 8)

    def close(self) -> None:
        """Give the descriptor back; nobody may be in `wait`."""
        os.close(self.descriptor)


def _calls() -> tuple[Callable[[], int], Callable[[int, int], object]]:
    if sys.version_info >= (3, 13):
        return (
            lambda: os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_CLOEXEC),
            lambda descriptor, ns: os.timerfd_settime_ns(descriptor, initial=ns),
        )
    import ctypes  # 10 ms, on a small board 50: never on the loop's thread

    library = ctypes.PyDLL(
        None, use_errno=True
    )  # keeps the interpreter's lock: these calls are shorter than giving it up
    new = (ctypes.c_long * 4)()  # struct itimerspec: interval and value, seconds and nanoseconds each
    settime = library.timerfd_settime
    settime.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    where = ctypes.addressof(new)

    def create() -> int:
        descriptor: int = library.timerfd_create(time.CLOCK_MONOTONIC, _CLOEXEC)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return descriptor

    def set_(descriptor: int, ns: int) -> object:
        new[2], new[3] = divmod(ns, 1_000_000_000)
        return settime(descriptor, 0, where, None)

    return create, set_
