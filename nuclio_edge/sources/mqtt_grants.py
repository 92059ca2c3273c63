"""Making the broker's subscriptions those that are wanted: what is asked for, what is granted and remembered."""

from __future__ import annotations

from nuclio_edge.sources.mqtt_reasons import REFUSAL, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.sources.mqtt_memory import Filters, SessionMemory
    from nuclio_edge.sources.mqtt_subscribe import Subscriptions, Wire

FILTERS_A_PACKET = 8  # AWS IoT takes no more
LOSSES = 2  # connections closed instead of an answer, in a row: then each filter is asked for by itself
_UNANSWERED = 256
PROOFS = 3  # and one at which the broker closes so often is done without


class Grants:
    """One dialogue of SUBSCRIBE and UNSUBSCRIBE at a time; `done()` is called when the broker has what is wanted.

    A session that the broker kept is trusted only if it acknowledged exactly what the memory says; else everything is
    asked for again, which does no harm: in MQTT 5 with retain handling 1, so that retained messages do not come again.

    One filter that the broker does not grant costs no other one, also where it closes the connection at it (Azure IoT
    Hub does): the others are had without it, and it is asked for again, as the last one, at the next reconnect.
    """

    def __init__(self, memory: SessionMemory, paho: Any, say: Callable[..., Any], done: Callable[[], Any]) -> None:
        self.memory = memory
        self.waiting = False
        self.shared = True  # whether the broker has shared subscriptions, and those with wildcards
        self.wildcards = True
        self._paho = paho
        self._say = say
        self._done = done
        self._plan: Subscriptions | None = None
        self._asked: dict[int, list[str]] = {}  # message id -> the filters of a SUBSCRIBE; [] of an UNSUBSCRIBE
        self._granted: Filters = {}
        self._next: tuple[Any, Subscriptions] | None = None  # the plan changed while the broker was being asked
        self._client: Any = None
        self._queue: list[Wire] = []  # to be asked for one at a time
        self._losses = 0
        self._alone = False
        self._proofs: dict[str, int] = {}  # filter -> connections closed when it alone was asked for
        self._without: set[str] = set()  # filters that are done without

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
        self._client = client
        memory = self.memory
        wires = [wire for wire in plan.wires if self._may_be_asked(wire.filter, plan)]
        wanted = {wire.filter: (wire.options, wire.identifier) for wire in wires}
        had = memory.filters if session_present else {}
        trusted = session_present and memory.trusted
        add = [wire for wire in wires if not trusted or had.get(wire.filter) != wanted[wire.filter]]
        remove = [name for name in had if name not in wanted]
        if not add and not remove:
            self._done()
            return
        self._granted = {name: one for name, one in had.items() if name in wanted}
        memory.keep({**had, **wanted}, trusted=False)
        self.waiting = True
        self._alone = self._losses >= LOSSES or bool(self._proofs)
        if self._alone:
            self._queue = sorted(add, key=lambda wire: self._proofs.get(wire.filter, 0), reverse=True)
            add = [self._queue.pop()] if self._queue else []
        self._subscribe(add)
        for mid in self._paho.unsubscribe(client, remove, FILTERS_A_PACKET):
            self._asked[mid] = []
        if not self._asked:
            self.waiting = False  # the connection went while it was asked

    def answered(self, mid: int, codes: list[int]) -> None:
        """A SUBACK or UNSUBACK has come; a filter that it says nothing of is not granted."""
        plan = self._plan
        names = self._asked.pop(mid, None)
        if names is None or plan is None:
            return
        wires = {wire.filter: wire for wire in plan.wires}
        for name, code in zip(names, codes + [_UNANSWERED] * len(names), strict=False):
            wire = wires.get(name)
            self._proofs.pop(name, None)
            plan.refuse(name, refused=code >= REFUSAL)
            if code >= REFUSAL:
                self._granted.pop(name, None)
                self._refuse(name, "no answer" if code == _UNANSWERED else explain(code, v5=plan.v5))
            elif wire is not None:
                self._granted[name] = (wire.options, wire.identifier)
                if code < wire.options & 3:
                    text = "the broker grants a lower QoS than was asked for"
                    self._say(f"qos {name}", text, "topic", name, "asked", wire.options & 3, "granted", code)
        if not self._asked and self._queue:
            self._subscribe([self._queue.pop()])
        if not self._asked:
            self._finish()

    def lost(self, *, closed: bool = False) -> None:
        """The connection is gone, `closed` by the broker perhaps for what was asked: no answer comes any more."""
        if self.waiting and closed:
            self._losses += 1
            pending = [name for names in self._asked.values() for name in names]
            if len(pending) == 1 and self._alone:
                name = pending[0]
                self._proofs[name] = self._proofs.get(name, 0) + 1
                if self._proofs[name] >= PROOFS:
                    self._without.add(name)
        elif not self.waiting:
            self._losses = 0
            self._without.clear()  # the broker may have been mended; one more proof is enough if not
        self._asked.clear()
        self._queue = []
        self._next = None
        self.waiting = False

    def _finish(self) -> None:
        self.waiting = False
        self._losses = 0
        self.memory.keep(self._granted, trusted=True)
        if self._next is not None:
            (client, plan), self._next = self._next, None
            self.ask(client, plan, session_present=True)
        else:
            self._done()

    def _subscribe(self, wires: list[Wire]) -> None:
        assert self._plan is not None  # noqa: S101 - it is what is asked for
        for mid, names in self._paho.subscribe(self._client, wires, self._plan.v5, FILTERS_A_PACKET):
            self._asked[mid] = names

    def _may_be_asked(self, name: str, plan: Subscriptions) -> bool:
        """Whether asking does not end the connection; one that may not be asked for is refused here."""
        why = ""
        if name in self._without:
            why = "it closes the connection instead of an answer"
        elif not self.shared and name.startswith("$share/"):
            why = explain(0x9E, v5=True)
        elif not self.wildcards and ("#" in name or "+" in name):
            why = explain(0xA2, v5=True)
        if why:
            plan.refuse(name, refused=True)
            self._refuse(name, why)
        return not why

    def _refuse(self, name: str, why: str) -> None:
        self._say(f"suback {name}", "the broker refused a subscription", "topic", name, "reason", why)
