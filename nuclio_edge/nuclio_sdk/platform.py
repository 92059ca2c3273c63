"""What a function may ask of the platform it runs on."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.response import Response
    from nuclio_edge.nuclio_sdk.qualified_offset import QualifiedOffset

    Invoke = Callable[[str, Event, "float | None"], Response | None]


class Platform:
    """The SDK's Platform; on a device its kind is "edge", and a function of the same processor is called in it.

    `invoke(function_name, event, timeout)` runs another function of this processor and gives its Response with a body
    of bytes, or None when there is none of that name: then it is called over HTTP, as in the SDK.
    `connection_provider` makes the HTTP connection (a unit test of a function).
    """

    def __init__(
        self,
        kind: str = "edge",
        namespace: str = "default",
        connection_provider: Callable[..., Any] | None = None,
        on_control_callback: Callable[[dict[str, Any]], Awaitable[Any]] | None = None,
        invoke: Invoke | None = None,
    ) -> None:
        self.kind = kind
        self.namespace = namespace
        self._connection_provider = connection_provider
        self._control_callback = on_control_callback
        self._invoke = invoke
        self._termination_callback: Callable[[], Any] | None = None
        self._drain_callback: Callable[[], Any] | None = None

    async def explicit_ack(self, qualified_offset: QualifiedOffset) -> None:
        """Acknowledge a stream's event; RuntimeError where no source takes it."""
        if self._control_callback is None:
            raise RuntimeError("no source of this function takes an explicit acknowledgement")
        await self._control_callback(qualified_offset.compile_explicit_ack_message())

    def set_drain_callback(self, callback: Callable[[], Any]) -> None:
        """Call this, without arguments, when the function is about to be drained; the newest counts."""
        self._drain_callback = callback

    def set_termination_callback(self, callback: Callable[[], Any]) -> None:
        """Call this, without arguments, when the worker is about to end; the newest counts."""
        self._termination_callback = callback

    def call_function(
        self,
        function_name: str,
        event: Event,
        node: Any = None,
        timeout: float | None = None,
        service_name_override: str | None = None,
    ) -> Response:
        """Call another function and wait for its Response, whose body is parsed when its type is application/json.

        One of this processor is called in it, unless `service_name_override` names a service.
        """
        from nuclio_edge.core import port
        from nuclio_edge.core.response import Response

        answer = None
        if self._invoke is not None and self._connection_provider is None and service_name_override is None:
            answer = self._invoke(function_name, event, timeout)
        if answer is None:
            return self._call_over_http(function_name, event, timeout, service_name_override)
        body = answer.body
        if answer.content_type == "application/json" and isinstance(body, bytes):
            body = port.json_loads(body)
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Response(headers, body, answer.content_type, answer.status_code)

    def _call_over_http(
        self, function_name: str, event: Event, timeout: float | None, service_name_override: str | None
    ) -> Response:
        import json
        from http.client import HTTPConnection

        from nuclio_edge.core.response import Response

        local = f"{self.namespace}-" if self.kind == "local" else ""
        host = service_name_override or f"nuclio-{local}{function_name}"
        connect: Any = self._connection_provider or HTTPConnection
        connection = connect(f"{host}:8080", timeout=timeout)
        body, content_type = event.body, event.content_type or "text/plain"
        if isinstance(body, dict):
            body, content_type = json.dumps(body), "application/json"
        headers = dict(event.headers or {})  # the SDK writes into the caller's own
        headers.pop("Content-Length", None)
        headers["Content-Type"] = content_type
        headers.setdefault("X-Nuclio-Target", function_name)
        try:
            connection.request(event.method, event.path, body=body, headers=headers)
            answer = connection.getresponse()
            answered: Any = answer.read()
        finally:
            connection.close()
        got = {name.lower(): value for name, value in answer.getheaders()}
        content_type = got.get("content-type", "text/plain")
        if content_type == "application/json":
            answered = json.loads(answered)
        return Response(got, answered, content_type, answer.status)

    def _on_signal(self, callback_type: str = "termination") -> Any:
        """Call the callback of this kind, "termination" or "drain", if there is one, and return what it does."""
        callback = {"termination": self._termination_callback, "drain": self._drain_callback}.get(callback_type)
        return None if callback is None else callback()
