"""One output: what a function returned, as a PUBLISH to the output's topic. A short way for small bodies at QoS 0.

What goes before the body depends on the connection, the content type and the body's length alone. It is made once: an
event costs a look-up, one concatenation and its place in the turn's write. Everything else is the publisher's.
"""

from __future__ import annotations

from nuclio_edge.core.mqtt_compose import variable
from nuclio_edge.core.response import JSON, TEXT
from nuclio_edge.sources.mqtt_publish import JSON_SAID
from nuclio_edge.sources.mqtt_room import LIMIT_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.sources.mqtt_link import Link
    from nuclio_edge.sources.mqtt_publish import Publisher

SHORT = 512  # bytes: a longer body goes the publisher's way, so that no more starts are kept for each content type


class Output:
    """An output's way out; loop thread only."""

    __slots__ = ("_link", "_params", "_publisher", "_retain", "_starts")

    def __init__(self, publisher: Publisher, params: Values) -> None:
        self._publisher = publisher
        self._params = params
        self._link: Link | None = None  # for which the starts were made: its version and its broker's limits
        self._retain = False
        self._starts: dict[str, dict[int, bytes]] = {}  # content type -> length of the body -> what goes before it

    def send(self, response: Response, event: Event) -> None:
        """Send a response's body, after all that was published before."""
        publisher = self._publisher
        link = publisher.link
        if link is not None and not publisher._given:
            if link is not self._link:
                self._meet(link)
            starts = self._starts.get(response.content_type)
            body = response.body
            if starts is not None and type(body) is bytes and link.queued <= LIMIT_BYTES:
                start = starts.get(len(body)) or self._start(starts, response.content_type, len(body))
                if start:
                    publisher.sent += 1
                    link.write(start + body)
                    return
        publisher.output(self._params, response, event)

    def send_json_bodies(self, bodies: list[bytes]) -> bool:
        """Send bodies that are JSON, as `send` would; False, with none sent, where one has to go another way."""
        publisher = self._publisher
        link = publisher.link
        if link is None or publisher._given:
            return False
        if link is not self._link:
            self._meet(link)
        starts = self._starts.get(JSON)
        if starts is None:
            return False
        parts: list[bytes] = []
        for body in bodies:
            start = starts.get(len(body)) or self._start(starts, JSON, len(body))
            if not start:
                return False
            parts += start, body
        data = b"".join(parts)
        if link.queued + len(data) > LIMIT_BYTES:
            return False
        publisher.sent += len(bodies)
        link.write(data)
        return True

    def _meet(self, link: Link) -> None:
        """Forget the starts of the last connection."""
        self._link = link
        params = self._params
        qos, self._retain = self._publisher.allowed(params.topic, params.qos, params.retain)
        self._starts = {} if qos else {JSON: {}, TEXT: {}}

    def _start(self, starts: dict[int, bytes], content_type: str, size: int) -> bytes:
        """What goes before a body of that size; nothing when it has to go the publisher's way."""
        if size >= SHORT:
            return b""
        publisher = self._publisher
        params = self._params
        head = publisher.head(params.topic, JSON_SAID if content_type == JSON else ())
        first = b"\x31" if self._retain else b"\x30"
        start = first + variable(len(head) + size) + head
        if publisher.max_packet and len(start) + size > publisher.max_packet:
            return b""
        starts[size] = start
        return start
