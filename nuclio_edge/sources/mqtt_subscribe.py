"""Which filters are asked of the broker, and who gets a message: one Event for each function, however many copies come.

A broker may send a message once for all of a client's matching subscriptions, or once for each (MQTT 5, 3.3.4;
mosquitto does the latter). Therefore a filter that another one covers is not subscribed to; and where filters still
overlap, each of them has a subscription identifier, and a copy goes to those functions whose filter it was sent for.
Version 3.1.1 has no identifiers: there the copies of one message are told by standing next to each other, and by
coming together. In doubt it is another message: one that runs twice is better than one that is lost.
"""

from __future__ import annotations

from nuclio_edge.core.mqtt_properties import SUBSCRIPTION_ID, check_topic, unpack_properties
from nuclio_edge.core.router import TopicRouter, inner_filter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from nuclio_edge.core.inbox import Trigger

_CACHE = 4096  # topics
COPY_MS = 20  # between the reads of a message and of its copy, before version 5


class Wire:
    """One subscription as the broker has it. `options` are the options byte's QoS and no-local bits."""

    __slots__ = ("filter", "function", "identifier", "inner", "options", "overlaps", "refused")

    def __init__(self, topic_filter: str, options: int) -> None:
        self.filter = topic_filter
        self.inner = inner_filter(topic_filter).decode()
        self.options = options
        self.identifier = 0
        self.overlaps = False
        self.refused = False
        self.function = self  # what TopicRouter tells apart by

    @property
    def shared(self) -> bool:
        """Whether it is a shared subscription, whose messages other clients get too."""
        return self.filter.startswith("$share/")


class Split:
    """A topic whose messages come in copies: which triggers are meant by the copy of which subscription."""

    __slots__ = ("by_identifier", "copies", "triggers")

    def __init__(self, triggers: tuple[Trigger, ...], by_identifier: dict[int, list[Trigger]], copies: int) -> None:
        self.triggers = triggers
        self.by_identifier = by_identifier
        self.copies = copies

    def __len__(self) -> int:
        return 2  # whatever it holds, it is no simple case


class Subscriptions:
    """The plan for one set of triggers and one protocol version.

    Topics seen before are answered by `single`, where one trigger gets all their messages, or else by `known`.

    `identifiers` are those of filters that the broker's session may remember: a filter keeps its number.
    """

    def __init__(
        self, triggers: Iterable[Trigger], *, v5: bool, numbered: bool, identifiers: dict[str, int] | None = None
    ) -> None:
        self.v5 = v5
        self.numbered = numbered  # the broker takes subscription identifiers
        self.identifiers = dict(identifiers or {})
        self.single: dict[bytes, Trigger] = {}
        self.known: dict[bytes, Any] = {}  # topic -> tuple of triggers, or Split
        self._router = TopicRouter(1)
        self._wire_router = TopicRouter(1)
        self._wire_of: dict[str, Wire] = {}  # any filter -> the subscription that brings its messages
        self._last: Any = None  # 3.1.1: the last message of a Split, and how many copies of it may follow
        self._last_at = 0
        self._follow = 0
        self._merging = False
        wanted: dict[str, int] = {}
        for trigger in triggers:
            address = trigger.spec.address
            self._router.add(address.topic, trigger)
            options = address.qos | (4 if v5 and getattr(address, "no_local", False) else 0)
            before = wanted.get(address.topic)
            if before is None:
                wanted[address.topic] = options
            else:  # two triggers on one filter: the higher QoS, and no-local only if both say so
                wanted[address.topic] = max(before & 3, options & 3) | (before & options & 4)
        self.wires: list[Wire] = self._reduce(wanted)
        self._mark_overlaps()
        # Shared subscriptions whose functions also get what an overlapping filter brings: nothing tells the two apart.
        self.mixed = [] if numbered else _mixed(self.wires)

    def _reduce(self, wanted: dict[str, int]) -> list[Wire]:
        """The filters that no other one covers; before version 5 a covering one takes the higher QoS over."""
        wires = {text: Wire(text, options) for text, options in wanted.items()}
        covers = TopicRouter(1)
        for wire in wires.values():
            if not wire.shared and ("#" in wire.filter or "+" in wire.filter):
                covers.add(wire.filter, wire)  # type: ignore[arg-type]  # it has the `function` that is asked for
        kept: list[Wire] = []
        for wire in wires.values():
            best = wire
            if not wire.shared and not wire.options & 4:
                for found in covers.match(wire.filter.encode()):
                    other: Any = found
                    if other is wire or other.options & 4 or not _covers(other.filter, best.filter):
                        continue
                    if not self.numbered:
                        other.options = max(other.options, wire.options)
                    if other.options >= wire.options & 3:
                        best = other
            self._wire_of[wire.filter] = best
            if best is wire:
                kept.append(wire)
        for text, wire in self._wire_of.items():  # a cover may itself be covered
            while self._wire_of[wire.filter] is not wire:
                wire = self._wire_of[wire.filter]  # noqa: PLW2901 - the end of the chain
            self._wire_of[text] = wire
        return kept

    def _mark_overlaps(self) -> None:
        _mark_all(self.wires)
        overlapping = [wire for wire in self.wires if wire.overlaps]
        for wire in overlapping:
            self._wire_router.add(wire.filter, wire)  # type: ignore[arg-type]  # as above
        self._overlapping = bool(overlapping)
        if self.numbered:
            number = max(self.identifiers.values(), default=0)
            for wire in overlapping:
                if wire.filter not in self.identifiers:
                    number += 1
                    self.identifiers[wire.filter] = number
                wire.identifier = self.identifiers[wire.filter]
        else:
            # Copies of one QoS come next to each other; of two, one may overtake the other.
            highest = max((wire.options & 3 for wire in overlapping), default=0)
            for wire in overlapping:
                wire.options = wire.options & 4 | highest

    def begin(self) -> None:
        """Another connection: what was still to follow on the last one does not."""
        self._follow = 0

    def told(self, at: int) -> None:
        """A message was handed on by then: a copy of it may have waited for that, as long as its handler took."""
        self._last_at = at

    def refuse(self, topic_filter: str, *, refused: bool) -> None:
        """The broker granted a filter or not: messages for one that it refused come by others that match, if any."""
        for wire in self.wires:
            if wire.filter == topic_filter and wire.refused != refused:
                wire.refused = refused
                self._forget()

    def resolve(self, topic: bytes) -> Any:
        """The triggers of a topic seen for the first time: a tuple, or a Split. ProtocolError when it is no topic."""
        check_topic(topic)
        found: Any = self._router.match(topic)
        if found and self._overlapping:
            wires: list[Any] = [wire for wire in self._wire_router.match(topic) if not wire.refused]  # type: ignore[attr-defined]
            if len(wires) > 1:
                found = self._split(found, wires)
        if len(self.known) + len(self.single) >= _CACHE:
            self._forget()
        if type(found) is tuple and len(found) == 1:
            self.single[topic] = found[0]
        else:
            self.known[topic] = found
        return found

    def _forget(self) -> None:
        self.known.clear()
        self.single.clear()

    def _split(self, triggers: tuple[Trigger, ...], wires: list[Wire]) -> Split:
        by_identifier: dict[int, list[Trigger]] = {wire.identifier: [] for wire in wires}
        for trigger in triggers:
            wire = self._wire_of[trigger.spec.address.topic]
            if wire.refused or wire.identifier not in by_identifier:
                wire = wires[0]
            by_identifier[wire.identifier].append(trigger)
        return Split(triggers, by_identifier, len(wires))

    def pick(
        self, split: Split, topic: bytes, props: bytes, body: bytes, flags: int, at: int
    ) -> tuple[Trigger, ...] | None:
        """The triggers that this copy of a message, read `at`, is for; None when it is a copy that nobody needs."""
        if self.numbered:
            sent_for = [value for name, value in unpack_properties(props) if name == SUBSCRIPTION_ID]
            if not sent_for:  # a broker without identifiers: it has merged them, as far as one can tell
                return split.triggers
            picked = [trigger for number in sent_for for trigger in split.by_identifier.get(number, ())]
            return tuple(picked) or None
        if self._merging or flags & 9:  # retained ones come subscription by subscription, not side by side
            return split.triggers
        message = (topic, body)
        together = at - self._last_at <= COPY_MS
        self._last_at = at
        if self._follow and self._last == message:
            self._follow -= 1
            return None if together else split.triggers
        if self._follow and self._last[0] == topic:
            self._merging = True  # the copy that should have come did not
        self._last = message
        self._follow = split.copies - 1
        return split.triggers


