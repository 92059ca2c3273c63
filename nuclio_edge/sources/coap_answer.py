"""What goes back: outcomes as responses, piggybacked on the acknowledgement or separate; copies for who asks again.

A handler that is done within a second answers in the ACK (RFC 7252, 5.2.1). Otherwise an empty ACK goes out, or at the
peer's first repetition if that is sooner, and the response follows as a message of its own, sent until acknowledged
(5.2.2). A multicast request is answered by nothing but content, after a random moment (8.2).
"""

from __future__ import annotations

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_compose import compose, pack_block, pack_options, uint
from nuclio_edge.sources import coap_formats as formats
from nuclio_edge.sources.coap_send import chance

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.response import Response
    from nuclio_edge.sources.coap_blocks import Blocks
    from nuclio_edge.sources.coap_event import CoapEvent
    from nuclio_edge.sources.coap_peer import Peer
    from nuclio_edge.sources.coap_plan import Plan
    from nuclio_edge.sources.coap_send import Sender

    Token = tuple[Peer, bytes, Plan, int]  # the plan; message id and token; the datagram's first byte, or with flags

ACK_DELAY_MS = 1000
LEISURE_MS = 5000  # DEFAULT_LEISURE (8.2)
BUSY_S = 5  # what 5.03 says when to come again
HEADS = 512
NON_FLAG, MULTICAST = 0x10, 0x80  # of the first byte; the second is never set on the wire, where the version is 1
_EMPTY_ACK = b"\x60\x00"
ACKED: Any = "acked"
REFRESH = 0x100  # not a request at all: observers are to be told
_CHANGING = (formats.POST, formats.PUT, formats.DELETE, formats.PATCH, formats.IPATCH)
NON_FLAG_SET = 0x50  # the first byte of a CON is below it


