"""Dead letters: events that have failed for good, kept with the reason, to be looked at, sent again or dropped.

The payload of such a record: u8 version, u32 length of a JSON object, the object, the event as stored.py packs it.
"""

from __future__ import annotations

from nuclio_edge.core.port import json_bytes, json_loads

from .backlog import DEAD, EVENT
from .stored import Stored, marked, pack
from .token import UNTOLD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response

    from .delivery import Delivery

_VERSION = 1
_LONGEST = 2000  # characters of an error's text


class DeadLetter:
    """One of them as it is read. `about`: trigger, function, version, reason, error, status, attempts, at (ms)."""

    __slots__ = ("about", "id", "key", "record")

    def __init__(self, number: int, key: str, about: dict[str, Any], record: bytes) -> None:
        self.id = number
        self.key = key
        self.about = about
        self.record = record

    @property
    def event(self) -> Event:
        """The event, only to look at; UnreadableError."""
        return Stored(self.record).event(None)


class Mourner:
    """What a trigger that is not durable, with `dead_letter = true`, has in the place of its source and `submit`."""

    __slots__ = ("_failed", "delivery", "kind", "name", "real", "trigger", "wrapped")

    def __init__(self, delivery: Delivery, trigger: Trigger) -> None:
        self.delivery = delivery
        self.trigger = trigger
        self.real: Any = trigger.source
        self.name: str = self.real.name
        self.kind: str = self.real.kind
        self._failed = trigger.failed
        self.wrapped = trigger.submit
        trigger.source = self
        trigger.submit = self.submit

    def __getattr__(self, name: str) -> Any:
        """What else is asked of a source is the real one's to say."""
        return getattr(self.real, name)

    @property
    def origin(self) -> Any:
        """The source itself."""
        return self.real

    def submit(self, event: Event) -> bool:
        """Take an event; the trigger's `submit`."""
        if event._token is None:
            event._token = UNTOLD  # so that we hear what comes of it
        return self.wrapped(event)

    def settle(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """An event is concluded."""
        trigger = self.trigger
        if response is not None and trigger.failed != self._failed:
            trigger.failed -= 1
            trigger.dead_lettered += 1
            self.delivery.bury(self, event, response, error)
        else:
            self.tell(event, response, error)

    def let_go(self, event: Event) -> int:
        """Its record: there is none."""
        return 0

    def tell(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        """Let the source know."""
        if event._token is not UNTOLD:
            self.real.settle(event, response, error)


def pack_dead(
    trigger: Trigger, event: Event, response: Response, error: BaseException | None, reason: str, now: int
) -> bytes:
    """The record of an event that a handler failed at."""
    body = response.body if isinstance(response.body, bytes) else b""
    about = {
        "error": trigger.function.explain(error)[-_LONGEST:] if error else body.decode("utf-8", "replace")[:_LONGEST],
        "status": response.status_code,
        "attempts": event._attempt + 1,
    }
    return _pack(trigger, about, reason, now, b"".join(pack(event)))


def pack_raw(trigger: Trigger, record: bytes, reason: str, now: int, **more: Any) -> bytes:
    """The record of an event that is not to run: all that is known of it is its bytes."""
    return _pack(trigger, {"error": "", "status": 0, "attempts": 0, **more}, reason, now, record)


def _pack(trigger: Trigger, about: dict[str, Any], reason: str, now: int, record: bytes) -> bytes:
    function = trigger.function
    said = json_bytes({
        "trigger": trigger.ledger_id, "function": function.name, "version": getattr(function, "version", ""),
        "reason": reason, "at": now, **about,
    })  # fmt: skip
    return b"".join((bytes((_VERSION,)), len(said).to_bytes(4, "little"), said, record))


def unpack_dead(number: int, key: str, payload: bytes) -> DeadLetter:
    """The dead letter in a record; ValueError when it is none of this version."""
    size = int.from_bytes(payload[1:5], "little")
    if payload[:1] != bytes((_VERSION,)) or 5 + size > len(payload):
        raise ValueError("not a dead letter of this version")
    about = json_loads(payload[5 : 5 + size])
    if not isinstance(about, dict):
        raise ValueError("not a dead letter of this version")  # noqa: TRY004 - the caller looks for one error
    return DeadLetter(number, key, about, payload[5 + size :])


def all_of(spool: Any) -> list[DeadLetter]:
    """Every dead letter, oldest first."""
    found: list[DeadLetter] = []
    after = 0
    while True:
        records = spool.records(after, 1 << 20, DEAD)
        if not records:
            return found
        for one in records:
            after = one.id
            try:
                found.append(unpack_dead(one.id, one.key, one.payload))
            except ValueError:
                found.append(DeadLetter(one.id, one.key, {"reason": "unreadable", "trigger": one.key, "at": 0}, b""))


def send_again(spool: Any, letter: DeadLetter, done: Any = None) -> int:
    """Let a dead letter be an event of its trigger once more, with attempts anew; the id of its record."""
    number: int = spool.append(EVENT, letter.key, marked(letter.record, 0), done, settles=(letter.id,))
    spool.commit_soon()
    return number
