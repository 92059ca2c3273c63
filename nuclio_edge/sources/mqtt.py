"""The MQTT source: one client at one broker, for ever; PUBLISH packets become events, settled events acknowledgements.

    mqtt_connect    a thread makes the connection        mqtt_client     paho, without its socket
    mqtt_link       reads and writes it on the loop      mqtt_session    what is owed to the broker
    mqtt_subscribe  who gets a message                   mqtt_publish    what goes out

States: "closed" -> open() -> "connecting" -> "open" (the broker granted the subscriptions) -> "connecting" ... A broker
that is away, refuses or breaks the protocol is tried again for ever, with a pause that doubles up to a minute, of which a
random part is waited; each outage and each end of one is a line in the log.
"""

from __future__ import annotations

import os.path
import random
from collections import deque

from nuclio_edge.core.mqtt_codec import ProtocolError
from nuclio_edge.sources.mqtt_connect import Connector, Target
from nuclio_edge.sources.mqtt_event import MqttEvent
from nuclio_edge.sources.mqtt_link import Link
from nuclio_edge.sources.mqtt_memory import SessionMemory
from nuclio_edge.sources.mqtt_params import OUTPUT, PARAMS, TRIGGER, parse_url
from nuclio_edge.sources.mqtt_publish import MqttBinding, Publisher
from nuclio_edge.sources.mqtt_reasons import PROTOCOL_VERSION, TAKEN_OVER, explain
from nuclio_edge.sources.mqtt_session import REPLY_ONLY, Session, Shared
from nuclio_edge.sources.mqtt_subscribe import Split, Subscriptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.loop import Timer
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Values

ANSWER_MS = 10_000  # for CONNACK and SUBACK: a broker that takes longer is no broker
FIRST_PAUSE_MS = 1_000
LONGEST_PAUSE_MS = 60_000
STABLE_MS = 10_000  # a connection that lasted so long has ended the series of failures
TAKEN_OVER_PAUSE_MS = 30_000
FILTERS_A_PACKET = 8  # AWS IoT takes no more
EARLY_CLOSES = 2  # closed right after a CONNECT of version 5: then 3.1.1 is tried
_SAID = 16


