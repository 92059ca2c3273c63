"""What the broker's kept session knows of our filters, on disk: so that removed ones are unsubscribed after a restart.

One small file a source, written only when something changed, whole or not at all.
"""

from __future__ import annotations

import os

from nuclio_edge.core.port import json_dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Filters = dict[str, tuple[int, int]]  # filter -> (options, subscription identifier)


class SessionMemory:
    """The filters of one client id at one broker. `trusted`: the broker acknowledged exactly these.

    A file that cannot be read, or is another client's, is no memory; one that cannot be written is reported once.
    """

    def __init__(self, path: str, client: str, report: Callable[[str], Any]) -> None:
        self.filters: Filters = {}
        self.trusted = False
        self._path = path
        self._client = client
        self._report = report
        self._on_disk: Any = None
        self._load()

    def _load(self) -> None:
        try:
            with open(self._path, encoding="utf-8") as file:
                text = file.read()
            import json  # only where there is a memory: 0.2 MiB

            kept = json.loads(text)
            if kept["client"] == self._client:
                self.filters = {str(name): (int(one[0]), int(one[1])) for name, one in kept["filters"].items()}
                self.trusted = kept["trusted"] is True
                self._on_disk = kept
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            self.filters = {}
            self.trusted = False

    def keep(self, filters: Filters, *, trusted: bool) -> None:
        """Remember these from now on."""
        self.filters = dict(filters)
        self.trusted = trusted
        wanted = {
            "client": self._client,
            "filters": {name: list(one) for name, one in filters.items()},
            "trusted": trusted,
        }
        if wanted == self._on_disk:
            return
        beside = self._path + ".new"
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            with open(beside, "w", encoding="utf-8") as file:
                file.write(json_dumps(wanted))  # not synced: after a power cut no memory, at worst, which is harmless
            os.replace(beside, self._path)
        except OSError as error:
            if self._on_disk is not False:
                self._report(f"cannot remember the subscriptions in {self._path}: {error.strerror}")
            self._on_disk = False
            return
        self._on_disk = wanted
