"""Who observes what (RFC 7641), and the notifications that they get.

A function's resource is observed by its GET: whenever another method on its path succeeds, or a handler says so, the
function runs once more for all who asked the same, and they are told. A resource that an output publishes is told as it
is. Most notifications are NON; every sixteenth, and the first after five minutes, is a CON: a peer that does not
acknowledge it, or resets any, is forgotten. While a CON is under way only the newest state counts.
"""

from __future__ import annotations

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_compose import compose, uint
from nuclio_edge.sources import coap_formats as formats
from nuclio_edge.sources.coap_answer import MULTICAST, REFRESH
from nuclio_edge.sources.coap_event import CoapEvent
from nuclio_edge.sources.coap_send import ACKNOWLEDGED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.sources.coap_answer import Answers, Token
    from nuclio_edge.sources.coap_peer import Peer
    from nuclio_edge.sources.coap_plan import Plan, Planner
    from nuclio_edge.sources.coap_send import Sender

    State = tuple[int, list[tuple[int, bytes]], bytes]

CON_EVERY = 16
CON_AFTER_MS = 300_000


class Observer:
    """One registration: a peer, its token, and what it asked for."""

    __slots__ = (
        "body",
        "code",
        "count",
        "last_con",
        "message_id",
        "options",
        "path",
        "peer",
        "plan",
        "state",
        "token",
        "waiting",
    )

    def __init__(self, peer: Peer, token: bytes, plan: Plan, body: bytes) -> None:
        self.peer = peer
        self.token = token
        self.plan = plan
        self.code = plan.code
        self.path = plan.path
        self.body = body
        self.count = 0
        self.last_con = 0
        self.message_id = b""
        self.waiting = False  # a CON is under way
        self.state: State | None = None  # newer than what is under way