class MqttSource:
    """One connection to one broker. Everything but `binding(...).publish` belongs to the loop's thread."""

    kind = "mqtt"
    replies = True
    acks = True
    PARAMS = PARAMS
    TRIGGER = TRIGGER
    OUTPUT = OUTPUT

    def __init__(self, name: str, params: Values, host: Any) -> None:
        self.name = name
        self.params = params
        self.host = host
        self.loop = host.loop
        self.log = host.log
        self.url: str = params.url
        self.content_type: str | None = params.content_type
        self.state = "closed"
        self.attempts = 0  # connections tried since the last good one
        self.routed = 0
        self.unrouted = 0
        self.rejected: dict[str, int] = {}
        self.duplicates = 0  # came again while they were in work, or settled and not yet acknowledged
        self.copies = 0  # further copies of a message for overlapping subscriptions
        self.fast = True  # False: by stock paho
        self._told = 0  # packets of earlier connections
        self._uncounted = 0  # packets that were no PUBLISH, or one that is counted elsewhere
        scheme, hostname, port, path = parse_url(params.url)
        self._target = Target(scheme, hostname, port, path, params)
        self._v5 = params.version != 3
        self._v5_works = False
        self._early_closes = 0
        self._trying_older = False
        self._triggers: list[Trigger] = []
        self._plan: Subscriptions | None = None
        self._known: dict[bytes, Any] = {}
        self._memory: SessionMemory | None = None
        self._client: Any = None
        self._client_v5 = False
        self._link: Any = None
        self._connector: Connector | None = None
        self._timer: Timer | None = None  # the next attempt, or the deadline of an answer
        self._opened = False
        self._receiving = True
        self._connected = False  # CONNACK has come
        self._numbered = True
        self._asked: dict[int, list[str]] = {}  # message id -> filters of a SUBSCRIBE; [] of an UNSUBSCRIBE
        self._granted: dict[str, tuple[int, int]] = {}
        self._again = False  # the triggers changed while the broker was being asked
        self._held: deque[MqttEvent] = deque()  # refused for now by their triggers
        self._since = 0  # when the present connection began, or the outage
        self._said: set[str] = set()  # reasons of this outage that the log has
        self._was_open = False
        self.session = Session(self._write, self.loop.at_turn_end)
        self.publisher = Publisher(self.loop, self._note_refusal)

    # -- what the processor calls -------------------------------------------------------------------------------------

    def routes(self, triggers: list[Trigger]) -> None:
        """The complete list of triggers from now on; filters are (un)subscribed as it takes."""
        self._triggers = list(triggers)
        self._plan = None
        if self._connected:
            self._make_plan()
            self._subscribe(session_present=True)

    def open(self) -> None:
        """Begin to connect, for ever."""
        if self._opened:
            return
        self._opened = True
        self._since = self.loop.now
        path = os.path.join(self.host.state_dir, f"mqtt-{self.name}.json")
        owner = f"{self.params.client_id} at {self._target.host}:{self._target.port}"
        self._memory = SessionMemory(path, owner, self.log.warn)
        self._load_paho()
        self._set_state("connecting")
        self._connect()

    def stop_receiving(self) -> None:
        """Take no more events: what the broker still sends is not acknowledged, and so not lost if it can be sent again."""
        self._receiving = False
        self._held_back()

    def sent(self) -> bool:
        """Whether all that was published is with the broker, as far as there is one."""
        return self._link is None or not (self.publisher.waiting or self._link.queued)

    def close(self) -> None:
        """Publish the will's message, say goodbye, and let go of everything; idempotent."""
        if not self._opened:
            return
        self._opened = False
        self._receiving = False
        self._held_back()
        self._cancel_timer()
        if self._connector is not None:
            self._connector.abort()
            self._connector = None
        link = self._link
        if link is not None:
            if self._connected:
                self.session.flush()
                will = self.params.will
                if will is not None:
                    self.publisher.send(will.topic, will.payload.encode(), will.qos, will.retain)
                link.say_goodbye()
            self._drop_link()
        self._set_state("closed")

    def binding(self, context: Context) -> MqttBinding:
        """What a handler finds under the source's name."""
        return MqttBinding(self.publisher, context)

    def send(self, output: Values, response: Response, _event: Event) -> None:
        """An output: the response's body to the output's topic."""
        body = response.body
        if not isinstance(body, bytes):
            body = b"".join(part if isinstance(part, bytes) else str(part).encode() for part in body)
        said = response.content_type
        self.publisher.publish(output.topic, body, output.qos, output.retain, None if said == "text/plain" else said)

    def settle(self, event: MqttEvent, response: Response | None, _error: BaseException | None) -> None:
        """Acknowledge a delivery once all its functions have settled, and answer a request."""
        token: Any = event._token
        if event._props and b"\x08" in event._props and event.response_topic:
            self._reply(event, response, shared=type(token) is Shared)
        if type(token) is Shared:
            token.left -= 1
            if not token.left and token._token is not None:
                self.session.settle(token)
        elif token:
            self.session.settle(event)

    @property
    def received(self) -> int:
        """PUBLISH packets that were new: neither repeated deliveries nor further copies."""
        link = self._link
        return self._told + (link.reader.told if link is not None else 0) - self._uncounted

    # -- a PUBLISH ----------------------------------------------------------------------------------------------------

    def on_publish(self, first: int, topic: bytes, packet_id: int, props: bytes, body: bytes) -> Any:
        """One PUBLISH, by the link; true when it shall tell no more for now. The inner loop: QoS 0 for one function."""
        targets = self._known.get(topic)
        if targets is None:
            targets = self._resolve(first, topic, packet_id)
            if targets is None:
                return True
        if packet_id or props or len(targets) != 1 or not self._receiving:
            return self._deliver(first, topic, packet_id, props, body, targets)
        self.routed += 1
        trigger = targets[0]
        event = MqttEvent(trigger, None, first, topic, props, body, self.loop.wall)
        if trigger.submit(event):
            return False
        return self._hold(event)

    def _resolve(self, first: int, topic: bytes, packet_id: int) -> Any:
        try:
            if self._plan is None:
                return ()
            return self._plan.resolve(topic)
        except ProtocolError as error:
            # The specification wants the connection closed (4.7.3, 1.5.4, 4.13). Acknowledged first: else a kept session
            # would send it again after every reconnect, and close every connection.
            self._reject("bad-topic")
            if packet_id:
                self.session.acknowledge(self.session.token(first, packet_id))
                self.session.flush()
            self._break_off(error)
            return None

    def _deliver(self, first: int, topic: bytes, packet_id: int, props: bytes, body: bytes, targets: Any) -> Any:  # noqa: PLR0913, PLR0917
        """The same with everything that a PUBLISH can have."""
        if not self._receiving:
            self._reject("stopping")
            return False
        session = self.session
        token = None
        if packet_id:
            if packet_id in session.unsettled or packet_id in session.received:
                known = session.again(first, packet_id, topic, body)
                if known is not None:
                    self._uncounted += 1
                    self.duplicates += 1
                    if known is not True and known._trigger is not None:
                        known._trigger.duplicates += 1
                    return False
            token = session.token(first, packet_id)
        elif props and b"\x08" in props:
            token = REPLY_ONLY
        if type(targets) is Split:
            assert self._plan is not None  # noqa: S101 - it made the Split
            targets = self._plan.pick(targets, topic, props, body, first)
            if targets is None:
                self._uncounted += 1
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
        wall = self.loop.wall
        if len(targets) == 1:
            trigger = targets[0]
            event = MqttEvent(trigger, token, first, topic, props, body, wall)
            if packet_id:
                session.unsettled[packet_id] = event
            return False if trigger.submit(event) else self._hold(event)
        return self._fan_out(first, topic, packet_id, props, body, targets, token)

    def _fan_out(self, first: int, topic: bytes, packet_id: int, props: bytes, body: bytes, targets: Any, token: Any) -> bool:  # noqa: PLR0913, PLR0917
        shared: Any = token
        if packet_id:
            shared = Shared(token, first, topic, body, targets[0], len(targets))
            self.session.unsettled[packet_id] = shared
        refused = False
        wall = self.loop.wall
        for trigger in targets:
            event = MqttEvent(trigger, shared, first, topic, props, body, wall)
            if not trigger.submit(event):
                refused = self._hold(event)
        return refused

    def on_oversize(self, first: int, topic: bytes, packet_id: int, size: int) -> Any:
        """A PUBLISH above `max_packet` was thrown away: acknowledged, so that it does not come back for ever."""
        self._reject("too-big")
        if packet_id:
            if first & 4 and packet_id in self.session.received:
                self.session.again(first, packet_id, topic, b"")
            else:
                self.session.acknowledge(self.session.token(first, packet_id))
        self._say_once(
            f"too big {topic!r}", "a message above max_packet was discarded", "topic", topic.decode("utf-8", "replace"), "size", size
        )
        return self._link is None

    def _hold(self, event: MqttEvent) -> bool:
        """Keep an event that its trigger refused, and read nothing more until there is room."""
        self._held.append(event)
        if len(self._held) == 1:
            assert event._trigger is not None  # noqa: S101 - ours have one
            event._trigger.on_room(self._make_room)
        if self._link is not None:
            self._link.pause()
        return True

    def _make_room(self) -> None:
        held = self._held
        while held:
            trigger = held[0]._trigger
            assert trigger is not None  # noqa: S101 - ours have one
            if not trigger.submit(held[0]):
                trigger.on_room(self._make_room)
                return
            held.popleft()
        if self._link is not None:
            self._link.resume()

    def _held_back(self) -> None:
        """What was held when the end came goes where an event goes that cannot be kept: counted, not acknowledged."""
        held, self._held = self._held, deque()
        for event in held:
            self.routed -= 1
            self._reject("stopping")
            shared: Any = event._token
            if type(shared) is Shared:
                shared._token = None  # the others may settle; the broker shall send it again all the same
        if held and self._link is not None:
            self._link.resume()

    def _reply(self, event: MqttEvent, response: Response | None, *, shared: bool) -> None:
        """Answer a request (4.10): the handler's response to the response topic, its status as a user property."""
        status, body, content_type = 200, b"", None
        if response is not None:
            status, content_type = response.status_code, response.content_type
            body = response.body if isinstance(response.body, bytes) else b"".join(response.body)
        elif shared:
            return  # one of several functions, which has nothing to say
        pairs: dict[str, Any] = {
            "correlation_data": event.correlation_data,
            "user_properties": {"status": str(status), **(response.headers if response is not None else {})},
        }
        try:
            self.publisher.publish(event.response_topic, body, min(event.qos, 1), False, content_type, pairs)
        except ValueError as error:
            self._say_once("reply", "a request cannot be answered", "reason", str(error))

    # -- the connection -----------------------------------------------------------------------------------------------

    def _load_paho(self) -> None:
        from nuclio_edge.sources import mqtt_client  # noqa: PLC0415 - paho, only once a source is opened

        self._paho = mqtt_client
        if self.fast:
            lost = mqtt_client.missing()
            if lost:
                self.fast = False
                self.log.warn_with(
                    "this paho-mqtt is not the one that the fast path knows: going on with its own, slower reading",
                    "missing",
                    ", ".join(lost),
                )

    def _connect(self) -> None:
        self._timer = None
        self.attempts += 1
        self._connector = Connector(self._target, self.loop.post, self._made)

    def _made(self, sock: Any, why: str) -> None:
        self._connector = None
        if sock is None:
            self._fail(f"cannot connect: {why}")
            return
        if self._client is None or self._client_v5 != self._v5:
            self._make_client()
        self._since_attempt = self.loop.now
        more = {"v5": self._v5, "max_packet": self.params.max_packet, "alias_max": self._paho.ALIASES if self._v5 else 0}
        if self.fast:
            self._link = Link(self.loop, sock, self, **more)
        else:
            from nuclio_edge.sources.mqtt_stock import StockLink  # noqa: PLC0415 - the fallback

            self._link = StockLink(self.loop, sock, self, self._client, self._paho.paho, **more)
        self._client.handed = sock
        self._timer = self.loop.call_later(ANSWER_MS, lambda: self._fail(f"no answer within {ANSWER_MS // 1000} s"))
        try:
            self._client.reconnect()
        except (OSError, ValueError) as error:
            self._fail(f"cannot connect: {error}")

    def _make_client(self) -> None:
        made = self._paho.make(self.params, self._target, self._v5, self.fast, self._write)
        made.on_connect = self._on_connect
        made.on_subscribe = self._on_subscribe
        made.on_unsubscribe = lambda _client, _data, mid, _codes, _props: self._answered(mid, None)
        made.on_publish = lambda _client, _data, mid, reason, _props: self.publisher.acknowledged(mid, reason.value)
        self._client = made
        self._client_v5 = self._v5
        self.publisher.v5 = self._v5
        self.publisher.use(made)

    def _write(self, data: bytes) -> None:
        if self._link is not None:
            self._link.write(data)

    def on_packet(self, first: int, rest: bytes) -> Any:
        """A packet that is no PUBLISH: paho's, but for those whose state is ours."""
        self._uncounted += 1
        kind = first >> 4
        if kind == 6 and len(rest) >= 2:
            self.session.released(rest[0] << 8 | rest[1], self._v5)
        elif kind == 13:
            pass  # PINGRESP: that something came is all that counts
        elif kind == 14 and self._v5:
            self._dismissed(rest[0] if rest else 0)
        elif not self._connected and kind != 2:
            self._break_off(ProtocolError(0x82, f"a packet of type {kind} before CONNACK"))
        else:
            if kind == 5 and len(rest) > 2 and rest[2] >= 0x80:
                first = 0x70  # refused: no PUBREL follows (4.3.3), paho's exchange ends here
            link = self._link
            try:
                code = self._client.take(first, rest)
            except Exception as error:  # noqa: BLE001 - MalformedPacket, or whatever a broken packet makes of paho
                self._break_off(ProtocolError(0x81, f"a packet of type {kind} that makes no sense ({error})"))
                return True
            if code and self._link is link is not None:
                self._break_off(ProtocolError(0x82, f"a packet of type {kind} out of place"))
        return self._link is None

    def _on_connect(self, _client: Any, _data: Any, flags: Any, reason: Any, props: Any) -> None:
        code = reason.value
        if code >= 0x80:
            self._refused(code, str(getattr(props, "ReasonString", "") or ""))
            return
        self._cancel_timer()
        self._connected = True
        self._v5_works = self._v5_works or self._v5
        if self._trying_older and not self._v5:
            self._trying_older = False
            self.log.warn("the broker closes the connection on MQTT 5: going on with 3.1.1")
        self._since = self.loop.now
        present = bool(flags.session_present)
        self.session.connected(present)
        keepalive = getattr(props, "ServerKeepAlive", None)
        self._link.keep_alive(self.params.keepalive if keepalive is None else keepalive * 1000)
        self._paho.limit_inflight(self._client, getattr(props, "ReceiveMaximum", 65_535))
        self.publisher.begin(
            self._link,
            self._client,
            v5=self._v5,
            max_qos=getattr(props, "MaximumQoS", 2),
            may_retain=bool(getattr(props, "RetainAvailable", 1)),
            max_packet=getattr(props, "MaximumPacketSize", 0),
        )
        numbered = self._v5 and bool(getattr(props, "SubscriptionIdentifierAvailable", 1))
        if self._plan is None or self._plan.v5 != self._v5 or self._plan.numbered != numbered:
            self._numbered = numbered
            self._make_plan()
        self._subscribe(session_present=present)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def _make_plan(self) -> None:
        memory = self._memory
        numbers = {name: one[1] for name, one in memory.filters.items() if one[1]} if memory is not None else {}
        self._plan = Subscriptions(self._triggers, v5=self._v5, numbered=self._numbered, identifiers=numbers)
        self._known = self._plan.known

    def _subscribe(self, *, session_present: bool) -> None:
        """Make the broker's subscriptions those of the plan."""
        if self._asked:
            self._again = True  # one question at a time
            return
        plan, memory = self._plan, self._memory
        assert plan is not None and memory is not None  # noqa: PT018, S101 - there is a connection
        wanted = {wire.filter: (wire.options, wire.identifier) for wire in plan.wires}
        had = memory.filters if session_present else {}
        trusted = session_present and memory.trusted
        remove = [name for name in had if name not in wanted]
        add = [wire for wire in plan.wires if not trusted or had.get(wire.filter) != wanted[wire.filter]]
        if not add and not remove:
            self._subscribed()
            return
        memory.keep({**had, **wanted}, False)
        self._granted = {name: one for name, one in had.items() if name in wanted}
        for name, one in self._paho.subscribe(self._client, add, self._v5, FILTERS_A_PACKET):
            self._asked[name] = one
        for name in self._paho.unsubscribe(self._client, remove, FILTERS_A_PACKET):
            self._asked[name] = []
        self._cancel_timer()
        self._timer = self.loop.call_later(ANSWER_MS, lambda: self._fail("the broker does not answer a SUBSCRIBE"))

    def _on_subscribe(self, _client: Any, _data: Any, mid: int, codes: Any, _props: Any) -> None:
        self._answered(mid, [code.value for code in codes])

    def _answered(self, mid: int, codes: list[int] | None) -> None:
        filters = self._asked.pop(mid, None)
        plan = self._plan
        if filters is None or plan is None:
            return
        for name, code in zip(filters, codes or (), strict=False):
            refused = code >= 0x80
            plan.refuse(name, refused)
            if refused:
                self._granted.pop(name, None)
                self._say_once(
                    f"suback {name}", "the broker refused a subscription", "topic", name, "reason", explain(code, v5=self._v5)
                )
            else:
                for wire in plan.wires:
                    if wire.filter == name:
                        self._granted[name] = (wire.options, wire.identifier)
        if not self._asked:
            self._cancel_timer()
            assert self._memory is not None  # noqa: S101 - there is a connection
            self._memory.keep(self._granted, True)
            if self._again:
                self._again = False
                self._subscribe(session_present=True)
            else:
                self._subscribed()

    def _subscribed(self) -> None:
        """All is as wanted: from the broker's side the source is open."""
        if self.state == "open":
            return
        birth = self.params.birth
        if birth is not None:
            self.publisher.send(birth.topic, birth.payload.encode(), birth.qos, birth.retain)
        if self._said and self._was_open:
            away = (self.loop.now - self._away_since) / 1000
            self.log.info_with("connected again", "after_s", round(away, 1), "attempts", self.attempts)
        else:
            self.log.info_with("connected", "url", self.url, "version", "5" if self._v5 else "3.1.1", "attempts", self.attempts)
        self._was_open = True
        self._set_state("open")

    # -- when it fails ------------------------------------------------------------------------------------------------

    def on_lost(self, why: str) -> None:
        """The connection has ended, by the link."""
        if self._v5 and not self._connected and not self._v5_works:
            self._early_closes += 1
        self._fail(why)

    def on_broken(self, error: Exception) -> None:
        """A packet was malformed, by the link."""
        self._uncounted -= 1  # it was not told, and counts as received
        self._reject("malformed")
        self._break_off(error)

    def _break_off(self, error: Exception) -> None:
        """Say what was wrong with a packet, as far as the protocol can say it, and close."""
        if self._link is not None:
            self._link.say_goodbye(getattr(error, "reason", 0x81))
        self._fail(f"the broker broke the protocol: {error}")

    def _dismissed(self, code: int) -> None:
        """A DISCONNECT of the broker."""
        if code == TAKEN_OVER:
            text = f"another client uses the client id {self.params.client_id}, and took the connection over"
            self._fail(text, TAKEN_OVER_PAUSE_MS)
        else:
            self._fail(f"the broker said goodbye: {explain(code, v5=True)}")

    def _refused(self, code: int, text: str) -> None:
        """A CONNACK that is a no."""
        if code == PROTOCOL_VERSION and self._v5 and not self._v5_works:
            self.log.warn("the broker does not speak MQTT 5: going on with 3.1.1")
            self._v5 = False
            self._drop_link()
            self._connect()
            return
        why = f"the broker refuses the connection: {explain(code, v5=True)}"
        self._fail(f"{why} ({text})" if text else why)

    def _fail(self, why: str, least_ms: int = 0) -> None:
        """The attempt or the connection is over; the next one comes."""
        now = self.loop.now
        if self._connected and now - self._since >= STABLE_MS:
            self.attempts = 0
        self._drop_link()
        if not self._opened:
            return
        if self.state == "open" or not self._said:
            self._away_since = now
            if self.state == "open":
                self._said.clear()
        self._say_once(why, "the broker is away, trying again", "url", self.url, "reason", why)
        self._choose_version()
        self._set_state("connecting")
        longest = min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << min(max(self.attempts - 1, 0), 16))
        pause = least_ms + int(random.random() * (least_ms or longest))  # noqa: S311 - spreads load, guards nothing
        self._timer = self.loop.call_later(pause, self._connect)

    def _choose_version(self) -> None:
        """A peer that hangs up on version 5 may be one that only knows 3.1.1; it is one if that works."""
        if self._trying_older:
            self._trying_older = False
            self._early_closes = 0
            self._v5 = True
        elif self._v5 and self._early_closes >= EARLY_CLOSES:
            self._trying_older = True
            self._v5 = False

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        self._cancel_timer()
        self._connected = False
        self._asked.clear()
        self._again = False
        self.publisher.end()
        self.session.disconnected()
        if link is not None:
            link.close()
            self._told += link.reader.told
            self._paho.forget_socket(self._client)

    # -- small things -------------------------------------------------------------------------------------------------

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self.host.state_changed(self)

    def _reject(self, reason: str) -> None:
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def _say_once(self, key: str, message: str, *pairs: Any) -> None:
        """Warn, but not twice of the same in one outage or connection."""
        if key not in self._said and len(self._said) < _SAID:
            self._said.add(key)
            self.log.warn_with(message, *pairs)

    def _note_refusal(self, message: str, code: int) -> None:
        self._say_once(f"puback {code}", message, "reason", explain(code, v5=True))