def mixed(filters: Iterable[str]) -> list[str]:
    """Those filters of shared subscriptions that another one of the filters overlaps."""
    wires = [Wire(text, 0) for text in dict.fromkeys(filters)]
    _mark_all(wires)
    return _mixed(wires)


def _mixed(wires: list[Wire]) -> list[str]:
    return [wire.filter for wire in wires if wire.shared and wire.overlaps]


def _covers(wide: str, narrow: str) -> bool:
    """Whether every topic that `narrow` matches is matched by `wide` (MQTT 5, 4.7)."""
    if narrow[:1] == "$" and wide[:1] in ("+", "#"):
        return False
    ours = wide.split("/")
    theirs = narrow.split("/")
    for at, level in enumerate(ours):
        if level == "#":
            return len(theirs) >= at
        if at >= len(theirs) or theirs[at] == "#" or level not in ("+", theirs[at]):
            return False
    return len(ours) == len(theirs)


def _mark_all(wires: list[Wire]) -> None:
    _mark([(wire.inner.split("/"), wire) for wire in wires], 0)


def _mark(group: list[tuple[list[str], Wire]], depth: int) -> None:
    """Mark the filters of a group, alike so far, that share a topic with another one: by level, not in pairs."""
    if len(group) < 2:
        return
    literal: dict[str, list[tuple[list[str], Wire]]] = {}
    plus, rest, ended = [], [], []
    for one in group:
        level = one[0][depth] if depth < len(one[0]) else None
        if level is None:
            ended.append(one)
        elif level == "#":
            rest.append(one)
        elif level == "+":
            plus.append(one)
        else:
            literal.setdefault(level, []).append(one)
    reserved = [literal.pop(level) for level in list(literal) if level[:1] == "$"] if depth == 0 else []
    for alike in reserved:  # no wildcard of the first level matches them
        _mark(alike, 1)
    if rest:
        others = sum(map(len, literal.values())) + len(plus) + len(ended)
        if len(rest) + others > 1:
            for _, wire in (*rest, *plus, *ended, *(one for alike in literal.values() for one in alike)):
                wire.overlaps = True
        return
    if len(ended) > 1:
        for _, wire in ended:
            wire.overlaps = True
    for alike in literal.values():
        _mark(alike + plus, depth + 1)
    _mark(plus, depth + 1)
