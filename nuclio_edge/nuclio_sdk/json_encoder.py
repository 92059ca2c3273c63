"""The SDK's JSON encoder."""

from __future__ import annotations

import json

from nuclio_edge.core.plain import plain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


class Encoder(json.JSONEncoder):
    """NaN and the infinities become strings, what JSON does not know its `__log__()`, else its repr or str."""

    def encode(self, o: Any) -> str:
        """The JSON text of a value."""
        return super().encode(plain(o))

    def iterencode(self, o: Any, _one_shot: bool = False) -> Iterator[str]:
        """The JSON text of a value in pieces."""
        return super().iterencode(plain(o), _one_shot)
