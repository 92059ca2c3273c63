"""`run --watch`: which functions have changed on disk, looked at twice a second and only when asked for."""

from __future__ import annotations

import os
import sys

from nuclio_edge.functions.running import space_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from nuclio_edge.functions.function import Function
    from nuclio_edge.processor import Processor

    Stamps = dict[str, tuple[int, int]]

LOOK_MS = 500
MOST_FILES = 2000  # of one folder: who puts a function into / watches no more than this
_SKIPPED = ("__pycache__", "node_modules", "site-packages")


class Watch:
    """Calls `reload(changed)` with the names of the functions whose files are not as they were.

    A file belongs to a function when the function has imported it; of a function that has imported nothing here (its
    first event is still to come, or its workers are processes) every file in its folder does. A change counts when it
    is over: an editor that writes in two steps makes one reload.
    """

    def __init__(self, processor: Processor, manifest: str, reload: Callable[[Iterable[str]], Any]) -> None:
        self._processor = processor
        self._manifest = os.path.abspath(manifest)
        self._reload = reload
        self._owners: dict[str, set[str]] = {}
        self._known: Stamps = {}
        self._before: Stamps = {}
        self._timer: Any = None
        self.look()
        self._arm()

    def look(self) -> None:
        """Take what is on disk now as known: what runs has just been read from there."""
        self._owners = {}
        for function in self._processor.functions.values():
            for path in _files(function):
                self._owners.setdefault(path, set()).add(function.name)
        self._known = self._before = self._stamps()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = self._processor.loop.call_later(LOOK_MS, self._compare)

    def _compare(self) -> None:
        now = self._stamps()
        if now != self._known and now == self._before:
            changed = [path for path in {**now, **self._known} if now.get(path) != self._known.get(path)]
            self._known = now
            self._reload({name for path in changed for name in self._owners.get(path, ())})
        self._before = now
        self._arm()

    def _stamps(self) -> Stamps:
        stamps = {}
        for path in (self._manifest, *self._owners):
            try:
                status = os.stat(path)
                stamps[path] = (status.st_mtime_ns, status.st_size)
            except OSError:  # gone for a moment: many editors replace a file
                pass
        return stamps


def _files(function: Function) -> Iterator[str]:
    if function.spec.file:
        yield function.spec.file
    space = space_of(getattr(function.handler, "__module__", ""))
    if space:
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None) if space_of(name) == space else None
            if path and os.path.isabs(path):
                yield path
    elif function.spec.code is None:
        count = 0
        for folder, folders, names in os.walk(function.spec.path):
            folders[:] = [name for name in folders if _may_hold_code(folder, name)]
            for name in names:
                if name.endswith(".py"):
                    yield os.path.join(folder, name)
            count += len(names)
            if count > MOST_FILES:
                return


def _may_hold_code(folder: str, name: str) -> bool:
    if name[0] == "." or name in _SKIPPED:
        return False
    return not os.path.exists(os.path.join(folder, name, "pyvenv.cfg"))  # a virtual environment