class Observers:
    """All observers of one source; `most` of them at a time, further ones are `refused`."""

    def __init__(self, loop: Any, planner: Planner, sender: Sender, answers: Answers, most: int) -> None:
        self._loop = loop
        self._planner = planner
        self._sender = sender
        self._answers = answers
        self._most = most
        self._all: dict[tuple[Any, bytes], Observer] = {}
        self.at: dict[str, dict[tuple[Any, bytes], Observer]] = {}
        self._told: dict[tuple[Any, bytes], Observer] = {}  # by address and message id of the last notification
        self._running: dict[tuple[int, bytes, bytes], bool] = {}  # what is being refreshed -> whether it changed again
        self._sequence = 1
        self.refused = 0
        self.notified = 0

    def __len__(self) -> int:
        return len(self._all)

    def registered(self, token: Token, body: bytes, code: int, options: list[tuple[int, bytes]]) -> None:
        """A request with an Observe option has been answered: it registers, or ends a registration."""
        peer, key, plan, first = token
        name = (peer.address, key[2:])
        if plan.observe != 0 or code >> 5 != 2 or first & MULTICAST:
            self._remove(name)
            return
        old = self._all.get(name)
        if old is None and len(self._all) >= self._most:
            self.refused += 1  # without the option in the reply the peer knows (4.1)
            return
        if old is not None and old.path != plan.path:
            self._remove(name)
            old = None
        if old is None:
            old = self._all[name] = Observer(peer, key[2:], plan, body)
            old.last_con = self._loop.now
            self.at.setdefault(plan.path, {})[name] = old
        old.peer, old.plan, old.body, old.code = peer, plan, body, plan.code
        options.append((coap.OBSERVE, uint(self._next())))

    def changed(self, path: str) -> None:
        """The resource of a path may be another now: ask its function again, once for all who asked the same."""
        asked = set()
        for observer in list(self.at.get(path, {}).values()):
            key = (observer.code, observer.plan.asked, observer.body)
            if key in asked:
                continue
            asked.add(key)
            if key in self._running:
                self._running[key] = True
            else:
                self._running[key] = False
                self._refresh(observer, key)

    def _refresh(self, observer: Observer, key: tuple[int, bytes, bytes]) -> None:
        plan, _ = self._planner.make(observer.code, observer.plan.options, 0)
        observer.plan = plan
        if plan.error is not None or plan.trigger is None:
            self._running.pop(key, None)
            resource = self._planner.resources.get(observer.path)
            if plan.error is not None:
                self._tell(observer, (plan.error[0], [], plan.error[1].encode()))
            elif resource is not None:
                self._tell(observer, (formats.CONTENT, list(resource.options), resource.body))
            return
        token = (observer.peer, b"", plan, REFRESH)
        event = CoapEvent(
            plan.trigger, token, observer.code, plan.options, observer.body, observer.peer.address, self._loop.wall
        )
        if not plan.trigger.submit(event):
            self._running.pop(key, None)  # no room: the next change will tell

    def refreshed(self, plan: Plan, body: bytes, code: int, options: list[tuple[int, bytes]], value: bytes) -> None:
        """The function has said how its resource is now."""
        key = (plan.code, plan.asked, body)
        again = self._running.pop(key, False)
        if code == formats.UNAVAILABLE:
            return  # it had no room for this one: the next change will tell
        for observer in list(self.at.get(plan.path, {}).values()):
            if (observer.code, observer.plan.asked, observer.body) == key:
                self._tell(observer, (code, options, value))
        if again:
            self._loop.call_soon(lambda: self.changed(plan.path))

    def publish(self, path: str, number: int | None, options: list[tuple[int, bytes]], body: bytes) -> None:
        """Tell all who observe a path what an output has published there."""
        for observer in list(self.at.get(path, {}).values()):
            if observer.plan.accept in (None, number):
                self._tell(observer, (formats.CONTENT, options, body))

    def follow(self) -> None:
        """The routes are others: who observes what is gone is told so."""
        for observer in list(self._all.values()):
            plan, _ = self._planner.make(observer.code, observer.plan.options, 0)
            observer.plan = plan
            if plan.error is not None:
                self._tell(observer, (plan.error[0], [], plan.error[1].encode()))

    def reset(self, address: tuple[Any, ...], message_id: bytes) -> bool:
        """A peer rejects a notification: it observes no more (3.6). Whether it was one."""
        observer = self._told.get((address, message_id))
        if observer is None:
            return False
        self._remove((address, observer.token))
        return True

    def close(self) -> None:
        """Forget all of them."""
        for registry in (self._all, self.at, self._told, self._running):
            registry.clear()

    def _tell(self, observer: Observer, state: State) -> None:
        if observer.waiting:
            observer.state = state
            return
        now = self._loop.now
        observer.count += 1
        last = state[0] >> 5 != 2  # an error ends the observation (4.2)
        confirm = last or observer.count % CON_EVERY == 0 or now - observer.last_con >= CON_AFTER_MS
        self.notified += 1
        datagram = self._compose(observer, state, coap.CON if confirm else coap.NON)
        if last:
            self._remove((observer.peer.address, observer.token))
            self._sender.send(observer.peer, datagram, lambda outcome: None)
        elif confirm:
            observer.last_con = now
            observer.waiting = True

            def renew() -> bytes | None:
                if observer.state is None:
                    return None
                newer, observer.state = observer.state, None
                return self._compose(observer, newer, coap.CON)

            self._sender.send(observer.peer, datagram, lambda outcome: self._outcome(observer, outcome), renew)
        else:
            observer.peer.endpoint.send(datagram, observer.peer)

    def _compose(self, observer: Observer, state: State, kind: int) -> bytes:
        code, options, body = state
        if code >> 5 == 2:
            options = [*options, (coap.OBSERVE, uint(self._next()))]
        code, options, body = self._answers.cut(observer.peer, observer.plan, code, options, body)
        number = self._sender.next_id()
        self._told.pop((observer.peer.address, observer.message_id), None)
        observer.message_id = bytes((number >> 8, number & 255))
        self._told[observer.peer.address, observer.message_id] = observer
        return compose(kind, code, number, observer.token, options, body)

    def _outcome(self, observer: Observer, outcome: str) -> None:
        observer.waiting = False
        state, observer.state = observer.state, None
        if outcome != ACKNOWLEDGED:
            self._remove((observer.peer.address, observer.token))
        elif state is not None and (observer.peer.address, observer.token) in self._all:
            self._tell(observer, state)

    def _remove(self, name: tuple[Any, bytes]) -> None:
        observer = self._all.pop(name, None)
        if observer is not None:
            self._told.pop((name[0], observer.message_id), None)
            at = self.at.get(observer.path, {})
            at.pop(name, None)
            if not at:
                self.at.pop(observer.path, None)

    def _next(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFFFF
        return self._sequence