class Answers:
    """The replies of one source."""

    def __init__(self, loop: Any, sender: Sender, blocks: Blocks, block_size: int) -> None:
        self._loop = loop
        self._sender = sender
        self._blocks = blocks
        self.observers: Any = None  # set by the source, as is what they observe
        self.watched: dict[str, Any] = {}
        self._block_size = block_size
        # (status, content type, method) -> for each length of a token first byte and code, and the options with marker
        self._heads: dict[tuple[int, str | None, int], tuple[list[bytes], bytes]] = {}
        self._bare = {
            method: [bytes((0x60 | length, formats.code_of(200, method))) for length in range(9)]
            for method in formats.METHODS
        }
        self._waiting: dict[CoapEvent, int] = {}  # not acknowledged yet -> when they are, in order
        self._timer: Any = None
        self._later: set[Any] = set()  # timers of multicast replies
        self.duplicates = 0

    # -- outcomes -----------------------------------------------------------------------------------------------------

    def settle(self, event: CoapEvent, response: Response | None, _error: BaseException | None = None) -> None:
        """Answer with what a handler returned."""
        peer, key, plan, first = event._token
        if plan.simple and event._reply is None and first < NON_FLAG_SET:
            if response is None:
                reply = self._bare[plan.code][first & 15] + key
            else:
                body = response.body
                if not body or type(body) is not bytes or len(body) > self._block_size or response.headers:
                    self._settle(event, response)
                    return
                head = self._heads.get((response.status_code, response.content_type, plan.code))
                if head is None:
                    head = self._head(response, plan.code)
                reply = head[0][first & 15] + key + head[1] + body
            if self._waiting:
                self._waiting.pop(event, None)
            peer.new[key] = reply
            endpoint = peer.endpoint
            if peer.control:
                endpoint.send(reply, peer)
            elif endpoint.gathers:  # `gather` spelled out: a call less
                if not peer.due:
                    endpoint.gather(reply, peer)
                else:
                    peer.due.append(reply)
            else:  # spelled out: a call less
                try:
                    peer.sendto(reply, peer.address)
                except OSError:
                    endpoint.unsent += 1
            if self.watched and plan.code in _CHANGING and (response is None or response.status_code < 300):
                self.observers.changed(plan.path)
            return
        self._settle(event, response)

    def _settle(self, event: CoapEvent, response: Response | None) -> None:
        """The same where there is more to it."""
        self._waiting.pop(event, None)
        _, _, plan, first = event._token
        code, options, body = self.represent(response, plan)
        if first & REFRESH:
            self.observers.refreshed(plan, event.raw_body, code, options, body)
            return
        if plan.observe is not None:
            self.observers.registered(event._token, event.raw_body, code, options)
        self.reply(event._token, code, options, body, acked=event._reply is not None)
        if code >> 5 == 2 and plan.code in _CHANGING:
            self.observers.changed(plan.path)

    def reply(
        self,
        token: Token,
        code: int,
        options: list[tuple[int, bytes]],
        body: bytes = b"",
        *,
        acked: bool = False,
        whole: bool = True,
    ) -> None:
        """Send a response, cut into blocks where it is a `whole` one, and remember it for repetitions."""
        peer, key, plan, first = token
        if first & MULTICAST and (code != formats.CONTENT or not body):
            return
        if plan.quiet & 1 << (code >> 5) - 1:  # RFC 7967
            peer.new[key] = b""
            if not first & NON_FLAG and not acked:
                peer.new[key] = ack = _EMPTY_ACK + key[:2]
                peer.endpoint.send(ack, peer)
            return
        if whole:
            code, options, body = self.cut(peer, plan, code, options, body)
        if first & MULTICAST:
            self._leisurely(peer, compose(coap.NON, code, self._sender.next_id(), key[2:], options, body))
        elif first & NON_FLAG:
            peer.new[key] = b""
            peer.endpoint.send(compose(coap.NON, code, self._sender.next_id(), key[2:], options, body), peer)
        elif acked:
            self._sender.send(peer, compose(coap.CON, code, self._sender.next_id(), key[2:], options, body), _nothing)
        else:
            reply = compose(coap.ACK, code, key[0] << 8 | key[1], key[2:], options, body)
            peer.new[key] = reply
            peer.endpoint.send(reply, peer)

    def go_on(self, token: Token) -> None:
        """Ask for the next block of a request."""
        plan = token[2]
        assert plan.block1 is not None  # noqa: S101 - it came in one
        number, _, size = plan.block1
        self.reply(token, formats.CONTINUE, [(coap.BLOCK1, pack_block(number, True, size))], whole=False)

    def fail(self, token: Token, code: int, text: str) -> None:
        """Refuse a request; the text is for people (5.5.2)."""
        plan = token[2]
        options = []
        if code == formats.UNAVAILABLE:
            options.append((coap.MAX_AGE, uint(BUSY_S)))
        if plan.block1 is not None and code in (formats.TOO_LARGE, formats.INCOMPLETE):
            options.append((coap.BLOCK1, pack_block(plan.block1[0], plan.block1[1], plan.block1[2])))
        self.reply(token, code, options, text.encode())

    def represent(self, response: Response | None, plan: Plan) -> tuple[int, list[tuple[int, bytes]], bytes]:
        """Code, options and whole body of an outcome: the content type's number, what headers say, Accept honoured."""
        if response is None:
            return formats.code_of(200, plan.code), [], b""
        body = response.body
        if type(body) is not bytes:
            body = _whole(response)
        code = formats.code_of(response.status_code, plan.code)
        options = _options(response)
        if body:
            said = formats.format_of(response.content_type)
            if plan.accept is not None and code >> 5 == 2 and said != plan.accept:
                if plan.accept != formats.OCTETS or said != formats.TEXT:  # bytes that a handler gave no type
                    text = f"there is {response.content_type} here"
                    return formats.NOT_ACCEPTABLE, [], text.encode()
                said = formats.OCTETS
            if said is not None and (said != formats.TEXT or code >> 5 == 2):  # else a text for people (5.5.2)
                options.append((coap.CONTENT_FORMAT, uint(said)))
        if code == formats.UNAVAILABLE and all(number != coap.MAX_AGE for number, _ in options):
            options.append((coap.MAX_AGE, uint(BUSY_S)))
        return code, options, body

    def cut(
        self, peer: Peer, plan: Plan, code: int, options: list[tuple[int, bytes]], body: bytes
    ) -> tuple[int, list[tuple[int, bytes]], bytes]:
        """The first, or the wanted, block of a response (RFC 7959); the rest is kept for who asks on."""
        if plan.block1 is not None and all(number != coap.BLOCK1 for number, _ in options):
            options = [*options, (coap.BLOCK1, pack_block(plan.block1[0], False, plan.block1[2]))]
        number, size = 0, self._block_size
        if plan.block2 is not None:
            number, size = plan.block2[0], min(plan.block2[2], size)
            number *= plan.block2[2] // size  # a smaller size than was asked for begins at the same byte
        if plan.etags or (code >> 5 == 2 and len(body) > size):
            if code >> 5 == 2 and all(found != coap.ETAG for found, _ in options):
                options = [*options, (coap.ETAG, etag(body))]
            if code == formats.CONTENT and any(found == coap.ETAG and value in plan.etags for found, value in options):
                kept = (coap.ETAG, coap.MAX_AGE, coap.OBSERVE)
                return formats.VALID, [option for option in options if option[0] in kept], b""
        if len(body) <= size and plan.block2 is None:
            return code, options, body
        if code >> 5 != 2:
            return code, options, body[:size]
        if (number + 1) * size < len(body):
            kept = (coap.CONTENT_FORMAT, coap.ETAG, coap.MAX_AGE)
            self._blocks.keep(peer, plan, code, [option for option in options if option[0] in kept], body)
        return self.block(code, options, body, number, size)

    @staticmethod
    def block(
        code: int, options: list[tuple[int, bytes]], body: bytes, number: int, size: int
    ) -> tuple[int, list[tuple[int, bytes]], bytes]:
        """One block of a body."""
        begin = number * size
        if begin and begin >= len(body):
            return formats.BAD_REQUEST, [], b"there is no such block"
        more = begin + size < len(body)
        options = [*options, (coap.BLOCK2, pack_block(number, more, size))]
        if more and not number:
            options.append((coap.SIZE2, uint(len(body))))
        return code, options, body[begin : begin + size]

    def next_block(self, token: Token) -> bool:
        """Answer a request for a further block from what is kept; whether that was possible."""
        peer, _, plan, _ = token
        kept = self._blocks.find(peer, plan)
        if kept is None or plan.block2 is None:
            return False
        size = min(plan.block2[2], self._block_size)
        number = plan.block2[0] * (plan.block2[2] // size)
        code, options, part = self.block(kept.code, kept.options, kept.body, number, size)
        self.reply(token, code, options, part, whole=False)
        return True

    def _head(self, response: Response, method: int) -> tuple[list[bytes], bytes]:
        status, content_type = response.status_code, response.content_type
        code = formats.code_of(status, method)
        options = []
        said = formats.format_of(content_type)
        if said is not None and (said != formats.TEXT or code >> 5 == 2):
            options.append((coap.CONTENT_FORMAT, uint(said)))
        if code == formats.UNAVAILABLE:
            options.append((coap.MAX_AGE, uint(BUSY_S)))
        made = ([bytes((0x60 | length, code)) for length in range(9)], pack_options(options) + b"\xff")
        if len(self._heads) >= HEADS:
            self._heads.clear()
        self._heads[status, content_type, method] = made
        return made

    # -- acknowledging what takes longer ------------------------------------------------------------------------------

    def wait(self, event: CoapEvent) -> None:
        """Acknowledge this request when it is not answered in time."""
        self._waiting[event] = self._loop.now + ACK_DELAY_MS
        if self._timer is None:
            self._timer = self._loop.call_later(ACK_DELAY_MS, self._look)

    def repeated(self, peer: Peer, key: bytes, known: Any, first: int) -> None:
        """A message has come again: the same answer again, or an acknowledgement that it is being worked on."""
        self.duplicates += 1
        if first & NON_FLAG:
            return
        if type(known) is bytes:
            if known:
                peer.endpoint.send(known, peer)
        else:
            self._acknowledge(known)

    def _acknowledge(self, event: CoapEvent) -> None:
        peer, key, _, _ = event._token
        self._waiting.pop(event, None)
        event._reply = ACKED
        peer.new[key] = ack = _EMPTY_ACK + key[:2]
        peer.endpoint.send(ack, peer)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.now
        for event in [event for event, due in self._waiting.items() if due <= now]:
            self._acknowledge(event)
        if self._waiting:
            left = next(iter(self._waiting.values())) - now
            self._timer = self._loop.call_later(max(left, 1), self._look)

    def _leisurely(self, peer: Peer, datagram: bytes) -> None:
        def send() -> None:
            self._later.discard(timer)
            peer.endpoint.send(datagram, peer)

        if len(self._later) < 64:
            timer = self._loop.call_later(int(chance() * LEISURE_MS), send)
            self._later.add(timer)

    def close(self) -> None:
        """No timer is left; what is still being handled gets no answer."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for timer in self._later:
            timer.cancel()
        self._later.clear()


def etag(body: bytes) -> bytes:
    """What tells two representations apart: eight bytes."""
    from _blake2 import blake2b  # hashlib would load OpenSSL: 4 MB

    return blake2b(body, digest_size=8).digest()


def _options(response: Response) -> list[tuple[int, bytes]]:
    """The options that a handler's headers ask for; headers that CoAP has no option for are left out."""
    made: list[tuple[int, bytes]] = []
    for name, value in response.headers.items():
        header, text = name.lower(), str(value)
        if header in ("max-age", "retry-after") and text.isascii() and text.isdigit():
            made.append((coap.MAX_AGE, uint(min(int(text), 0xFFFFFFFF))))
        elif header == "etag" and text:
            tag = text.strip('"')
            try:
                raw = bytes.fromhex(tag)
            except ValueError:
                raw = tag.encode()
            if 1 <= len(raw) <= 8:
                made.append((coap.ETAG, raw))
        elif header in ("location", "location-path"):
            path, _, query = text.partition("?")
            parts = path.strip("/").split("/") if path.strip("/") else []
            made.extend((coap.LOCATION_PATH, part.encode()[:255]) for part in parts)
            made.extend((coap.LOCATION_QUERY, part.encode()[:255]) for part in query.split("&") if part)
    return made


def _whole(response: Response) -> bytes:
    """A response's body; one that comes in parts is put together. Where that fails it becomes a 500."""
    try:
        body: bytes = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in response.body)
    except BaseException as error:  # noqa: BLE001 - a generator is the handler's code
        response.status_code = 500
        response.content_type = "text/plain"
        body = f"the handler's answer broke off: {type(error).__name__}".encode()
    response.body = body
    return body


def _nothing(_outcome: str) -> None:
    pass
