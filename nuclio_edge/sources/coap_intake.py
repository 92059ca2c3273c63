"""What becomes of a datagram: an event, an answer at once, a message about one of ours, or nothing.

`take` is the hot path: an ordinary request costs a look-up of its peer, one of its message id and one of its options,
then the event. Everything out of the ordinary leaves it early.
"""

from __future__ import annotations

from collections import deque

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_codec import MessageError
from nuclio_edge.sources import coap_formats as formats
from nuclio_edge.sources.coap_answer import MULTICAST, NON_FLAG
from nuclio_edge.sources.coap_event import CoapEvent
from nuclio_edge.sources.coap_links import listing
from nuclio_edge.sources.coap_listen import LARGEST
from nuclio_edge.sources.coap_params import WELL_KNOWN
from nuclio_edge.sources.coap_peer import ALL, EACH
from nuclio_edge.sources.coap_plan import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.sources.coap_answer import Answers, Token
    from nuclio_edge.sources.coap_blocks import Blocks
    from nuclio_edge.sources.coap_listen import Endpoint
    from nuclio_edge.sources.coap_peer import Peer
    from nuclio_edge.sources.coap_plan import Planner
    from nuclio_edge.sources.coap_send import Sender

_NONE = 1 << 30
# By the first byte of a datagram: where the options begin, if it is a CON or NON with a token of 0 to 8 bytes.
_START = [4 + (first & 15) if 0x40 <= first < 0x60 and first & 15 <= 8 else _NONE for first in range(256)]


