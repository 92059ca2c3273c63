"""Which filters are asked of the broker, and which functions each copy of a message is for."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from nuclio_edge.core.mqtt_codec import ProtocolError
from nuclio_edge.core.mqtt_properties import pack_properties
from nuclio_edge.sources import mqtt_subscribe
from nuclio_edge.sources.mqtt_subscribe import COPY_MS, Split, Subscriptions, mixed


class Named:
    """Anything with attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


def trigger(topic: str, qos: int = 0, function: Any = None, *, no_local: bool = False) -> Any:
    """A trigger, as far as a plan looks at it."""
    address = Named(topic=topic, qos=qos, no_local=no_local)
    return Named(function=function or Named(), spec=Named(address=address))


def plan(*triggers: Any, numbered: bool = True, v5: bool = True) -> Subscriptions:
    """A plan for these triggers."""
    return Subscriptions(triggers, v5=v5, numbered=numbered)


def wires(made: Subscriptions) -> dict[str, int]:
    """Filters and their options."""
    return {wire.filter: wire.options for wire in made.wires}


def test_filters_that_do_not_overlap_are_asked_for_as_they_are_without_identifiers() -> None:
    made = plan(trigger("a/+", 1), trigger("b/#", 0), trigger("c", 2), trigger("a/b/c"))
    assert wires(made) == {"a/+": 1, "b/#": 0, "c": 2, "a/b/c": 0}
    assert all(not wire.identifier for wire in made.wires)


def test_a_filter_that_another_one_covers_is_not_asked_for() -> None:
    made = plan(trigger("a/b", 1), trigger("a/#", 1), trigger("a/+/c", 0), trigger("#", 1))
    assert wires(made) == {"#": 1}
    assert len(made.resolve(b"a/b")) == 3


def test_a_covered_filter_of_a_higher_qos_keeps_its_own_subscription_where_copies_can_be_told_apart() -> None:
    assert wires(plan(trigger("a/b", 2), trigger("a/#", 0))) == {"a/b": 2, "a/#": 0}
    assert wires(plan(trigger("a/b", 2), trigger("a/#", 0), numbered=False)) == {"a/#": 2}


def test_a_filter_does_not_cover_what_it_does_not_match() -> None:
    assert wires(plan(trigger("#"), trigger("$SYS/#"), trigger("+/a"))) == {"#": 0, "$SYS/#": 0}
    assert set(wires(plan(trigger("a/+/#"), trigger("a/#")))) == {"a/#"}
    assert set(wires(plan(trigger("a/+"), trigger("a/#")))) == {"a/#"}
    assert set(wires(plan(trigger("+/b"), trigger("a/+")))) == {"+/b", "a/+"}
    assert set(wires(plan(trigger("$share/g/a"), trigger("a"), trigger("#")))) == {"$share/g/a", "#"}


def test_a_shared_subscription_is_mixed_with_what_overlaps_it_unless_subscriptions_have_numbers() -> None:
    filters = ["$share/g/t/x", "t/#", "$share/g/z", "$share/h/+", "$share/g/alone/x", "a"]
    assert mixed(filters) == ["$share/g/t/x", "$share/g/z", "$share/h/+"]
    triggers = [trigger(topic) for topic in filters]
    assert plan(*triggers, numbered=False).mixed == mixed(filters)
    assert plan(*triggers).mixed == []


def test_no_local_neither_covers_nor_is_covered() -> None:
    assert wires(plan(trigger("a/#", 1, no_local=True), trigger("a/b", 1))) == {"a/#": 5, "a/b": 1}
    assert wires(plan(trigger("a/#", 1), trigger("a/b", 1, no_local=True))) == {"a/#": 1, "a/b": 5}
    assert wires(plan(trigger("a", 0, no_local=True), trigger("a", 1))) == {"a": 1}


def test_each_copy_goes_to_the_functions_whose_filter_it_was_sent_for() -> None:
    one, two = trigger("a/+"), trigger("+/b")
    made = plan(one, two)
    split = made.resolve(b"a/b")
    assert isinstance(split, Split)
    first, second = (pack_properties([(11, wire.identifier)]) for wire in made.wires)
    assert made.pick(split, b"a/b", first, b"", 0, 0) == (one,)
    assert made.pick(split, b"a/b", second, b"", 0, 0) == (two,)
    assert made.pick(split, b"a/b", first + second, b"", 0, 0) == (one, two)  # a broker that sends it once
    assert made.pick(split, b"a/b", b"", b"", 0, 0) == (one, two)  # a broker that tells nothing
    assert made.pick(split, b"a/b", pack_properties([(11, 77)]), b"", 0, 0) is None  # of a filter that we gave up
    assert made.resolve(b"a/c") == (one,)


def test_a_refused_filter_gets_its_messages_by_another_one_that_matches() -> None:
    one, two = trigger("a/+"), trigger("+/b")
    made = plan(one, two)
    made.refuse("+/b", refused=True)
    assert made.resolve(b"a/b") == (one, two)
    made.refuse("+/b", refused=False)
    assert isinstance(made.resolve(b"a/b"), Split)


def test_identifiers_stay_with_their_filters() -> None:
    first = plan(trigger("a/+"), trigger("+/b"))
    again = Subscriptions(
        [trigger("x/+"), trigger("+/y"), trigger("+/b")], v5=True, numbered=True, identifiers=first.identifiers
    )
    numbers = {wire.filter: wire.identifier for wire in again.wires}
    assert numbers["+/b"] == first.identifiers["+/b"]
    assert len(set(numbers.values()) | set(first.identifiers.values())) == 4


