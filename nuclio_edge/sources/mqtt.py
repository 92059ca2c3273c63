"""The MQTT source: one client at one broker, for ever; PUBLISH packets become events, settled events acknowledgements.

    mqtt_connect    a thread makes the connection       mqtt_client     paho, without its socket
    mqtt_link       reads and writes it on the loop     mqtt_intake     what a PUBLISH becomes
    mqtt_session    what is owed to the broker          mqtt_publish    what goes out
    mqtt_subscribe  who gets a message                  mqtt_grants     what the broker is asked for
    mqtt_output     what functions return
    mqtt_memory     what a kept session knows           mqtt_version    5, or 3.1.1
    mqtt_outage     how long is waited, what is said    mqtt_culprit    the message that a broker does not survive

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
from nuclio_edge.sources.mqtt_output import Output
from nuclio_edge.sources.mqtt_params import OUTPUT, PARAMS, TRIGGER, parse_url
from nuclio_edge.sources.mqtt_publish import PASSING, MqttBinding, Publisher
from nuclio_edge.sources.mqtt_reasons import PROTOCOL_VERSION, REFUSAL, TAKEN_OVER, explain, no_broker
from nuclio_edge.sources.mqtt_session import REPLY_ONLY, SHARED_REPLY, Shared
from nuclio_edge.sources.mqtt_subscribe import Subscriptions
from nuclio_edge.sources.mqtt_version import Version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.loop import Timer
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.sources.mqtt_event import MqttEvent

USUAL_WINDOW = 20  # mosquitto's max_inflight_messages, which holds for MQTT 5 too
ANSWER_MS = 10_000  # for CONNACK and SUBACK: a broker that takes longer is none
_PUBREC, _PUBREL, _PINGREQ, _PINGRESP, _DISCONNECT, _CONNACK = 5, 6, 12, 13, 14, 2


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
        self.fast = True  # False: read and write by stock paho
        scheme, hostname, port, path = parse_url(params.url)
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
        self._successor: Publisher | None = None
        self._opened = False
        self._connected = False  # CONNACK has come
        self._ponged = False
        self.outages = Outages(self.log, self.url, params.client_id)
        self.intake = Intake(self.loop, self._write, self._break_off, self.outages.say_once)
        self.publisher = Publisher(self.loop, self.log, self._note_refusal)
        delivery = getattr(host, "delivery", None)
        if delivery is not None:
            self.publisher.keeper = delivery.keep(name, self.publisher)

    # -- what the processor calls -------------------------------------------------------------------------------------

    def routes(self, triggers: list[Trigger]) -> None:
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

    def stop_receiving(self) -> None:
        """Take no more events: what the broker still sends is not acknowledged, so that it can be sent again.

        A connection that is lost from now on is not made again.
        """
        self.intake.stop()

    def sent(self) -> bool:
        """Whether all that was published is with the broker, as far as there is one."""
        return self._link is None or not (self.publisher.waiting or self._link.queued)

    def hand_over(self, successor: MqttSource) -> None:
        """Give what is still to be published to the source that takes this one's place; before `close`."""
        self._successor = successor.publisher

    def close(self) -> None:
        """Publish the will's message, say goodbye, and let go of everything; idempotent."""
        if not self._opened:
            self.publisher.close(self._successor)
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
                self.publisher.send(will.topic, will.payload.encode(), will.qos, will.retain, (), PASSING)
            if self._link is not None:
                self._link.say_goodbye()
        self._drop_link()
        self.publisher.close(self._successor)
        self._set_state("closed")

    def binding(self, context: Context) -> MqttBinding:
        """What a handler finds under the source's name."""
        return MqttBinding(self.publisher, context)

    def output(self, params: Values) -> Callable[[Response, Event], Any]:
        """What an output's answers are given to."""
        return Output(self.publisher, params).send

    def send(self, output: Values, response: Response, _event: Event) -> None:
        """An output: the response's body to the output's topic."""
        self.publisher.output(output, response)

    def settle(self, event: MqttEvent, response: Response | None, _error: BaseException | None) -> None:
        """Acknowledge a delivery once all its functions have settled, and answer a request."""
        if not event._props and type(event._token) is int:
            self.intake.session.settle(event)
            return
        if event._props:
            self.answer(event, response)
        self.intake.settle(event)

    def settle_many(self, events: list[MqttEvent]) -> list[MqttEvent]:
        """Settle events whose handlers returned None; returns those that have to be settled one by one."""
        return self.intake.session.settle_many(events)

    def answer(self, event: MqttEvent, response: Response | None) -> None:
        """Answer a request, if the event is one."""
        if b"\x08" in event._props and event.response_topic:
            token: Any = event._token
            alone = type(token) is not Shared and token is not SHARED_REPLY
            self.publisher.reply(event, response, alone=alone)

    @property
    def acknowledge(self) -> Callable[[Any], Any]:
        """What acknowledges a delivery of one function, and answers nobody."""
        return self.intake.session.settle

    def stored(self, event: MqttEvent) -> None:
        """The event is on disk: acknowledge it, whatever comes of it. Its token says what is still to be done then."""
        token: Any = event._token
        self.intake.settle(event)
        if event._token == -1:
            self.intake.session.part(event)
        asked = event._props and b"\x08" in event._props and event.response_topic
        event._token = (
            (SHARED_REPLY if token is SHARED_REPLY or type(token) is Shared else REPLY_ONLY) if asked else None
        )

    @property
    def window(self) -> int:
        """Unacknowledged deliveries that the broker may have at us: ours, or the usual window of a broker."""
        return min(int(self.params.receive_maximum), USUAL_WINDOW)

    @property
    def attempts(self) -> int:
        """Connections tried since the last good one."""
        return self.outages.attempts

    @property
    def received(self) -> int:
        """PUBLISH packets that were new: neither repeated deliveries nor further copies."""
        return self.intake.received

    @property
    def routed(self) -> int:
        """Those that became events."""
        return self.intake.routed

    @property
    def unrouted(self) -> int:
        """Those that no trigger's filter matches; they are acknowledged."""
        return self.intake.unrouted

    @property
    def rejected(self) -> dict[str, int]:
        """Those that became no event, by reason: too-big, malformed, bad-topic, stopping."""
        return self.intake.rejected

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

    def _subscribe(self, *, session_present: bool) -> None:
        assert self._grants is not None and self.intake.plan is not None  # noqa: PT018, S101 - there is a connection
        self._cancel_timer()
        self._grants.ask(self._client, self.intake.plan, session_present=session_present)
        self._await_answers()

    def _await_answers(self) -> None:
        if self._grants is not None and self._grants.waiting and self._timer is None:
            self._timer = self.loop.call_later(ANSWER_MS, lambda: self._fail("no answer to a SUBSCRIBE"))

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
            why += " before it answered"
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
            self.host.state_changed(self)

    def _note_refusal(self, message: str, code: int) -> None:
        self.outages.say_once(f"puback {code}", message, "reason", explain(code, v5=True))
