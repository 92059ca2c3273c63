"""A processor of a manifest that may run beside the real one: what `invoke` and `events` are built on.

It has a state directory of its own, and its clients have names and sessions of their own, say nothing when they come
and go, and leave nothing at the broker: the real processor loses no message to it.
"""

from __future__ import annotations

import os
import shutil
import tempfile

from nuclio_edge.cli.run import hide_secrets
from nuclio_edge.manifest.model import changed
from nuclio_edge.manifest.schema import values
from nuclio_edge.processor import Processor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nuclio_edge.logs import Log
    from nuclio_edge.manifest.model import FunctionSpec, Manifest, SourceSpec

# What a client that only looks, or sends once, has in the place of the manifest's.
_GUEST = {"clean_start": True, "session_expiry": 0, "will": None, "birth": None}


class Beside(Processor):
    """A processor with these functions, and with sources that are guests where the manifest's are residents."""

    keeps = False

    def __init__(self, manifest: Manifest, log: Log, purpose: str, functions: Mapping[str, FunctionSpec]) -> None:
        self._folder = tempfile.mkdtemp(prefix=f"nuclio-edge-{purpose}-")
        changes = {
            "device": changed(manifest.device, state_dir=self._folder),
            "functions": functions,
            "record": values(("triggers", "max_size"), {"triggers": (), "max_size": manifest.record.max_size}),
            "sources": {name: _guest(spec, f"{purpose}-{os.getpid()}") for name, spec in manifest.sources.items()},
        }
        hide_secrets(log, manifest)
        super().__init__(changed(manifest, **changes), log)
        self._over = False

    def close(self) -> None:
        """Close everything; also at the end of a `stop`, inside the loop."""
        if not self._over:
            self._over = True
            super().close()

    def dismiss(self) -> None:
        """Close what is still open, the loop too, and remove the state directory; when the loop does not run."""
        self.close()
        self.loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _guest(spec: SourceSpec, suffix: str) -> SourceSpec:
    own = {key: getattr(spec.params, key) for key in spec.params.__slots__}
    wanted: dict[str, Any] = {key: value for key, value in _GUEST.items() if key in own}
    if "client_id" in own:
        wanted["client_id"] = f"{own['client_id']}-{suffix}"
    return changed(spec, params=values(tuple(own), {**own, **wanted})) if wanted else spec
