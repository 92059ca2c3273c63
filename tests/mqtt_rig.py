"""An MQTT source on a loop of its own thread, with triggers that keep their events until the test settles them."""

from __future__ import annotations

import queue
import threading
from _thread import get_ident
from typing import TYPE_CHECKING, Any

from nuclio_edge.core.encode import to_response
from nuclio_edge.core.inbox import Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.manifest.schema import values
from nuclio_edge.sources.mqtt import MqttSource
from nuclio_edge.sources.mqtt_params import PARAMS, TRIGGER
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nuclio_edge.core.event import Event
    from nuclio_edge.manifest.schema import Field, Values


def checked(fields: dict[str, Field], given: dict[str, Any]) -> Values:
    """The values of a table as the manifest would give them."""
    for key in given:
        assert key in fields, key
    return values(tuple(fields), {key: given.get(key, field.default) for key, field in fields.items()})


class Says:
    """A logger that keeps what it was told, as one line each."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda message, *pairs, **named: self.lines.append(
            name.partition("_")[0] + ": " + " ".join(str(part) for part in (message, *pairs, *named.items()))
        )


class Host:
    """What a source is given of the processor."""

    def __init__(self, loop: Loop, state_dir: Path) -> None:
        self.loop = loop
        self.log = Says()
        self.state_dir = str(state_dir)
        self.states: list[str] = []

    def state_changed(self, source: Any) -> None:
        """Keep the states in order."""
        self.states.append(source.state)


class Function:
    """The one attribute of a function that a source looks at: that it is itself."""

    def __init__(self, name: str) -> None:
        self.name = name


class Inbox(Trigger):
    """A trigger that keeps what is submitted, up to `room` events, and settles when the test says so."""

    __slots__ = ("events", "room", "taken")

    def __init__(
        self, function: Function, source: Any, loop: Loop, topic: str, qos: int = 0, room: int = 1 << 30, **more: Any
    ) -> None:
        spec = Spec(checked(TRIGGER, {"topic": topic, "qos": qos, **more}))
        super().__init__(function, source, loop, spec=spec)
        self.room = room
        self.events: list[Any] = []
        self.taken: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.submit = self._keep

    def _keep(self, event: Event) -> bool:
        if len(self.events) >= self.room:
            return False
        self.events.append(event)
        self.taken.put(event)
        return True


class Spec:
    """A TriggerSpec, as far as a source reads it."""

    content_type: str | None = None

    def __init__(self, address: Values) -> None:
        self.address = address


class Rig:
    """A source, its loop in a thread, and the triggers of the test. A context manager; leaves nothing behind."""

    def __init__(self, url: str, state_dir: Path, *, fast: bool = True, **params: Any) -> None:
        self.loop = Loop()
        self.loop.thread = get_ident()
        self.errors: list[BaseException] = []
        self.loop.on_error = lambda error, _call: self.errors.append(error)
        self.host = Host(self.loop, state_dir)
        self.source = MqttSource("broker", checked(PARAMS, {"url": url, "client_id": "rig", **params}), self.host)
        self.source.connection.fast = fast
        self.inboxes: list[Inbox] = []
        self._thread = threading.Thread(target=self.loop.run, name="loop")
        self._closed = False

    @property
    def log(self) -> str:
        """All that the source has logged."""
        return "\n".join(self.host.log.lines)

    def subscribe(self, topic: str, qos: int = 0, function: Function | None = None, **more: Any) -> Inbox:
        """Another trigger; before `open`."""
        inbox = Inbox(function or Function(f"f{len(self.inboxes)}"), self.source, self.loop, topic, qos, **more)
        self.inboxes.append(inbox)
        return inbox

    def open(self) -> Rig:
        """Start the loop and open the source."""
        self._thread.start()
        self.do(lambda: self.source.routes([*self.inboxes]))
        self.do(self.source.open)
        return self

    def __enter__(self) -> Rig:
        return self if self._thread.is_alive() else self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def do(self, call: Callable[[], Any]) -> Any:
        """Run on the loop's thread; its result."""
        done: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def run() -> None:
            try:
                done.put((call(), None))
            except BaseException as error:  # noqa: BLE001 - it belongs to the test
                done.put((None, error))

        self.loop.post(run)
        result, error = done.get(timeout=30)
        if error is not None:
            raise error
        return result

    def settle(self, event: Any, result: Any = None) -> None:
        """Settle an event as a runner does."""
        response = None if result is None else to_response(result)
        self.do(lambda: self.source.settle(event, response, None) if event._token is not None else None)

    def wait_open(self) -> Rig:
        """Wait for the broker to have granted the subscriptions."""
        wait_until(lambda: self.source.state == "open", lambda: f"open; the log says:\n{self.log}")
        return self

    def counts(self) -> tuple[int, int, int, int]:
        """received, routed, unrouted, rejected, read between two turns; they add up."""

        def read() -> tuple[int, int, int, int]:
            source = self.source
            found = source.received, source.routed, source.unrouted, sum(source.rejected.values())
            assert found[0] == sum(found[1:]), (found, source.rejected)
            return found

        return self.do(read)  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the source and the loop."""
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            self.do(self.source.close)
            self.loop.post(self.loop.stop)
            self._thread.join(30)
        self.loop.close()
        assert not self.errors, self.errors
