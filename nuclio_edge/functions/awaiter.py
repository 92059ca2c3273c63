"""What a function that is not `async def` returns to be awaited, run to its end where it was returned."""

from __future__ import annotations

from asyncio import all_tasks, new_event_loop, wait
from contextlib import suppress

from nuclio_edge.core.failure import HandlerTimeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FAREWELL_S = 1.0  # for what is cancelled as its time is over, to clean up
_CLOSING_S = 0.1  # for what was left behind; the processor's loop waits for it


class Awaiter:
    """An asyncio loop that runs one thing at a time; the loop stays, so that what is bound to it can be used again.

    A decorator hides an `async def` from whoever looks, a lambda too: such a handler runs as others do, one call at a
    time. Tasks that it leaves behind go on while the next one runs.
    """

    def __init__(self) -> None:
        self._aio = _new_loop()
        self._task: Any = None

    def run(self, value: Any) -> Any:
        """The result of an awaitable, or its exception; on the thread that calls.

        A HandlerTimeout that is raised into the thread cancels it; see `wake`.
        """
        if self._aio.is_closed():  # by an earlier handler
            self._aio = _new_loop()
        aio = self._aio
        task = self._task = aio.create_task(_awaited(value))
        try:
            while True:
                try:
                    return aio.run_until_complete(task)
                except (SystemExit, KeyboardInterrupt) as error:
                    if task.done():
                        if not task.cancelled():
                            task.exception()  # else asyncio says that nobody has asked for it
                        raise
                    said = "a background task ended by " + type(error).__name__
                    aio.default_exception_handler({"message": said, "exception": error})
        finally:
            self._task = None
            if not task.done():
                task.cancel()
                aio.run_until_complete(wait((task,), timeout=_FAREWELL_S))

    def wake(self) -> None:
        """Cancel what runs, after a HandlerTimeout was raised into its thread; any thread.

        A thread that waits in C would not notice that, and where a task that was left behind runs in that moment
        asyncio takes the HandlerTimeout for its own.
        """
        with suppress(RuntimeError):  # it is closed
            self._aio.call_soon_threadsafe(self._cancel)

    def close(self) -> bool:
        """Cancel what was left behind and give the descriptors back; false where it runs, and that has to wait."""
        aio = self._aio
        if aio.is_running():  # its last words, or in a thread of the user's
            return False
        if aio.is_closed():
            return True
        with suppress(BaseException):  # of the user's tasks
            left = all_tasks(aio)
            for task in left:
                task.cancel()
            left.add(aio.create_task(aio.shutdown_asyncgens()))
            aio.run_until_complete(wait(left, timeout=_CLOSING_S))
        with suppress(RuntimeError):  # it has just been run elsewhere
            aio.close()
        return True

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def run_once(value: Any) -> Any:
    """The result of an awaitable, or its exception, on a loop that is made for it alone."""
    awaiter = Awaiter()
    try:
        return awaiter.run(value)
    finally:
        awaiter.close()


def _new_loop() -> Any:
    aio = new_event_loop()
    aio.set_exception_handler(_report)
    return aio


def _report(aio: Any, about: dict[str, Any]) -> None:
    """Log what asyncio has to say, but for an end that was told already, or is a HandlerTimeout for somebody else."""
    if not isinstance(about.get("exception"), (SystemExit, KeyboardInterrupt, HandlerTimeout)):
        aio.default_exception_handler(about)


async def _awaited(value: Any) -> Any:
    return await value
