"""aiocoap's client on a thread of its own, started when somebody first needs it: requests of handlers.

Everything asyncio stays on that thread; what comes back goes to whoever waits: a blocked worker thread, an awaiting
coroutine of another asyncio loop, or the processor's loop.
"""

from __future__ import annotations

import asyncio
import threading
from _thread import get_ident

from nuclio_edge.core import port
from nuclio_edge.sources import coap_formats as formats
from nuclio_edge.sources.coap_params import parse_uri

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future
    from typing import Any

    from nuclio_edge.sources.coap import CoapSource

END_S = 2.0
_starting = threading.Lock()


class Reply:
    """What a device answered: `code` ("2.05"), `status_code` (as with HTTP: 200), payload, type, and its options."""

    __slots__ = ("code", "content_format", "content_type", "etag", "max_age", "payload", "status_code")

    def __init__(self, message: Any) -> None:
        number = int(message.code)
        self.code = formats.dotted(number)
        self.status_code = formats.status_of(number)
        self.payload: bytes = bytes(message.payload)
        said = message.opt.content_format
        self.content_format: int | None = None if said is None else int(said)
        self.content_type = "" if said is None else formats.type_of(int(said))
        self.etag: bytes | None = message.opt.etag
        self.max_age: int | None = message.opt.max_age

    @property
    def ok(self) -> bool:
        """Whether it is a 2.xx."""
        return self.code[0] == "2"

    @property
    def text(self) -> str:
        """The payload as text."""
        return self.payload.decode()

    def json(self) -> Any:
        """The payload as the JSON that it is; ValueError when it is none."""
        return port.json_loads(self.payload)

    def __repr__(self) -> str:
        return f"Reply({self.code}, {self.content_type!r}, {self.payload!r})"


class Client:
    """The thread, its asyncio loop, and aiocoap's context on it. Any thread may call what is not a coroutine."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._context: Any = None
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"coap-{name}", daemon=True)
        self._thread.start()

    def ask(
        self,
        method: str,
        uri: str,
        payload: bytes,
        content_format: int | None,
        accept: int | None,
        timeout: float,
        confirmable: bool,
    ) -> Any:
        """Send a request; the Reply, or something to await where an asyncio loop runs."""
        parse_uri(uri)
        code = _METHODS.get(method.upper())
        if code is None:
            raise ValueError(f"{method!r} is none of {', '.join(formats.METHODS.values())}")
        future = self.submit(self._ask(code, uri, payload, content_format, accept, timeout, confirmable))
        if asyncio._get_running_loop() is not None:
            return asyncio.wrap_future(future)
        return future.result()

    def submit(self, work: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run a coroutine on the thread."""
        if self._ending:
            work.close()
            raise OSError("the source is closed")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def context(self) -> Any:
        """The context of aiocoap, made at the first call; on the thread."""
        if self._context is None:
            import aiocoap  # type: ignore[import-untyped]

            self._context = asyncio.ensure_future(aiocoap.Context.create_client_context())
        return await self._context

    def close(self) -> None:
        """End it; requests under way fail."""
        if not self._ending:
            self._ending = True
            self._loop.call_soon_threadsafe(self._loop.stop)
            if get_ident() != self._thread.ident:
                self._thread.join(END_S)

    async def _ask(
        self,
        code: int,
        uri: str,
        payload: bytes,
        content_format: int | None,
        accept: int | None,
        timeout: float,
        confirmable: bool,
    ) -> Reply:
        import aiocoap

        message = request_message(code, uri, payload, content_format, accept, confirmable=confirmable)
        try:
            context = await self.context()
            request = context.request(message)
            return Reply(await asyncio.wait_for(request.response, timeout))
        except (asyncio.TimeoutError, TimeoutError) as error:
            raise TimeoutError(f"no answer from {uri} within {timeout:g} s") from error
        except aiocoap.error.Error as error:
            kind = TimeoutError if isinstance(error, aiocoap.error.TimeoutError) else OSError
            raise kind(f"{uri}: {error or type(error).__name__}") from error

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._end())
        finally:
            asyncio.set_event_loop(None)
            self._loop.close()

    async def _end(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._context is not None and self._context.done() and not self._context.cancelled():
            await self._context.result().shutdown()


def request_message(
    code: int, uri: str, payload: bytes, content_format: int | None, accept: int | None, *, confirmable: bool
) -> Any:
    """A request as aiocoap wants it."""
    import aiocoap

    message = aiocoap.Message(code=aiocoap.Code(code), payload=payload, uri=uri)
    if content_format is not None:
        message.opt.content_format = content_format
    if accept is not None:
        message.opt.accept = accept
    if not confirmable:
        try:
            message.transport_tuning = aiocoap.Unreliable
        except AttributeError:  # before 0.4.8
            message.mtype = aiocoap.NON
    return message


def start(source: CoapSource) -> None:
    """Start a source's client, unless another thread just has."""
    with _starting:
        if source.client is None:
            if source.state == "closed":
                raise OSError("the source is closed")
            source.client = Client(source.name)


_METHODS = {name.upper(): number for number, name in formats.METHODS.items()}
