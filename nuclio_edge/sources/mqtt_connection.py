"""The connection of a source to its broker, for ever: made, agreed upon, lost, and made again.

States: "closed" -> open() -> "connecting" -> "open" (the broker granted the subscriptions) -> "connecting" ... A broker
that is away, refuses or breaks the protocol is tried again for ever.
"""

from __future__ import annotations

import os.path

from nuclio_edge.core.mqtt_codec import ProtocolError
from nuclio_edge.sources.mqtt_connect import Connector, Target
from nuclio_edge.sources.mqtt_culprit import ABOUT_A_MESSAGE
from nuclio_edge.sources.mqtt_grants import Grants
from nuclio_edge.sources.mqtt_intake import Intake
from nuclio_edge.sources.mqtt_link import Link
from nuclio_edge.sources.mqtt_memory import SessionMemory
from nuclio_edge.sources.mqtt_outage import CLOSED, FAILED, RESET, TAKEN, Outages
from nuclio_edge.sources.mqtt_params import parse_url
from nuclio_edge.sources.mqtt_publish import PASSING, Publisher
from nuclio_edge.sources.mqtt_reasons import PROTOCOL_VERSION, REFUSAL, TAKEN_OVER, explain, no_broker
from nuclio_edge.sources.mqtt_subscribe import Subscriptions
from nuclio_edge.sources.mqtt_version import Version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.loop import Timer
    from nuclio_edge.manifest.schema import Values

ANSWER_MS = 10_000  # for CONNACK and SUBACK: a broker that takes longer is none
_PUBREC, _PUBREL, _PINGREQ, _PINGRESP, _DISCONNECT, _CONNACK = 5, 6, 12, 13, 14, 2


