"""The bindings that one context offers, by name."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from nuclio_edge.core.context import Context


# Event id -> who wants to hear what its handler asks of bindings (an event by hand): called with a binding's name, the
# binding and the context, it returns what the handler gets in the binding's place.
HEARERS: dict[str | None, Callable[[str, Any, Context], Any]] = {}


class Bindings:
    """The bindings of one context by name, each made at its first use (a mapping: [], in, get, iteration)."""

    __slots__ = ("_context", "_made", "_makers")

    def __init__(self, context: Context, makers: dict[str, Callable[[Context], Any]]) -> None:
        self._context = context
        self._makers = makers
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        self._context.check()
        made = self._made
        if name not in made:
            if name not in self._makers:
                raise KeyError(f"no binding is named {name!r}; there are: {', '.join(sorted(self._makers))}")
            made[name] = self._makers[name](self._context)
        return self._heard(name) if HEARERS else made[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The binding of that name, or `default`."""
        return self[name] if name in self._makers else default

    def _heard(self, name: str) -> Any:
        event = self._context._event
        hear = HEARERS.get(event.id) if event is not None else None
        return self._made[name] if hear is None else hear(name, self._made[name], self._context)

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
