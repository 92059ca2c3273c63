"""Making the broker's subscriptions those that are wanted: what is asked for, what is granted and remembered."""

from __future__ import annotations

from nuclio_edge.sources.mqtt_reasons import REFUSAL, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.sources.mqtt_memory import Filters, SessionMemory
    from nuclio_edge.sources.mqtt_subscribe import Subscriptions

FILTERS_A_PACKET = 8  # AWS IoT takes no more


class Grants:
    """One dialogue of SUBSCRIBE and UNSUBSCRIBE at a time; `done()` is called when the broker has what is wanted.

    A session that the broker kept is trusted only if it acknowledged exactly what the memory says; else everything is
    asked for again, which does no harm: in MQTT 5 with retain handling 1, so that retained messages do not come again.
    """

    def __init__(self, memory: SessionMemory, paho: Any, say: Callable[..., Any], done: Callable[[], Any]) -> None:
        self.memory = memory
        self.waiting = False
        self._paho = paho
        self._say = say
        self._done = done
        self._plan: Subscriptions | None = None
        self._asked: dict[int, list[str]] = {}  # message id -> the filters of a SUBSCRIBE; [] of an UNSUBSCRIBE
        self._granted: Filters = {}
        self._next: tuple[Any, Subscriptions] | None = None  # the plan changed while the broker was being asked

    @property
    def identifiers(self) -> dict[str, int]:
        """The subscription identifiers that the broker's session may know."""
        return {name: number for name, (_, number) in self.memory.filters.items() if number}

    def ask(self, client: Any, plan: Subscriptions, *, session_present: bool) -> None:
        """Ask for what is missing, give up what is not wanted any more."""
        if self.waiting:
            self._next = (client, plan)
            return
        self._plan = plan
        memory = self.memory
        wanted = {wire.filter: (wire.options, wire.identifier) for wire in plan.wires}
        had = memory.filters if session_present else {}
        trusted = session_present and memory.trusted
        add = [wire for wire in plan.wires if not trusted or had.get(wire.filter) != wanted[wire.filter]]
        remove = [name for name in had if name not in wanted]
        if not add and not remove:
            self._done()
            return
        self._granted = {name: one for name, one in had.items() if name in wanted}
        memory.keep({**had, **wanted}, trusted=False)
        self.waiting = True
        for mid, names in self._paho.subscribe(client, add, plan.v5, FILTERS_A_PACKET):
            self._asked[mid] = names
        for mid in self._paho.unsubscribe(client, remove, FILTERS_A_PACKET):
            self._asked[mid] = []
        if not self._asked:
            self.waiting = False  # the connection went while it was asked

    def answered(self, mid: int, codes: list[int]) -> None:
        """A SUBACK or UNSUBACK has come."""
        plan = self._plan
        names = self._asked.pop(mid, None)
        if names is None or plan is None:
            return
        wires = {wire.filter: wire for wire in plan.wires}
        for name, code in zip(names, codes, strict=False):
            plan.refuse(name, refused=code >= REFUSAL)
            if code >= REFUSAL:
                self._granted.pop(name, None)
                why = explain(code, v5=plan.v5)
                self._say(f"suback {name}", "the broker refused a subscription", "topic", name, "reason", why)
            else:
                self._granted[name] = (wires[name].options, wires[name].identifier)
        if self._asked:
            return
        self.waiting = False
        self.memory.keep(self._granted, trusted=True)
        if self._next is not None:
            (client, plan), self._next = self._next, None
            self.ask(client, plan, session_present=True)
        else:
            self._done()

    def lost(self) -> None:
        """The connection is gone: no answer comes any more."""
        self._asked.clear()
        self._next = None
        self.waiting = False
