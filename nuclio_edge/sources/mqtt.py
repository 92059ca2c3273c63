"""The MQTT source: one client at one broker, for ever; PUBLISH packets become events, settled events acknowledgements.

The source is what the processor and the triggers have of the parts:

    mqtt_connection  keeps the client at its broker      mqtt_connect  a thread that makes the connection
    mqtt_client      paho, without its socket            mqtt_link     reads and writes it on the loop
    mqtt_intake      what a PUBLISH becomes              mqtt_session  what is owed to the broker
    mqtt_subscribe   who gets a message                  mqtt_grants   what the broker is asked for
    mqtt_publish     what goes out                       mqtt_output   what functions return
    mqtt_memory      what a kept session knows           mqtt_version  5, or 3.1.1
    mqtt_outage      how long is waited, what is said    mqtt_culprit  the message that a broker does not survive
"""

from __future__ import annotations

from nuclio_edge.sources.mqtt_connection import Connection
from nuclio_edge.sources.mqtt_output import Output
from nuclio_edge.sources.mqtt_params import OUTPUT, PARAMS, TRIGGER
from nuclio_edge.sources.mqtt_publish import MqttBinding
from nuclio_edge.sources.mqtt_session import REPLY_ONLY, SHARED_REPLY, Shared

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.sources.mqtt_event import MqttEvent

USUAL_WINDOW = 20  # mosquitto's max_inflight_messages, which holds for MQTT 5 too


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
        self.log = host.log
        self.url: str = params.url
        self.content_type: str | None = params.content_type
        self.connection = Connection(name, params, host, lambda: host.state_changed(self))
        self.intake = self.connection.intake
        self.publisher = self.connection.publisher
        delivery = getattr(host, "delivery", None)
        if delivery is not None:
            self.publisher.keeper = delivery.keep(name, self.publisher)

    def routes(self, triggers: list[Trigger]) -> None:
        """The complete list of triggers from now on; filters are (un)subscribed as it takes."""
        self.connection.serve(triggers)

    def open(self) -> None:
        """Begin to connect, for ever."""
        self.connection.open()

    def stop_receiving(self) -> None:
        """Take no more events: what the broker still sends is not acknowledged, so that it can be sent again.

        A connection that is lost from now on is not made again.
        """
        self.intake.stop()

    def sent(self) -> bool:
        """Whether all that was published is with the broker, as far as there is one."""
        return self.connection.sent()

    def hand_over(self, successor: MqttSource) -> None:
        """Give what is still to be published to the source that takes this one's place; before `close`."""
        self.connection.successor = successor.publisher

    def close(self) -> None:
        """Publish the will's message, say goodbye, and let go of everything; idempotent."""
        self.connection.close()

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
    def state(self) -> str:
        """As the connection has it: "closed", "connecting" or "open"."""
        return self.connection.state

    @property
    def attempts(self) -> int:
        """Connections tried since the last good one."""
        return self.connection.outages.attempts

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
