"""A URL as text that also has its parts: what `event.url` is where the source has one."""

from __future__ import annotations

_PORTS = {"http": 80, "https": 443, "coap": 5683, "coaps": 5684, "mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}


class Url(str):
    """`str(url)` is the whole; scheme, host, port (int or None), path, query and fragment are taken from it."""

    __slots__ = ()

    @property
    def scheme(self) -> str:
        """Before `://`, empty without one."""
        scheme, separator, _ = self.partition("://")
        return scheme if separator else ""

    @property
    def netloc(self) -> str:
        """Host and port as they were written."""
        _, separator, rest = self.partition("://")
        if not separator:
            return ""
        end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
        return rest[:end]

    @property
    def host(self) -> str:
        """Without brackets and port."""
        place = self.netloc.rpartition("@")[2]
        if place.startswith("["):
            return place[1:].partition("]")[0]
        return place.partition(":")[0]

    @property
    def port(self) -> int | None:
        """The port if one is written, else the scheme's, else None."""
        place = self.netloc.rpartition("@")[2].rpartition("]")[2]
        port = place.rpartition(":")[2] if ":" in place else ""
        if port.isascii() and port.isdigit():
            return int(port)
        return _PORTS.get(self.scheme)

    @property
    def path(self) -> str:
        """As it came, percent signs and all; `/` when it is empty."""
        _, separator, rest = self.partition("://")
        rest = rest[len(self.netloc) :] if separator else str(self)
        return rest.partition("#")[0].partition("?")[0] or "/"

    @property
    def query(self) -> str:
        """After the question mark, empty without one."""
        return self.partition("#")[0].partition("?")[2]

    @property
    def fragment(self) -> str:
        """After the hash sign, empty without one."""
        return self.partition("#")[2]
