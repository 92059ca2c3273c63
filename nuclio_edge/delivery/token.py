"""The token of an event whose source has been told what came of it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Untold:
    """Of an event whose source has been told, or wants to hear nothing; not None, so that we hear of its end."""

    def __repr__(self) -> str:
        return "UNTOLD"


UNTOLD: Any = _Untold()
