"""What a function that is not `async def` returns to be awaited, run to its end where it was returned."""

from __future__ import annotations

from asyncio import new_event_loop, wait
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FAREWELL_S = 1.0  # for what is cancelled, to clean up


class Awaiter:
    """An asyncio loop that runs one thing at a time; the loop stays, so that what is bound to it can be used again.

    A decorator hides an `async def` from whoever looks, a lambda too: such a handler runs as others do, one call at a
    time. Tasks that it leaves behind go on while the next one runs.
    """

    def __init__(self) -> None:
        self._aio = new_event_loop()

    def run(self, value: Any) -> Any:
        """The result of an awaitable, or its exception; on the thread that calls.

        A HandlerTimeout that is raised into the thread cancels it; see `wake`.
        """
        aio = self._aio
        task = aio.create_task(_awaited(value))
        try:
            return aio.run_until_complete(task)
        finally:
            if not task.done():
                task.cancel()
                aio.run_until_complete(wait((task,), timeout=_FAREWELL_S))

    def wake(self) -> None:
        """Let the thread that waits in `run` notice what was raised into it; any thread."""
        with suppress(RuntimeError):  # it is closed
            self._aio.call_soon_threadsafe(int)

    def close(self) -> None:
        """Give its descriptors back; nothing runs."""
        self._aio.close()


async def _awaited(value: Any) -> Any:
    return await value
