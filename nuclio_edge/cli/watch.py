"""`run --watch`: whether files of functions or the manifest have changed, looked at twice a second, when asked for."""

from __future__ import annotations

import os

from nuclio_edge.functions.files import changed, in_folder, read_by, stamp_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from nuclio_edge.processor import Processor

LOOK_MS = 500


class Watch:
    """Calls `reload()` when the manifest, or a file of a function, is not as it was.

    The files are those that functions have read. Of a function that has read nothing (its first event is still to
    come), or whose new version did not take its place, every file in its folder is one; after a manifest that cannot be
    used, those that this is about, too. A change counts when it is over: an editor that writes in two steps makes one
    reload.
    """

    def __init__(self, processor: Processor, manifest: str, reload: Callable[[], Any]) -> None:
        self._processor = processor
        self._manifest = os.path.abspath(manifest)
        self._reload = reload
        self._files: set[str] = set()
        self._known: dict[str, int | None] = {}
        self._before: dict[str, int | None] = {}
        self._timer: Any = None
        self.look()
        self._arm()

    def look(self) -> None:
        """Take what is on disk now as known: what runs has just been read from there."""
        functions = self._processor.functions.values()
        read = read_by(functions)
        whole = changed(functions)
        self._files = {self._manifest}
        for function in functions:
            self._files.update(path for path, _ in read[function.name])
            if function.spec.file:
                self._files.add(function.spec.file)
            if not read[function.name] or function.name in whole:
                self._files.update(in_folder(function))
        self._known = self._before = self._stamps()

    def look_at(self, files: Iterable[str]) -> None:
        """Watch these, too, until the next `look`."""
        self._files.update(files)
        self._known = self._stamps()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = self._processor.loop.call_later(LOOK_MS, self._compare)

    def _compare(self) -> None:
        now = self._stamps()
        if now != self._known and now == self._before:
            self._known = now
            self._reload()
        self._before = now
        self._arm()

    def _stamps(self) -> dict[str, int | None]:
        return {path: stamp_at(path) for path in self._files}
