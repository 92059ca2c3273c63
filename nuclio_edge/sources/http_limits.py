"""How long a connection may be in which state: an HTTP server is not held up by clients that are slow on purpose."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.sources.http_server import Server

IDLE, HEAD, BODY, LINGER = range(4)  # between requests, within a head or before the first, within a body, at the end

LINGER_MS = 2000
LEAST_RATE = 500  # bytes a second that a body has to make on the average
FOREVER = 1 << 62


def due(server: Server, state: int, since: int, moved: int, *, reads: bool, answering: bool) -> int:
    """When a connection has to have got on, by `ticks_ms`: in this state since then, with so many bytes of a body.

    `reads`: whether we listen to it; `answering`: whether a request of it waits for a function, which has a timeout.
    """
    if state == LINGER:
        return since + LINGER_MS
    if answering and not reads:
        return FOREVER
    if state == BODY:
        return since + server.body_timeout + moved * 1000 // LEAST_RATE
    if state == HEAD:
        return since + server.header_timeout
    return FOREVER if answering else since + server.idle_timeout
