"""Which trigger a request goes to: the path decides first, the most specific one; then the method.

"/a" is that path alone. "/a/*" is everything below it, and "/a" itself where no trigger names that; "/*" is everything.
A trigger without methods takes all; at the same path one that names the method is preferred.
"""

from __future__ import annotations

from nuclio_edge.sources.http_head import METHODS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from nuclio_edge.core.inbox import Trigger

    ByMethod = dict[str | None, Trigger]


class Routes:
    """The triggers of one source by path and method."""

    def __init__(self, triggers: Iterable[Trigger] = ()) -> None:
        self._exact: dict[str, ByMethod] = {}
        self._below: dict[str, ByMethod] = {}  # by what comes before the /*
        for trigger in triggers:
            path = trigger.address.path  # type: ignore[union-attr]  # the manifest gave it one
            below = path.endswith("/*")
            at = (self._below if below else self._exact).setdefault(path[:-2] if below else path, {})
            for method in trigger.address.method or (None,):  # type: ignore[union-attr]  # as above
                at.setdefault(method, trigger)

    def at(self, path: str) -> ByMethod | None:
        """The triggers of the most specific path that fits, by method (None: all others), or None."""
        found = self._exact.get(path)
        if found is not None or not self._below:
            return found
        while True:
            found = self._below.get(path)
            if found is not None:
                return found
            if not path:
                return None
            path = path[: path.rfind("/")] if "/" in path else ""


def choose(at: ByMethod, method: str) -> Trigger | None:
    """The trigger for a method; HEAD is served by who serves GET."""
    found = at.get(method)
    if found is None and method == "HEAD":
        found = at.get("GET")
    return found or at.get(None)


def allowed(at: ByMethod | None) -> str:
    """The methods that are served, as Allow tells them; all of them where no path is meant (`*`)."""
    if at is None or None in at:
        return ", ".join(METHODS)
    return ", ".join(name for name in METHODS if name in at or name == "OPTIONS" or (name == "HEAD" and "GET" in at))
