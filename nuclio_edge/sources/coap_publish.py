"""What handlers do with a CoAP source: publish a resource, tell of a change, ask other devices."""

from __future__ import annotations

from _thread import get_ident

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_compose import uint
from nuclio_edge.core.encode import to_response
from nuclio_edge.sources import coap_formats as formats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.sources.coap import CoapSource


class Resource:
    """A value that is served as it is: `options` hold its Content-Format, which `format` is as a number or None."""

    __slots__ = ("body", "format", "options")

    def __init__(self, options: list[tuple[int, bytes]], body: bytes) -> None:
        self.options = options
        self.body = body
        self.format = next((coap.number(value) for number, value in options if number == coap.CONTENT_FORMAT), None)


class CoapBinding:
    """A CoAP source as one worker's handlers see it; callable from any thread but where it says otherwise."""

    __slots__ = ("_context", "_source")

    def __init__(self, source: CoapSource, context: Context) -> None:
        self._source = source
        self._context = context

    def publish(self, path: str, value: Any, content_type: str | None = None) -> None:
        """Make `value` what GET finds at a path, and tell its observers; what is no bytes or text goes as JSON."""
        self._context.check()
        if not path.startswith("/"):
            raise ValueError(f"{path!r} is not a path: it begins with /")
        response = to_response(value)
        number = formats.format_of(content_type or response.content_type)
        options = [] if number is None else [(coap.CONTENT_FORMAT, uint(number))]
        body = response.body
        if response.status_code >= 400 or type(body) is not bytes:
            raise ValueError(f"the value cannot be published: {body!r}")
        source = self._source
        source.loop.post(lambda: source.publish(path, Resource(options, body)))

    def notify(self, path: str) -> None:
        """Say that the resource of a function has changed: its GET is run for those who observe it."""
        self._context.check()
        source = self._source
        source.loop.post(lambda: source.observers.changed(path))

    def request(
        self,
        method: str,
        uri: str,
        payload: Any = b"",
        *,
        content_format: int | str | None = None,
        accept: int | str | None = None,
        timeout: float = 30.0,
        confirmable: bool = True,
    ) -> Any:
        """Ask another device, e.g. for "GET", "coap://10.0.0.7/temperature": the Reply, whatever its code.

        Blocks in a thread's handler; in an async handler it is to be awaited. `timeout` is in seconds. TimeoutError:
        no answer came; OSError: none could come (the name, the network). Bodies of any length go in blocks.
        """
        self._context.check()
        source = self._source
        client = _client(source)
        if get_ident() == source.loop.thread:  # a worker's handler that is led has the seat lent: `thread` is 0
            raise RuntimeError(
                "an inline function runs on the loop, where nothing may wait: "
                'give the function isolation = "thread" to make requests'
            )
        body, number = _payload(payload, content_format)
        return client.ask(method, uri, body, number, _number(accept), timeout, confirmable)


def _client(source: CoapSource) -> Any:
    if source.client is None:
        from nuclio_edge.sources.coap_client import start

        start(source)
    return source.client


def _payload(payload: Any, content_format: int | str | None) -> tuple[bytes, int | None]:
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload), _number(content_format)
    if payload is None:
        return b"", _number(content_format)
    response = to_response(payload)
    if response.status_code >= 400:
        raise ValueError(response.body.decode())
    said = _number(content_format)
    return response.body, formats.format_of(response.content_type) if said is None else said


def _number(wanted: int | str | None) -> int | None:
    if isinstance(wanted, str):
        number = formats.format_of(wanted)
        if number is None:
            raise ValueError(f"{wanted!r} has no Content-Format; give its number")
        return number
    return wanted
