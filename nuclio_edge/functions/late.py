"""Functions whose import takes longer than the start waits for it: each begins when its own has ended.

Laws: their events wait in their inboxes (an inline function has none: they are turned away). An import that takes long
goes on by itself, and what waits behind it is imported beside it. One that takes longer than `limit_ms` has failed like
one that raises; the function is tried again as ever, and waits then for the import as it would for an init_context.
"""

from __future__ import annotations

from nuclio_edge.core import port
from nuclio_edge.errors import LoadError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque

    from nuclio_edge.assembly import Assembly

    from .function import Function

LOOK_MS = 50
BESIDE_MS = 2_000  # an import that takes longer has the others go on beside it


class Late:
    """Sees to what a start that goes on has left `todo`; loop thread only. `begun` comes from `import_on_thread`."""

    def __init__(
        self, assembly: Assembly, functions: list[Function], todo: deque[Function], begun: list[int], limit_ms: int
    ) -> None:
        self._assembly = assembly
        self._todo = todo
        self._begun = begun
        self._limit_ms = limit_ms
        self._since = {function: 0 for function in functions if not _over(function)}  # when its import began
        for function in self._since:
            function.loading = True
        assembly.loop.call_soon(self._look)

    def _look(self) -> None:
        now = port.ticks_ms()
        if self._assembly.processor.stopping:
            self._begun.clear()  # no further import begins; the one that goes on may still end in time
        elif self._todo and now - self._begun[0] >= BESIDE_MS:
            self._begun.clear()
            self._begun = self._assembly.import_on_thread(self._todo, _nothing)
        waiting = self._todo.copy()
        for function, since in list(self._since.items()):
            if not function.loading:  # it was replaced, and had nothing to wait for
                del self._since[function]
            elif _over(function):
                del self._since[function]
                function.release()
            elif since and now - since > self._limit_ms:
                del self._since[function]
                function.load_error = LoadError(f"its import has not ended after {self._limit_ms / 1000:g} s")
                function.release()
            elif not since and function not in waiting:
                self._since[function] = now
        if self._since:
            self._assembly.loop.call_later(LOOK_MS, self._look)


def _over(function: Function) -> bool:
    return function.handler is not None or function.load_error is not None


def _nothing() -> None:
    pass