def test_copies_side_by_side_are_one_message_before_version_5() -> None:
    made = plan(trigger("a/+"), trigger("+/b"), numbered=False, v5=False)
    split = made.resolve(b"a/b")
    seen = [made.pick(split, b"a/b", b"", body, 0, 0) is not None for body in (b"x", b"x", b"x", b"x", b"y", b"y")]
    assert seen == [True, False, True, False, True, False]


def test_a_broker_that_merges_copies_is_found_out_before_version_5() -> None:
    made = plan(trigger("a/+"), trigger("+/b"), numbered=False, v5=False)
    split = made.resolve(b"a/b")
    seen = [made.pick(split, b"a/b", b"", body, 0, 0) is not None for body in (b"x", b"y", b"y", b"y")]
    assert seen == [True, True, True, True]


def test_equal_messages_that_do_not_come_together_are_several_before_version_5() -> None:
    made = plan(trigger("a/+"), trigger("+/b"), numbered=False, v5=False)
    split = made.resolve(b"a/b")
    apart = COPY_MS + 1
    for at in range(0, 6 * apart, apart):  # a broker that merges, and a button
        assert made.pick(split, b"a/b", b"", b"pressed", 0, at) is not None
    start = 10 * apart
    came = [(b"x", 0), (b"x", COPY_MS), (b"y", apart), (b"y", 3 * apart), (b"z", 4 * apart), (b"z", 4 * apart)]
    seen = [made.pick(split, b"a/b", b"", body, 0, start + at) is not None for body, at in came]
    assert seen == [True, False, True, True, True, False], "one that comes late is no proof that the broker merges"


def test_no_copy_follows_from_the_connection_before() -> None:
    made = plan(trigger("a/+"), trigger("+/b"), numbered=False, v5=False)
    split = made.resolve(b"a/b")
    assert made.pick(split, b"a/b", b"", b"x", 0, 0) is not None
    made.begin()
    assert made.pick(split, b"a/b", b"", b"x", 0, 1) is not None
    assert made.pick(split, b"a/b", b"", b"x", 0, 1) is None


def test_a_topic_that_is_none_is_refused() -> None:
    made = plan(trigger("#"))
    for topic in (b"a/+", b"a\0", b"\xff"):
        with pytest.raises(ProtocolError):
            made.resolve(topic)


def test_answers_are_kept_for_a_bounded_number_of_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_subscribe, "_CACHE", 10)
    made = plan(trigger("#"))
    for number in range(100):
        made.resolve(b"a/%d" % number)
        assert len(made.single) + len(made.known) <= 10


def test_a_thousand_filters_are_planned_in_one_go() -> None:
    made = plan(*(trigger(f"devices/{number}/+/state", 1) for number in range(1000)), trigger("devices/#", 1))
    assert wires(made) == {"devices/#": 1}
    made = plan(*(trigger(f"devices/{number}/#", 1) for number in range(1000)))
    assert len(made.wires) == 1000
    assert not any(wire.identifier for wire in made.wires)


LEVELS = st.sampled_from(["a", "b", "+", ""])
FILTERS = st.builds(
    lambda levels, rest: "/".join(levels + (["#"] if rest else [])) or "a",
    st.lists(LEVELS, min_size=0, max_size=3),
    st.booleans(),
)
TOPICS = ["/".join(levels) for count in (1, 2, 3) for levels in itertools.product(("a", "b", ""), repeat=count)]


def matches(topic_filter: str, topic: str) -> bool:
    """What a broker does, written down plainly."""
    ours, theirs = topic_filter.split("/"), topic.split("/")
    for at, level in enumerate(ours):
        if level == "#":
            return True
        if at >= len(theirs) or level not in ("+", theirs[at]):
            return False
    return len(ours) == len(theirs)


@given(st.lists(st.tuples(FILTERS, st.integers(0, 2)), min_size=1, max_size=5), st.booleans(), st.booleans())
@settings(deadline=None, max_examples=300)
def test_every_function_gets_every_message_once_whether_the_broker_merges_copies_or_not(
    filters: list[tuple[str, int]], numbered: bool, merges: bool
) -> None:
    triggers = [trigger(topic, qos) for topic, qos in filters]
    made = plan(*triggers, numbered=numbered, v5=numbered)
    for number, topic in enumerate(dict.fromkeys(filter(None, TOPICS))):
        wanted = {id(one) for one in triggers if matches(one.spec.address.topic, topic)}
        sent = [wire for wire in made.wires if matches(wire.inner, topic)]
        assert bool(sent) == bool(wanted)
        copies = [sent] if merges and sent else [[wire] for wire in sent]
        got: list[int] = []
        for copy in copies:
            found = made.resolve(topic.encode())
            if isinstance(found, Split):
                props = pack_properties([(11, wire.identifier) for wire in copy if wire.identifier])
                found = made.pick(found, topic.encode(), props, b"%d" % number, 0, number) or ()
            got += [id(one) for one in found]
        assert sorted(got) == sorted(wanted), (filters, topic)
        granted = {wire.filter: wire.options & 3 for wire in made.wires}
        for one in triggers:  # nothing comes with less than what was asked for
            if id(one) in wanted and numbered:
                best = made._wire_of[one.spec.address.topic]
                assert granted[best.filter] >= one.spec.address.qos
