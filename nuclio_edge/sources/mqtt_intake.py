"""What a PUBLISH becomes: an event for each function that wants it, once, or a count with a reason."""

from __future__ import annotations

from collections import deque

from nuclio_edge.core import port
from nuclio_edge.core.mqtt_codec import ProtocolError
from nuclio_edge.sources.mqtt_event import MqttEvent, content_type_of, mqtt_event
from nuclio_edge.sources.mqtt_session import ARRIVAL, PUBACK, REPLY_ONLY, SHARED_REPLY, Session, Shared
from nuclio_edge.sources.mqtt_subscribe import Split

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.sources.mqtt_subscribe import Subscriptions

_KNOWN = 64  # properties that were looked through, those that are well formed and those that are not
_SHORT = 256  # bytes of such


class Intake:
    """The way in, from the link's packets to the triggers. Loop thread only.

    `break_off(error)` ends the connection, `say(key, message, *pairs)` warns once. `told` and `uncounted` make
    `received`: the packets that the links told, less those that were no new PUBLISH.
    """

    def __init__(
        self,
        loop: Loop,
        write: Callable[[bytes], Any],
        break_off: Callable[[ProtocolError], Any],
        say: Callable[..., Any],
    ) -> None:
        self.loop = loop
        self.session = Session(write, loop.at_turn_end)
        self.plan: Subscriptions | None = None
        self._single: dict[bytes, Trigger] = {}  # the plan's answers where they are one trigger, for topics seen before
        self.link: Any = None
        self.receiving = True
        self.routed = 0
        self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.duplicates = 0  # came again while they were in work, or settled and not yet acknowledged
        self.copies = 0  # further copies of a message for overlapping subscriptions
        self.told = 0
        self.uncounted = 0
        self._latest: Any = None  # the present link, or the last one: a drain that closes it counts until it returns
        self._break_off = break_off
        self._say = say
        self._held: deque[MqttEvent] = deque()  # refused for now by their triggers
        self._types: dict[bytes, str] = {}  # the content type of well-formed properties: they are much the same
        self._blamed: set[int] = set()  # hashes of malformed ones that have ended a connection

    @property
    def received(self) -> int:
        """PUBLISH packets that were new: neither repeated deliveries nor further copies."""
        return self.told + (self._latest.reader.told if self._latest is not None else 0) - self.uncounted

    def attach(self, link: Any) -> None:
        """Another connection: the packets of the last one are all told."""
        self.link = link
        if self._latest is not None:
            self.told += self._latest.reader.told
        self._latest = link
        if self.plan is not None:
            self.plan.begin()

    def follow(self, plan: Subscriptions) -> None:
        """Send what comes from now on where this plan says."""
        self.plan = plan
        self._choose()

    def _choose(self) -> None:
        """Let the inner loop have the topics seen before, unless every message is one for `_deliver` to look at."""
        plan = self.plan
        self._single = plan.single if plan is not None and self.receiving and not self._held else {}

    def reject(self, reason: str) -> None:
        """Count a PUBLISH that becomes no event."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    # -- one packet ---------------------------------------------------------------------------------------------------

    def on_publish(self, first: int, topic: bytes, packet_id: int, props: bytes, body: bytes) -> Any:
        """One PUBLISH; true when the link shall tell no more for now.

        The inner loop, for a topic seen before that one function gets: `_deliver` is the whole of it.
        """
        trigger = self._single.get(topic)
        if trigger is None or props or (packet_id and (first & 4 or packet_id in self.session.unsettled)):
            return self._deliver(first, topic, packet_id, props, body, trigger)
        event = MqttEvent()
        event._trigger = trigger
        event._fields = None
        event._first = first
        event._topic = topic
        event._props = props
        event.raw_body = body
        event.timestamp_ms = self.loop.wall
        event.content_type = trigger.content_type
        self.routed += 1
        submit = trigger.submit
        if not packet_id:
            event._token = None
            return False if submit(event) else self._hold(event)
        session = self.session
        session.arrivals = arrival = session.arrivals + ARRIVAL  # `token` spelled out: 0.1 us less
        event._token = arrival + (PUBACK + packet_id)
        session.arriving = event
        try:
            taken = submit(event)
        except BaseException:
            if session.arriving is event:
                session.keep(event, packet_id)  # whoever has it may settle it all the same
            raise
        if session.arriving is event:
            session.arriving = None  # `keep` spelled out: a call less
            session.unsettled[packet_id] = event
        return False if taken else self._hold(event)

    def on_oversize(self, first: int, topic: bytes, packet_id: int, size: int) -> Any:
        """A PUBLISH above `max_packet` was thrown away: acknowledged, so that it does not come back for ever."""
        self.reject("too-big")
        if packet_id:
            self.session.acknowledge(self.session.token(first, packet_id))
        name = topic.decode("utf-8", "replace")
        self._say(f"too big {name}", "a message above max_packet was discarded", "topic", name, "size", size)
        return False

    def _resolve(self, first: int, topic: bytes, packet_id: int) -> Any:
        known = self.plan.known.get(topic) if self.plan is not None else ()
        if known is not None:
            return known
        try:
            return self.plan.resolve(topic) if self.plan is not None else ()
        except ProtocolError as error:
            self._refuse("bad-topic", first, packet_id)
            self._break_off(error)
            return None

    def _refuse(self, reason: str, first: int, packet_id: int) -> None:
        # The specification wants the connection closed (4.7.3, 1.5.4, 4.13). Acknowledged first: else a kept session
        # would send it again after every reconnect, and close every connection.
        self.reject(reason)
        if packet_id:
            self.session.acknowledge(self.session.token(first, packet_id))
            self.session.flush()

    def _look_through(self, first: int, topic: bytes, packet_id: int, props: bytes) -> str | None:
        """The content type that well-formed properties say, "" without one; None where they are dealt with.

        Malformed ones end the connection, but only once: a message that comes again, retained or for an acknowledgement
        that was lost, does not keep the others away for ever.
        """
        try:
            said = content_type_of(props)
        except ProtocolError as error:
            self._refuse("malformed", first, packet_id)
            blamed = hash(props)
            if blamed in self._blamed:
                name = topic.decode()
                text = "a message with malformed properties was discarded"
                self._say(f"malformed {name}", text, "topic", name, "reason", str(error))
                return None
            if len(self._blamed) >= _KNOWN:
                self._blamed.clear()
            self._blamed.add(blamed)
            self._break_off(error)
            return None
        if len(props) <= _SHORT:
            if len(self._types) >= _KNOWN:
                self._types.clear()
            self._types[props] = said
        return said

    def _deliver(
        self, first: int, topic: bytes, packet_id: int, props: bytes, body: bytes, single: Trigger | None
    ) -> Any:
        """The same with everything that a PUBLISH can have."""
        targets = (single,) if single is not None else self._resolve(first, topic, packet_id)
        if targets is None:
            return True
        if not self.receiving:
            self.reject("stopping")
            return False
        said = ""
        if props:
            known = self._types.get(props)
            if known is None:
                known = self._look_through(first, topic, packet_id, props)
                if known is None:
                    return self.link is None  # the connection is over
            said = known
        session = self.session
        token = None
        if packet_id:
            if (packet_id in session.unsettled or packet_id in session.received) and self._is_known(
                first, topic, packet_id, body
            ):
                return False
            token = session.token(first, packet_id)
        elif props and b"\x08" in props:
            token = REPLY_ONLY
        several = False
        split: Subscriptions | None = None
        if type(targets) is Split:
            several = len(targets.triggers) > 1 and b"\x08" in props  # a request, though each copy is for one of them
            split = self.plan
            assert split is not None  # noqa: S101 - it made the Split
            targets = split.pick(targets, topic, props, body, first, self._latest.read_at)
            if targets is None:
                self.uncounted += 1
                self.copies += 1
                if packet_id and token is not None:
                    session.acknowledge(token)
                return False
        if not targets:
            self.unrouted += 1
            if packet_id and token is not None:
                session.acknowledge(token)
            return False
        self.routed += 1
        if several or len(targets) > 1:
            refused = self._fan_out(first, topic, packet_id, props, body, targets, token, said)
            if split is not None:
                split.told(port.ticks_ms())
            return refused
        trigger = targets[0]
        wall = self.loop.wall
        event = mqtt_event(trigger, token, first, topic, props, body, wall, said or trigger.content_type)
        if packet_id:
            session.unsettled[packet_id] = event
        refused = False if not self._held and trigger.submit(event) else self._hold(event)
        if split is not None:
            split.told(port.ticks_ms())
        return refused

    def _is_known(self, first: int, topic: bytes, packet_id: int, body: bytes) -> bool:
        known = self.session.again(first, packet_id, topic, body)
        if known is None:
            return False
        self.uncounted += 1
        self.duplicates += 1
        if known is not True and known._trigger is not None:
            known._trigger.duplicates += 1
        return True

    def _fan_out(
        self,
        first: int,
        topic: bytes,
        packet_id: int,
        props: bytes,
        body: bytes,
        targets: tuple[Trigger, ...],
        token: int | None,
        said: str,
    ) -> bool:
        shared: Any = token
        if packet_id and token is not None:
            shared = Shared(token, first, topic, body, targets[0], len(targets))
            self.session.unsettled[packet_id] = shared
        elif token == REPLY_ONLY:
            shared = SHARED_REPLY
        refused = False
        behind = bool(self._held)
        wall = self.loop.wall
        for trigger in targets:
            event = mqtt_event(trigger, shared, first, topic, props, body, wall, said or trigger.content_type)
            if behind or not trigger.submit(event):
                refused = self._hold(event)
        return refused

    def settle(self, event: MqttEvent) -> None:
        """Acknowledge a delivery once all its functions have settled."""
        token: Any = event._token
        if type(token) is Shared:
            token.left -= 1
            if not token.left and token._token is not None:
                self.session.settle(token)
        elif token:
            self.session.settle(event)

    # -- pushing back -------------------------------------------------------------------------------------------------

    def _hold(self, event: MqttEvent) -> bool:
        """Keep an event that its trigger refused, or that came after one, and read nothing more until there is room.

        One comes after it on the next connection, if the one on which reading was paused is lost.
        """
        self._held.append(event)
        if len(self._held) == 1:
            self._wait_for(event)
            self._choose()
        if self.link is not None:
            self.link.pause()
        return True

    def _wait_for(self, event: MqttEvent) -> None:
        assert event._trigger is not None  # noqa: S101 - ours have one
        event._trigger.on_room(self._make_room)

    def _make_room(self) -> None:
        held = self._held
        while held:
            event = held[0]
            assert event._trigger is not None  # noqa: S101 - ours have one
            if not event._trigger.submit(event):
                self._wait_for(event)
                return
            held.popleft()
        self._choose()
        if self.link is not None:
            self.link.resume()

    def stop(self) -> None:
        """Take no more: what is held is not acknowledged, so that the broker can send it again, and counted."""
        self.receiving = False
        self._choose()  # what comes now is for `_deliver` to reject
        held, self._held = self._held, deque()
        for event in held:
            shared: Any = event._token
            if type(shared) is Shared:
                shared._token = None  # the other functions go on; the delivery as a whole was not done
            else:
                self.routed -= 1
                self.reject("stopping")
        if held and self.link is not None:
            self.link.resume()