class Connection:
    """The one of a source; it has a link at a time, whose sink it is, or none. Loop thread only.

    What comes goes to the `intake`, what is to go out is the `publisher`'s: they outlast any link. At each new `state`
    `changed()` is called.
    """

    def __init__(self, name: str, params: Values, host: Any, changed: Callable[[], Any]) -> None:
        self.name = name
        self.params = params
        self.host = host
        self.loop = host.loop
        self.log = host.log
        self.state = "closed"
        self.fast = True  # False: read and write by stock paho
        self.successor: Publisher | None = None  # who publishes what is left, after `close`
        scheme, hostname, port, path = parse_url(params.url)
        self._changed = changed
        self._target = Target(scheme, hostname, port, path, params)
        self._version = Version(v5=params.version != 3)
        self._triggers: list[Trigger] = []
        self._paho: Any = None  # the module mqtt_client
        self._client: Any = None
        self._client_v5 = False
        self._link: Any = None
        self._connector: Connector | None = None
        self._timer: Timer | None = None  # the next attempt, or the deadline of an answer
        self._grants: Grants | None = None
        self._opened = False
        self._connected = False  # CONNACK has come
        self._ponged = False
        self.outages = Outages(self.log, params.url, params.client_id)
        self.intake = Intake(self.loop, self._write, self._break_off, self.outages.say_once)
        self.publisher = Publisher(self.loop, self.log, self.outages.say_once)

    def serve(self, triggers: list[Trigger]) -> None:
        """The complete list of triggers from now on; filters are (un)subscribed as it takes."""
        self._triggers = list(triggers)
        plan = self.intake.plan
        if plan is not None:
            self._make_plan(plan.v5, plan.numbered)
            if self._connected:
                self._subscribe(session_present=True)

    def open(self) -> None:
        """Begin to connect, for ever."""
        if self._opened:
            return
        self._opened = True
        self._load_paho()
        path = os.path.join(self.host.state_dir, f"mqtt-{self.name}.json")
        owner = f"{self.params.client_id} at {self._target.host}:{self._target.port}"
        memory = SessionMemory(path, owner, self.log.warn)
        self._grants = Grants(memory, self._paho, self.outages.say_once, self._subscribed)
        self._set_state("connecting")
        self._connect()

    def sent(self) -> bool:
        """Whether all that was published is with the broker, as far as there is one."""
        return self._link is None or not (self.publisher.waiting or self._link.queued)

    def close(self) -> None:
        """Publish the will's message, say goodbye, and let go of everything; idempotent."""
        if not self._opened:
            self.publisher.close(self.successor)
            return
        self._opened = False
        self.intake.stop()
        self._cancel_timer()
        if self._connector is not None:
            self._connector.abort()
            self._connector = None
        if self._connected:
            self.publisher.take()
            self.intake.session.flush()
            will = self.params.will
            if will is not None:
                self.publisher.farewell(will)
            if self._link is not None:
                self._link.say_goodbye()
        self._drop_link()
        self.publisher.close(self.successor)
        self._set_state("closed")

    # -- making a connection ------------------------------------------------------------------------------------------

    def _load_paho(self) -> None:
        from nuclio_edge.sources import mqtt_client

        self._paho = mqtt_client
        lost = mqtt_client.missing() if self.fast else []
        if lost:
            self.fast = False
            text = "this paho-mqtt is not the one that the fast path knows: its own, slower reading is used"
            self.log.warn_with(text, "missing", ", ".join(lost))

    def _connect(self) -> None:
        self._timer = None
        self.outages.attempts += 1
        self._connector = Connector(self._target, self.loop.post, self._made)

    def _made(self, sock: Any, why: str) -> None:
        self._connector = None
        if sock is None:
            self._fail(f"cannot connect: {why}")
            return
        try:
            if self._client is None or self._client_v5 != self._version.v5:
                self._make_client()
        except ValueError as error:  # a user name that is not UTF-8, a will that cannot be said
            sock.close()
            self._fail(f"cannot connect: {error}")
            return
        max_packet = self.params.max_packet
        if self.fast:
            aliases = self._paho.ALIASES if self._version.v5 else 0
            self._link = Link(self.loop, sock, self, v5=self._version.v5, max_packet=max_packet, alias_max=aliases)
        else:
            from nuclio_edge.sources.mqtt_stock import StockLink

            self._link = StockLink(self.loop, sock, self, self._client, v5=self._version.v5, max_packet=max_packet)
        self.intake.attach(self._link)
        self._client.handed = sock
        self._timer = self.loop.call_later(ANSWER_MS, lambda: self._fail(f"no answer within {ANSWER_MS // 1000} s"))
        try:
            self._client.reconnect()
        except (OSError, ValueError) as error:
            self._fail(f"cannot connect: {error}")

    def _make_client(self) -> None:
        made = self._paho.make(self.params, self._target, self._version.v5, self.fast, self._write)
        made.on_connect = self._on_connect
        made.on_subscribe = lambda _c, _d, mid, codes, _p: self._answered(mid, [code.value for code in codes])
        made.on_unsubscribe = lambda _c, _d, mid, _codes, _p: self._answered(mid, [])
        made.on_publish = lambda _c, _d, mid, reason, _p: self.publisher.acknowledged(mid, reason.value)
        self._client = made
        self._client_v5 = self._version.v5
        self.publisher.use(made, v5=self._version.v5)

    def _write(self, data: bytes) -> None:
        if self._link is not None:
            self._link.write(data)

    def _on_connect(self, _client: Any, _data: Any, flags: Any, reason: Any, props: Any) -> None:
        if reason.value >= REFUSAL:
            self._refused(reason.value, str(getattr(props, "ReasonString", "") or ""))
            return
        self._cancel_timer()
        self._connected = True
        if self._version.connected():
            self.log.warn("the broker hangs up on MQTT 5: going on with 3.1.1")
        self.outages.connected(self.loop.now)
        present = bool(flags.session_present)
        self.intake.session.connected(session_present=present)
        keepalive = self.params.keepalive
        # The broker's is a maximum; 0 is no wish of its own, and a connection that died without a word must be noticed.
        self._link.keep_alive(min(keepalive, getattr(props, "ServerKeepAlive", 0) * 1000 or keepalive))
        self._ponged = not self.fast
        if self.publisher.outbox.suspects:
            self._link.ping()
        self.publisher.begin(
            self._link,
            session_present=present,
            max_qos=getattr(props, "MaximumQoS", 2),
            may_retain=bool(getattr(props, "RetainAvailable", 1)),
            max_packet=getattr(props, "MaximumPacketSize", 0),
            window=getattr(props, "ReceiveMaximum", 65_535),
        )
        assert self._grants is not None  # noqa: S101 - it is open
        self._grants.shared = bool(getattr(props, "SharedSubscriptionAvailable", 1))
        self._grants.wildcards = bool(getattr(props, "WildcardSubscriptionAvailable", 1))
        numbered = self._version.v5 and bool(getattr(props, "SubscriptionIdentifierAvailable", 1))
        plan = self.intake.plan
        if plan is None or plan.v5 != self._version.v5 or plan.numbered != numbered:
            self._make_plan(self._version.v5, numbered)
        self._subscribe(session_present=present)

    # -- subscriptions ------------------------------------------------------------------------------------------------

    def _make_plan(self, v5: bool, numbered: bool) -> None:
        assert self._grants is not None  # noqa: S101 - it is open
        plan = Subscriptions(self._triggers, v5=v5, numbered=numbered, identifiers=self._grants.identifiers)
        self.intake.follow(plan)
        for name in plan.mixed if self.params.version != 3 else ():  # of version 3 `check` has told
            text = "without MQTT 5 nothing tells a shared subscription from a filter that overlaps it: it runs for both"
            self.outages.say_once(f"mixed {name}", text, "topic", name)

    def _subscribe(self, *, session_present: bool) -> None:
        assert self._grants is not None and self.intake.plan is not None  # noqa: PT018, S101 - there is a connection
        self._cancel_timer()
        self._grants.ask(self._client, self.intake.plan, session_present=session_present)
        self._await_answers()

    def _await_answers(self) -> None:
        if self._grants is not None and self._grants.waiting and self._timer is None:
            self._timer = self.loop.call_later(ANSWER_MS, self._unanswered)

    def _unanswered(self) -> None:
        self._timer = None
        if self._link is not None and self._link.paused:
            self._await_answers()  # what the broker said lies unread
        else:
            self._fail("no answer to a SUBSCRIBE")

    def _answered(self, mid: int, codes: list[int]) -> None:
        if self._grants is not None:
            self._cancel_timer()
            self._grants.answered(mid, codes)
            self._await_answers()

    def _subscribed(self) -> None:
        """All is as wanted: from the broker's side the source is open."""
        self._cancel_timer()
        if self.state == "open":
            return
        birth = self.params.birth
        if birth is not None:
            self.publisher.send(birth.topic, birth.payload.encode(), birth.qos, birth.retain, (), PASSING)
        self.outages.over(self.loop.now, "5" if self._version.v5 else "3.1.1")
        self._set_state("open")

    # -- packets, by the link -----------------------------------------------------------------------------------------

    @property
    def on_publish(self) -> Any:
        """A PUBLISH is the intake's."""
        return self.intake.on_publish

    @property
    def on_oversize(self) -> Any:
        """So is one that was too big."""
        return self.intake.on_oversize

    def on_packet(self, first: int, rest: bytes) -> Any:
        """A packet that is no PUBLISH: paho's, but for those whose state is ours."""
        self.intake.uncounted += 1
        kind = first >> 4
        if kind == _PINGRESP:
            self._ponged = True
            return False
        if self._connected == (kind == _CONNACK) or kind == _PINGREQ:
            what = f"a packet of type {kind} out of place" if self._connected else no_broker(first)
            self._break_off(ProtocolError(0x82, what))
        elif kind == _CONNACK and self._version.v5 and rest == b"\0\0":  # as of 3.1.1: it took no notice of the version
            self._refused(PROTOCOL_VERSION, "")
        elif kind == _PUBREL:
            if len(rest) < 2:
                self._break_off(ProtocolError(0x81, "a PUBREL cut short"))
            else:
                self.intake.session.released(rest[0] << 8 | rest[1], v5=self._version.v5)
        elif kind == _DISCONNECT and self._version.v5:
            self._dismissed(rest[0] if rest else 0)
        else:
            if kind == _PUBREC and len(rest) > 2 and rest[2] >= REFUSAL:
                first = 0x40  # refused: no PUBREL follows (4.3.3); to paho it ends like one of QoS 1
            link = self._link
            try:
                code = self._client.take(first, rest)
            except Exception as error:  # noqa: BLE001 - MalformedPacket, or whatever a broken packet makes of paho
                self._break_off(ProtocolError(0x81, f"a packet of type {kind} that makes no sense ({error})"))
                return True
            if code and self._link is link:
                self._break_off(ProtocolError(0x82, f"a packet of type {kind} out of place"))
        return self._link is None

    def on_lost(self, why: str, how: str) -> None:
        """The connection has ended; `how` as mqtt_outage has it."""
        if not self._connected and how in (CLOSED, RESET):
            self._version.closed_early()
            why = f"cannot connect: {why[0].lower()}{why[1:]} before it answered"
            if self._target.tls is None:
                why += f"; if port {self._target.port} wants TLS, write mqtts:// in url"
        self._fail(why, how, blamed=how in (CLOSED, RESET))

    def on_broken(self, error: Exception) -> None:
        """A packet was malformed: it was not told, and counts as received; but for what was to be a CONNACK."""
        if self._connected:
            self.intake.uncounted -= 1
            self.intake.reject("malformed")
        self._break_off(error)

    # -- when it fails ------------------------------------------------------------------------------------------------

    def _break_off(self, error: Exception) -> None:
        """Say what was wrong with a packet, as far as the protocol can say it, and close."""
        if self._link is not None:
            self._link.say_goodbye(getattr(error, "reason", 0x81))
        self._fail(f"the broker broke the protocol: {error}")

    def _dismissed(self, code: int) -> None:
        """A DISCONNECT of the broker."""
        if code == TAKEN_OVER:
            text = f"another client uses the client id {self.params.client_id}, and took the connection over"
            self._fail(text, TAKEN)
        else:
            self._fail(f"the broker said goodbye: {explain(code, v5=True)}", blamed=code in ABOUT_A_MESSAGE)

    def _refused(self, code: int, text: str) -> None:
        """A CONNACK that is a no."""
        if code == PROTOCOL_VERSION and self._version.refused():
            self.log.warn("the broker does not speak MQTT 5: going on with 3.1.1")
            self._drop_link()
            self._connect()
            return
        why = f"the broker refuses the connection: {explain(code, v5=True)}"
        self._fail(f"{why} ({text})" if text else why)

    def _fail(self, why: str, how: str = FAILED, *, blamed: bool = False) -> None:
        """The attempt or the connection is over, `blamed` perhaps on a message of ours; the next one comes."""
        connected = self._connected
        topic = self._drop_link(blamed=blamed)
        if not self._opened:
            return
        if not self.intake.receiving:
            # At a stop or a reload: another one may have taken our client id on purpose, and must not be thrown out.
            self._set_state("closed")
            return
        if topic:
            why, how = f"{why}, with a message to {topic} unanswered", FAILED
        was_open = self.state == "open"
        pause = self.outages.pause(self.loop.now, why, how, connected=connected, was_open=was_open)
        self._version.failed()
        self._set_state("connecting")
        self._timer = self.loop.call_later(pause, self._connect)

    def _drop_link(self, *, blamed: bool = False) -> str:
        """Let go of the connection; the topic of the message that it ended at, or nothing."""
        link, self._link = self._link, None
        self._cancel_timer()
        self._connected = False
        self.intake.link = None
        if self._grants is not None:
            self._grants.lost(closed=blamed)
        topic = self.publisher.end(closed=blamed, proven=self._ponged)
        self.intake.session.disconnected()
        if link is not None:
            link.close()
            self._paho.forget_socket(self._client)
        return topic

    # -- small things -------------------------------------------------------------------------------------------------

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_state(self, state: str) -> None:
        if state != self.state:
            self.state = state
            self._changed()
