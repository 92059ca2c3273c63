"""Resources of other devices, observed (RFC 7641): each new value is an event.

aiocoap registers and listens on the client's thread; what comes is posted to the loop. A registration that is lost, or
that nothing was heard of for longer than the value's Max-Age, is made anew: at once when it is merely stale, with a
pause that doubles up to a minute, a random part of which is waited, when the device does not answer. A value that only
the new registration told, and that is the one known already, is no event.
"""

from __future__ import annotations

import asyncio
from urllib.parse import unquote, urlsplit

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_compose import pack_options, uint
from nuclio_edge.sources import coap_formats as formats
from nuclio_edge.sources.coap_event import CoapEvent
from nuclio_edge.sources.coap_send import chance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.sources.coap import CoapSource
    from nuclio_edge.sources.coap_client import Client

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
DEFAULT_MAX_AGE_S = 60
SPREAD = 0.1  # of Max-Age is waited beyond it, so that not all come back at once


class Watcher:
    """All that one source observes; everything but what `Watch.listen` does belongs to the loop's thread."""

    def __init__(self, source: CoapSource) -> None:
        self._source = source
        self._watches: dict[str, Watch] = {}  # by ledger id
        self._running = False

    def follow(self, triggers: list[Trigger]) -> None:
        """Observe for these triggers; one whose address stays goes on undisturbed, whoever handles it now."""
        before, self._watches = self._watches, {}
        for trigger in triggers:
            old = before.get(trigger.ledger_id)
            if old is not None and old.trigger.address == trigger.address:
                del before[trigger.ledger_id]
                self._watches[trigger.ledger_id] = old
                if old.trigger is not trigger:
                    old.hand_over(trigger)
            else:
                self._watches[trigger.ledger_id] = watch = Watch(self._source, trigger)
                if self._running:
                    watch.start()
        for gone in before.values():
            gone.stop()

    def open(self) -> None:
        """Begin."""
        self._running = True
        for watch in self._watches.values():
            watch.start()

    def stop(self) -> None:
        """Observe no more; a value that waits for room is counted."""
        self._running = False
        for watch in self._watches.values():
            watch.stop()


class Watch:
    """One resource for one trigger. Bounded: of values that find no room the newest is kept, the others are counted."""

    def __init__(self, source: CoapSource, trigger: Trigger) -> None:
        self.trigger = trigger
        self._source = source
        address: Any = trigger.address
        self._uri: str = address.observe
        self._task: Future[Any] | None = None
        self._kept: CoapEvent | None = None
        self._away = ""  # what the log has said of the present outage
        self._stopped = False

    # -- on the loop --------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register, for ever."""
        from nuclio_edge.sources import coap_client

        self._stopped = False
        if self._source.client is None:
            coap_client.start(self._source)
        client = self._source.client
        self._task = client.submit(self.listen(client))

    def stop(self) -> None:
        """End the registration."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._kept is not None:
            self._kept = None
            self._source.intake.reject("closed")

    def hand_over(self, trigger: Trigger) -> None:
        """The function was replaced: the new one may have room."""
        self.trigger = trigger
        if self._kept is not None:
            self._kept._trigger = trigger
            self._again()

    def arrived(self, options: bytes, body: bytes, sender: tuple[str, int]) -> None:
        """A new value."""
        if self._stopped:
            return
        if self._away:
            self._away = ""
            self._source.log.info_with("observing again", "uri", self._uri)
        event = CoapEvent(self.trigger, None, formats.GET, options, body, sender, self._source.loop.wall)
        if self._kept is not None:
            self._kept = event
            self._source.intake.reject("collapsed")  # the one that it takes the place of
        else:
            self._submit(event)

    def failed(self, why: str) -> None:
        """There is no registration; said once an outage."""
        if not self._stopped and not self._away:
            self._away = why
            self._source.log.warn_with("cannot observe, trying again", "uri", self._uri, "error", why)

    def _submit(self, event: CoapEvent) -> None:
        self._kept = event
        if self.trigger.submit(event):
            self._kept = None
            self._source.intake.routed += 1
        else:
            self.trigger.on_room(self._again)

    def _again(self) -> None:
        if self._kept is not None:
            self._submit(self._kept)

    # -- on the client's thread ---------------------------------------------------------------------------------------

    async def listen(self, client: Client) -> None:
        """Register and tell, again and again."""
        post = self._source.loop.post
        parts = urlsplit(self._uri)
        sender = (parts.hostname or "", parts.port or 5683)
        pause = FIRST_PAUSE_S
        known: Any = None
        while True:
            stale = False
            try:
                async for message, notified in self._values(client):
                    options = _options(parts, message)
                    value = (message.opt.content_format, bytes(message.payload))
                    if notified or value != known:
                        post(lambda o=options, b=value[1]: self.arrived(o, b, sender))
                    known = value
                    pause = FIRST_PAUSE_S
                stale = True
            except asyncio.CancelledError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever aiocoap or the network raises: it is tried again
                why = str(error) or type(error).__name__
                post(lambda why=why: self.failed(why))
            if not stale:
                await asyncio.sleep(pause * (0.5 + chance() / 2))
                pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _values(self, client: Client) -> Any:
        """The values of one registration, each with whether the device sent it by itself; ends when it is stale."""
        from nuclio_edge.sources.coap_client import request_message

        message = request_message(formats.GET, self._uri, b"", None, None, confirmable=True)
        message.opt.observe = 0
        request = (await client.context()).request(message)
        news = request.observation.__aiter__()  # before the first answer: nothing in between is missed
        try:
            answer = await request.response
            notified = False
            while True:
                if int(answer.code) >> 5 != 2:
                    raise OSError(f"the device answers {formats.dotted(int(answer.code))}")
                yield answer, notified
                age = answer.opt.max_age
                patience = (DEFAULT_MAX_AGE_S if age is None else max(age, 1)) * (1 + SPREAD * chance())
                if answer.opt.observe is None and not notified:  # not observable: asked again when it is stale
                    await asyncio.sleep(patience)
                    return
                try:
                    answer = await asyncio.wait_for(news.__anext__(), patience)
                except (asyncio.TimeoutError, TimeoutError, StopAsyncIteration):
                    return
                notified = True
        finally:
            if not request.observation.cancelled:
                request.observation.cancel()


def _options(parts: Any, message: Any) -> bytes:
    """The options of the event: where it is from, and what the notification said."""
    made = [(coap.URI_HOST, (parts.hostname or "").encode())]
    if parts.port is not None:
        made.append((coap.URI_PORT, uint(parts.port)))
    made += [(coap.URI_PATH, unquote(part).encode()) for part in parts.path.split("/")[1:]]
    made += [(coap.URI_QUERY, unquote(part).encode()) for part in parts.query.split("&") if part]
    for number in (coap.OBSERVE, coap.CONTENT_FORMAT, coap.MAX_AGE, coap.ETAG):
        made += [(number, option.encode()) for option in message.opt.get_option(number) or ()]
    return pack_options(made)
