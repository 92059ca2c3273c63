"""Jitter for pauses, so that a fleet does not come back in step; not for secrets."""

from __future__ import annotations

import os


def up_to(limit: int) -> int:
    """Return a whole number of 0 to `limit`, all alike; the module random would be 0.3 MB, with what it imports."""
    return int.from_bytes(os.urandom(4), "little") * (limit + 1) >> 32