class Intake:
    """Takes the datagrams of all sockets of one source."""

    def __init__(self, loop: Any, planner: Planner, answers: Answers, blocks: Blocks, sender: Sender) -> None:
        self._loop = loop
        self._planner = planner
        self._plans = planner.plans
        self._answers = answers
        self._blocks = blocks
        self._sender = sender
        self.observers: Any = None  # set by the source
        self.endpoints: list[Endpoint] = []
        self.stopped = False
        self.routed = 0
        self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.ignored = 0  # datagrams that are no requests and nobody is answered for
        self.pings = 0
        self.listings = 0
        self._kept: deque[CoapEvent] = deque()  # for which there was no room; nothing is read meanwhile

    def take(self, endpoint: Endpoint, data: bytes, address: tuple[Any, ...], info: Any) -> None:
        """One datagram; see the module."""
        size = len(data)
        if not 4 <= size <= LARGEST or (start := _START[data[0]]) > size or not 0 < (code := data[1]) < 32:
            self._other(endpoint, data, address, info)
            return
        loop = self._loop
        peers = endpoint.peers
        peer = peers.new.get(address)
        if peer is None or loop.now >= peer.until or len(peer.new) >= EACH:
            peer = peers.meet(address, loop.now)
        if info is not None and info != peer.info:
            endpoint.note(peer, info)
        key = data[2:start]
        new = peer.new
        known = new.get(key)
        if known is None and peer.old:
            known = peer.old.get(key)
        if known is not None:
            self._answers.repeated(peer, key, known, data[0])
            return
        peers.exchanges += 1
        if peers.exchanges >= ALL:
            peers.shrink(loop.now)
            new = peer.new
        # A first 0xFF that is part of an option leaves bytes before it that are no whole options: they are never found.
        mark = data.find(b"\xff", start)
        if mark < 0:
            options = data[start:]
            body = b""
        else:
            options = data[start:mark]
            body = data[mark + 1 :]
        plan = self._plans[code].get(options)
        if plan is None or plan.special or (mark >= 0 and not body):
            self._special(peer, key, code, data, start)
            return
        self.routed += 1
        event = CoapEvent(plan.trigger, (peer, key, plan, data[0]), code, options, body, address, loop.wall)
        if not plan.trigger.submit(event):  # type: ignore[union-attr]
            self._keep(event)
        if key not in new:  # not answered yet
            new[key] = event
            if data[0] < 0x50:
                self._answers.wait(event)

    @property
    def received(self) -> int:
        """All that came: what became of it is what is counted."""
        return self.routed + self.unrouted + sum(self.rejected.values())

    # -- requests out of the ordinary ---------------------------------------------------------------------------------

    def _special(self, peer: Peer, key: bytes, code: int, data: bytes, start: int) -> None:
        try:
            plan, body = self._planner.make(code, data, start)
        except MessageError:
            self.reject("malformed")
            if data[0] < 0x50:
                peer.new[key] = reset = b"\x70\x00" + data[2:4]  # 4.2: a CON that cannot be read is rejected
                peer.endpoint.send(reset, peer)
            return
        self._handle((peer, key, plan, data[0]), body)

    def _handle(self, token: Token, body: bytes) -> None:
        peer, key, plan, first = token
        if plan.error is not None:
            wrong, text = plan.error
            if wrong in (formats.NOT_FOUND, formats.NOT_ALLOWED):
                self.unrouted += 1
            else:
                self.reject(_REASONS.get(wrong, "bad-request"))
            if wrong == formats.BAD_OPTION and first & NON_FLAG:
                peer.new[key] = b""  # 5.4.1: such a message is rejected, and not answered
                return
            self._answers.fail(token, wrong, text)
        elif plan.path == WELL_KNOWN:
            self.listings += 1
            if plan.block2 is None or not plan.block2[0] or not self._answers.next_block(token):
                answer = listing(self._planner, plan, multicast=bool(first & MULTICAST))
                self._answers.reply(token, *answer)
        elif plan.block2 is not None and plan.block2[0] and self._answers.next_block(token):
            pass  # the event was counted with the first block
        elif plan.trigger is None:
            self._resource(token)
        elif self.stopped:
            self.reject("stopping")
            self._answers.fail(token, formats.UNAVAILABLE, "stopping")
        elif plan.block1 is not None:
            self._upload(token, body)
        else:
            self._submit(token, body)

    def _upload(self, token: Token, part: bytes) -> None:
        peer, _, plan, _ = token
        body, wrong = self._blocks.add(peer, plan, part)
        if wrong is not None:
            self.reject(_REASONS.get(wrong[0], "incomplete"))
            self._answers.fail(token, *wrong)
        elif body is None:
            self._answers.go_on(token)
        else:
            self._submit(token, body)

    def _submit(self, token: Token, body: bytes) -> None:
        """An event for each function that has this path: one, unless a manifest was not checked."""
        peer, key, plan, first = token
        self.routed += 1
        for trigger in (plan.trigger, *plan.others):
            assert trigger is not None  # noqa: S101 - what is routed has one
            answers = token if trigger is plan.trigger else None  # who waits is told by the first of them
            event = CoapEvent(trigger, answers, plan.code, plan.options, body, peer.address, self._loop.wall)
            if not trigger.submit(event):
                self._keep(event)
            if answers is not None and key not in peer.new:
                peer.new[key] = event
                if not first & (NON_FLAG | MULTICAST):
                    self._answers.wait(event)

    def _resource(self, token: Token) -> None:
        """What an output has published."""
        plan = token[2]
        found = self._planner.resources[plan.path]
        self.routed += 1
        if plan.accept not in (None, found.format):
            self._answers.fail(token, formats.NOT_ACCEPTABLE, "there is another Content-Format here")
            return
        options = list(found.options)
        if plan.observe is not None:
            self.observers.registered(token, b"", formats.CONTENT, options)
        self._answers.reply(token, formats.CONTENT, options, found.body)

    def reject(self, reason: str) -> None:
        """Count a request that becomes no event."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    # -- room ---------------------------------------------------------------------------------------------------------

    def _keep(self, event: CoapEvent) -> None:
        """No room: keep it, and leave the rest to the kernel's buffers until there is some."""
        self._kept.append(event)
        if len(self._kept) == 1:
            for endpoint in self.endpoints:
                endpoint.pause()
            self._wait_for_room(event)

    def _wait_for_room(self, event: CoapEvent) -> None:
        def room() -> None:
            if self._kept and self._kept[0] is event:
                self._push()

        trigger: Any = event._trigger
        trigger.on_room(room)

    def _push(self) -> None:
        while self._kept:
            event = self._kept[0]
            trigger: Any = event._trigger
            if not trigger.submit(event):
                self._wait_for_room(event)
                return
            self._kept.popleft()
        for endpoint in self.endpoints:
            endpoint.resume()

    def follow(self, triggers: list[Trigger]) -> None:
        """What found no room goes to the new version of its function, or is turned away with it."""
        here = {trigger.ledger_id: trigger for trigger in triggers}
        kept, self._kept = self._kept, deque()
        for event in kept:
            trigger: Any = event._trigger
            if trigger.ledger_id in here:
                event._trigger = here[trigger.ledger_id]
                self._kept.append(event)
            else:
                trigger.turn_away(event, "closed")
        if kept:
            self._loop.call_soon(self._push)

    def stop(self) -> None:
        """Take no more requests; acknowledgements are still read."""
        self.stopped = True
        self._planner.stop()
        while self._kept:
            event = self._kept.popleft()
            trigger: Any = event._trigger
            trigger.turn_away(event, "closed")
        for endpoint in self.endpoints:
            endpoint.resume()

    # -- messages that are no requests --------------------------------------------------------------------------------

    def _other(self, endpoint: Endpoint, data: bytes, address: tuple[Any, ...], info: Any) -> None:
        if len(data) > LARGEST:
            self._too_big(endpoint, data, address, info)
            return
        try:
            message = coap.Message(data)
        except MessageError:
            self.ignored += 1
            if len(data) >= 4 and data[0] >> 4 == 4:  # a CON that breaks the format
                self._reset(endpoint, data, address, info)
            return
        if message.kind in (coap.ACK, coap.RST):
            if not self._sender.answered(address, message.kind, data[2:4]) and (
                message.kind == coap.ACK or not self.observers.reset(address, data[2:4])
            ):
                self.ignored += 1
        elif message.kind == coap.CON:
            if message.code == coap.EMPTY:
                self.pings += 1
            else:
                self.ignored += 1
            self._reset(endpoint, data, address, info)  # a ping (4.3), or a response that nobody waits for
        else:
            self.ignored += 1

    def _too_big(self, endpoint: Endpoint, data: bytes, address: tuple[Any, ...], info: Any) -> None:
        """A datagram that may have been cut off: the advice to use blocks, where it begins like a request."""
        start, code = _START[data[0]], data[1]
        if start > len(data) or not 0 < code < 32:
            self.ignored += 1
            return
        self.reject("too-big")
        peer = endpoint.peers.meet(address, self._loop.now)
        if info is not None and info != peer.info:
            endpoint.note(peer, info)
        token = (peer, data[2:start], Plan(code, b""), data[0])
        self._answers.fail(token, formats.TOO_LARGE, f"larger than {LARGEST} bytes: use blocks")

    def _reset(self, endpoint: Endpoint, data: bytes, address: tuple[Any, ...], info: Any) -> None:
        peer = endpoint.peers.meet(address, self._loop.now)
        if info is not None and info != peer.info:
            endpoint.note(peer, info)
        endpoint.send(b"\x70\x00" + data[2:4], peer)

    def take_group(self, endpoint: Endpoint, data: bytes, address: tuple[Any, ...], _info: Any) -> None:
        """A request to a group (8.1): NON only; errors are kept to oneself; answered from an address of one's own."""
        own = next((one for one in self.endpoints if not one.group and one.family == endpoint.family), None)
        if own is None or len(data) < 4 or _START[data[0]] > len(data) or data[0] < 0x50 or not 0 < data[1] < 32:
            self.ignored += 1
            return
        start = _START[data[0]]
        peer = own.peers.meet(address, self._loop.now)
        key = data[2:start]
        if key in peer.new or key in peer.old:
            self._answers.repeated(peer, key, b"", data[0])
            return
        try:
            plan, body = self._planner.make(data[1], data, start)
        except MessageError:
            self.ignored += 1
            return
        own.peers.exchanges += 1
        peer.new[key] = b""
        if plan.observe is None and plan.block1 is None:
            self._handle((peer, key, plan, data[0] | MULTICAST), body)
        else:
            self.ignored += 1


_REASONS = {
    formats.BAD_OPTION: "bad-option",
    formats.NO_PROXY: "proxy",
    formats.UNSUPPORTED: "content-format",
    formats.NOT_ACCEPTABLE: "not-acceptable",
    formats.TOO_LARGE: "too-big",
    formats.UNAVAILABLE: "full",
}
