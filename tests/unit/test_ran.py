"""What a worker notes of its calls, and what the loop makes of it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.core.encode import seal, to_json
from nuclio_edge.core.event import Event
from nuclio_edge.core.inbox import EVENT_COST, Budget, Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.response import JSON, Response
from nuclio_edge.functions.returned import FIRM
from nuclio_edge.workers.ran import Ran


class Function:
    """As little of one as a trigger asks for."""

    name, outputs = "f", ()

    def __init__(self) -> None:
        self.failures: list[Any] = []

    def on_failure(self, event: Any, error: Any, status: int, result: Any) -> None:
        self.failures.append((event, status))


class Source:
    """Settles one by one; raises for the events in `bad`."""

    kind, name = "memory", "mem"

    def __init__(self) -> None:
        self.settled: list[Any] = []
        self.bad: list[Any] = []

    def settle(self, event: Any, response: Any, error: Any) -> None:
        if event in self.bad:
            raise ValueError("bad")
        self.settled.append(event)


class Together(Source):
    """Settles those with an even body together."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[list[Any]] = []

    def settle_many(self, events: list[Any]) -> list[Any]:
        even = [event for event in events if int(event.raw_body) % 2 == 0]
        self.together.append(even)
        self.settled += even
        return [event for event in events if event not in even]


def trigger_of(source: Source) -> Trigger:
    return Trigger(Function(), source, Loop(), budget=Budget(1 << 30, 1 << 10))


def events(trigger: Trigger, count: int, token: Any = 1) -> list[Event]:
    made = []
    for number in range(count):
        event = Event()
        event.raw_body = str(number).encode()
        event._trigger = trigger
        event._token = token
        assert trigger.enter(event) == 1
        made.append(event)
    return made


def note(ran: Ran, call: Any, ticks: int = 8) -> None:
    ran.calls.append(call)
    ran.ticks.append(ticks)


def returned(event: Any, result: Any, error: BaseException | None = None) -> Any:
    """What a worker notes of a call."""
    wanted = event._token is not None or bool(event._trigger.function.outputs)
    if error is not None or type(result) in FIRM:
        return event, result, error
    if type(result) is dict and wanted:
        try:
            return event, to_json(result), JSON
        except BaseException:  # noqa: BLE001 - its words are `seal`'s
            pass
    if result is not None:
        result = seal(result, wanted)
    return event if result is None else (event, result, None)


def closed(*triggers: Trigger) -> None:
    for trigger in triggers:
        trigger.loop.close()


def test_calls_are_concluded_in_order_and_counted_as_each_by_itself() -> None:
    source = Source()
    trigger = trigger_of(source)
    ran = Ran()
    a, b, c, d = events(trigger, 4)
    note(ran, a, 8)
    note(ran, b, 9)
    note(ran, (c, None, ValueError("x")), 1)
    note(ran, d, 16)
    errors: list[Any] = []
    ran.book(None, lambda *what: errors.append(what))
    assert source.settled == [a, b, c, d]
    assert (trigger.handled, trigger.failed, trigger.pending, trigger.held, trigger.busy) == (3, 1, 0, 0, 34)
    assert [trigger.buckets[bits] for bits in (1, 4, 5)] == [1, 2, 1]
    assert not errors
    assert not ran.calls
    assert not ran.ticks
    closed(trigger)


def test_calls_of_several_triggers_are_counted_at_their_own() -> None:
    source = Source()
    first, second = trigger_of(source), trigger_of(source)
    ran = Ran()
    mine, theirs = events(first, 3), events(second, 2)
    for event in (mine[0], theirs[0], mine[1], mine[2], theirs[1]):
        note(ran, event)
    ran.book(None, lambda *what: None)
    assert (first.handled, second.handled, first.pending, second.pending) == (3, 2, 0, 0)
    assert source.settled == [mine[0], theirs[0], mine[1], mine[2], theirs[1]]
    closed(first, second)


def test_an_expired_event_is_not_concluded_again() -> None:
    for others in (0, 3):
        source = Source()
        trigger = trigger_of(source)
        ran = Ran()
        late, *rest = events(trigger, 1 + others)
        for event in rest:
            note(ran, event)
        note(ran, (late, None, None))
        ran.book(late, lambda *what: None)
        assert source.settled == rest
        assert trigger.pending == 1
        closed(trigger)


def test_a_source_that_raises_leaves_no_other_event_untold() -> None:
    source = Source()
    trigger = trigger_of(source)
    ran = Ran()
    made = events(trigger, 6)
    source.bad = [made[1], made[4]]
    for event in made[:3]:
        note(ran, event)
    for event in made[3:]:
        note(ran, (event, "said", None))
    errors: list[Any] = []
    ran.book(None, lambda *what: errors.append(what))
    assert source.settled == [made[0], made[2], made[3], made[5]]
    assert [type(error) for error, _ in errors] == [ValueError, ValueError]
    assert trigger.pending == 0
    closed(trigger)


def test_an_event_whose_body_a_handler_has_spoiled_takes_no_other_along() -> None:
    for count in (1, 5):
        source = Source()
        trigger = trigger_of(source)
        ran = Ran()
        made = events(trigger, count)
        made[0].raw_body = None  # type: ignore[assignment]  # as a handler may
        if count > 1:
            made[3].raw_body = None  # type: ignore[assignment]
        for number, event in enumerate(made):
            note(ran, (event, "x", None) if number == 3 else event)
        errors: list[Any] = []
        ran.book(None, lambda *what: errors.append(what))  # noqa: B023 - called at once
        assert source.settled == made
        assert not errors
        assert trigger.pending == 0
        assert trigger.held == trigger.budget.used == 0  # type: ignore[union-attr]
        closed(trigger)


def test_what_a_source_does_not_settle_together_is_settled_one_by_one() -> None:
    source = Together()
    trigger = trigger_of(source)
    ran = Ran()
    made = events(trigger, 5)
    silent = events(trigger, 1, token=None)
    for event in [*made, *silent]:
        note(ran, event)
    ran.book(None, lambda *what: None)
    assert source.together == [[made[0], made[2], made[4]]]
    assert source.settled == [made[0], made[2], made[4], made[1], made[3]]
    assert trigger.handled == 6
    closed(trigger)


def test_each_call_is_concluded_once_whenever_the_loop_looks() -> None:
    source = Source()
    trigger = trigger_of(source)
    trigger.size = 1 << 20
    ran = Ran()
    made = events(trigger, 20_000)

    def work() -> None:
        for number, event in enumerate(made):
            note(ran, event if number % 7 else (event, None, None))

    worker = threading.Thread(target=work)
    worker.start()
    while worker.is_alive():
        ran.book(None, lambda *what: None)
    worker.join()
    ran.book(None, lambda *what: None)
    assert source.settled == made
    assert (trigger.handled, trigger.pending) == (20_000, 0)
    closed(trigger)


class Spoken(Source):
    """Notes in one list what outputs send and what is settled; raises where it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[Any, ...]] = []
        self.sent: list[tuple[Any, ...]] = []

    def settle(self, event: Any, response: Any, error: Any) -> None:
        self.said.append(("settled", event.id, response and (response.status_code, response.body), type(error)))
        if event in self.bad:
            raise ValueError("bad")

    def send(self, response: Any, event: Any) -> None:
        self.said.append(("sent", event.id, response.status_code, response.body))
        if event in self.bad:
            raise ValueError("bad")


class Outlet:
    """An output that takes what is JSON together, unless it is `shut`."""

    def __init__(self, source: Spoken, *, shut: bool) -> None:
        self.source = source
        self.shut = shut
        self.together: list[list[bytes]] = []

    def send(self, response: Any, event: Any) -> None:
        assert type(response.body) is bytes
        self.source.sent.append((response.status_code, response.content_type, response.body))

    def send_json_bodies(self, bodies: list[bytes]) -> bool:
        if self.shut:
            return False
        self.together.append(bodies)
        self.source.sent += [(200, "application/json", body) for body in bodies]
        return True


ANSWERS: tuple[Any, ...] = (None, {})


class Spoiled:
    """Something that JSON cannot say; the attempt ends the thread, if it may."""

    def __repr__(self) -> str:
        raise SystemExit


GOOD = [None, None, None, "text", {"a": 1}, {"b": 2}, {}, b"raw", 7, (201, "made")]
BAD = [(404, "no"), (500, {}), Response(status_code=503), {1, 2}, {"a": Spoiled()}]
RESULTS: st.SearchStrategy[Any] = st.sampled_from([*GOOD, *BAD])
CALLS = st.lists(
    st.tuples(
        st.integers(0, 3),  # of which trigger; the third has an output, the last one that takes answers together
        RESULTS,
        st.sampled_from([None, None, None, ValueError("x")]),
        st.sampled_from([None, 1]),  # the token
        st.sampled_from([False, False, False, False, True]),  # whether source and output raise
        st.integers(0, 5000),
    ),
    max_size=12,
)


def outcome(calls: list[tuple[Any, ...]], *, together: bool, shut: bool) -> tuple[Any, ...]:
    """What is counted and said when the calls are booked, in one go or each by itself."""
    source = Spoken()
    triggers = [trigger_of(source) for _ in range(4)]
    triggers[2].function.outputs = (source.send,)
    triggers[3].function.outputs = (Outlet(source, shut=shut).send,)
    ran, errors = Ran(), []
    for trigger in triggers:
        trigger.loop.on_error = lambda error, _call: errors.append(type(error))
    for number, (which, result, error, token, bad, ticks) in enumerate(calls):
        [event] = events(triggers[which], 1, token)
        event.id = str(number)
        if bad:
            source.bad.append(event)
        note(ran, returned(event, result, error), ticks)
    if together:
        ran.book(None, lambda error, _call: errors.append(type(error)))
    else:
        while ran.calls:
            one = Ran()
            note(one, ran.calls.pop(0), ran.ticks.pop(0))
            one.book(None, lambda error, _call: errors.append(type(error)))
    closed(*triggers)
    counted = [(t.handled, t.failed, t.pending, t.held, t.busy, [b for b in t.buckets if b]) for t in triggers]
    return counted, source.said, source.sent, errors, [len(t.function.failures) for t in triggers]


@given(CALLS, st.booleans())
def test_booked_together_calls_come_to_what_each_comes_to_by_itself(calls: list[tuple[Any, ...]], shut: bool) -> None:
    assert outcome(calls, together=True, shut=shut) == outcome(calls, together=False, shut=shut)


def test_answers_of_one_output_are_sent_together_and_before_their_events_are_settled() -> None:
    class Order(Spoken):
        def settle(self, event: Any, response: Any, error: Any) -> None:
            self.sent.append((event.id, None if response is None else response.body))

    source = Order()
    trigger = trigger_of(source)
    outlet = Outlet(source, shut=False)
    trigger.function.outputs = (outlet.send,)
    ran = Ran()
    made = [*events(trigger, 3), *events(trigger, 1, token=None)]
    for number, event in enumerate(made):
        event.id = str(number)
        note(ran, event if number == 1 else returned(event, {"n": number}))
    ran.book(None, lambda *what: None)
    assert outlet.together == [[b'{"n":0}', b'{"n":2}', b'{"n":3}']]
    assert source.sent[3:] == [("0", b'{"n":0}'), ("1", None), ("2", b'{"n":2}')]
    assert (trigger.handled, trigger.pending) == (4, 0)
    closed(trigger)


def test_answers_that_a_source_settles_together_need_no_response() -> None:
    source = Together()
    trigger = trigger_of(source)
    outlet = Outlet(Spoken(), shut=False)
    trigger.function.outputs = (outlet.send,)
    ran = Ran()
    made = events(trigger, 5)
    for event in made:
        note(ran, returned(event, {}))
    ran.book(None, lambda *what: None)
    assert source.together == [[made[0], made[2], made[4]]]
    assert source.settled == [made[0], made[2], made[4], made[1], made[3]]
    assert outlet.together == [[b"{}"] * 5]
    closed(trigger)


def test_an_output_that_raises_at_many_answers_is_given_each_by_itself() -> None:
    class Broken(Outlet):
        def send_json_bodies(self, bodies: list[bytes]) -> bool:
            raise ValueError("broken")

    source = Source()
    trigger = trigger_of(source)
    said = Spoken()
    trigger.function.outputs = (Broken(said, shut=False).send,)
    ran, errors = Ran(), []
    made = events(trigger, 3)
    for event in made:
        note(ran, returned(event, {}))
    ran.book(None, lambda error, call: errors.append(type(error)))
    assert errors == [ValueError]
    assert source.settled == made
    assert said.sent == [(200, "application/json", b"{}")] * 3
    closed(trigger)


@pytest.mark.parametrize("which", ["two outputs", "not its send", "without"])
def test_only_a_single_output_that_says_so_is_given_answers_together(which: str) -> None:
    class Plain(Spoken):
        def send(self, response: Any, event: Any) -> None:
            self.sent.append((response.status_code, response.content_type, response.body))

    class Wrapped(Outlet):
        def noting(self, response: Any, event: Any) -> None:
            self.send(response, event)

    said = Plain()
    outlet = Wrapped(said, shut=False)
    trigger = trigger_of(Source())
    trigger.function.outputs = {
        "two outputs": (outlet.send, outlet.send), "not its send": (outlet.noting,), "without": (said.send,)
    }[which]  # fmt: skip
    ran = Ran()
    for event in events(trigger, 3):
        note(ran, returned(event, {}))
    ran.book(None, lambda *what: None)
    assert outlet.together == []
    assert said.sent == [(200, "application/json", b"{}")] * (6 if which == "two outputs" else 3)
    closed(trigger)


def test_events_that_are_equal_or_cannot_be_hashed_keep_their_own_answers() -> None:
    class Equal(Event):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]  # as Python has it for a class with __eq__

    class Kept(Source):
        def settle(self, event: Any, response: Any, error: Any) -> None:
            self.settled.append((event.id, response and response.body))

    for shut in (False, True):
        source = Kept()
        trigger = trigger_of(source)
        trigger.function.outputs = (Outlet(Spoken(), shut=shut).send,)
        ran = Ran()
        for number in range(4):
            event = Equal()
            event.raw_body, event._trigger, event._token, event.id = b"", trigger, 1, str(number)
            assert trigger.enter(event) == 1
            note(ran, event if number == 2 else returned(event, {"n": number}))
        ran.book(None, lambda *what: None)
        assert source.settled == [("0", b'{"n":0}'), ("1", b'{"n":1}'), ("2", None), ("3", b'{"n":3}')]
        closed(trigger)


@pytest.mark.parametrize("result", [None, {}, "text"])
def test_an_expired_event_is_not_concluded_again_whatever_it_came_to(result: Any) -> None:
    source = Source()
    trigger = trigger_of(source)
    trigger.function.outputs = (Outlet(Spoken(), shut=False).send,)
    ran = Ran()
    *rest, late = events(trigger, 3)
    for event in rest:
        note(ran, returned(event, {}))
    noted = returned(late, result)
    note(ran, noted if type(noted) is tuple else (late, None, None))
    ran.book(late, lambda *what: None)
    assert source.settled == rest
    assert trigger.pending == 1
    closed(trigger)


def test_an_event_with_an_answer_whose_body_was_spoiled_takes_no_other_along() -> None:
    class Ends(bytes):
        def __len__(self) -> int:
            raise SystemExit

    for spoiled in (None, Ends()):
        for answer in ANSWERS:
            source = Source()
            trigger = trigger_of(source)
            trigger.function.outputs = (Outlet(Spoken(), shut=False).send,)
            ran = Ran()
            made = events(trigger, 4)
            [left] = events(trigger, 1)
            made[2].raw_body = spoiled  # type: ignore[assignment]  # as a handler may
            for event in made:
                note(ran, returned(event, answer), 1 << int(event is made[2]))
            ran.book(None, lambda *what: None)
            assert source.settled == made
            assert (trigger.handled, trigger.pending, trigger.busy) == (4, 1, 5)
            # What the spoiled one held is not known any more: it is given back when nothing is pending.
            assert 0 <= trigger.held - EVENT_COST - len(left.raw_body) <= 1
            closed(trigger)


def test_an_event_with_an_answer_keeps_to_its_own_trigger() -> None:
    source = Source()
    first, second = trigger_of(source), trigger_of(source)
    said = Spoken()
    for trigger in (first, second):
        trigger.function.outputs = (Outlet(said, shut=False).send,)
    ran = Ran()
    for trigger, answer in ((first, {"n": 1}), (second, {"n": 2}), (second, None), (first, {"n": 3})):
        [event] = events(trigger, 1)
        note(ran, returned(event, answer), 1)
    ran.book(None, lambda *what: None)
    assert (first.handled, first.busy, second.handled, second.busy) == (2, 2, 2, 2)
    assert [body for _, _, body in said.sent] == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    closed(first, second)


def test_a_trigger_that_wants_its_events_one_by_one_gets_them_so() -> None:
    class Apart(Trigger):
        one_by_one = True
        left: list[Any]

        def leave(self, count: int, size: int, event: Any) -> None:
            self.left.append((count, event))
            super().leave(count, size, event)

    trigger = Apart(Function(), Source(), Loop(), budget=Budget(1 << 30, 1 << 10))
    trigger.left = []
    trigger.function.outputs = (Outlet(Spoken(), shut=False).send,)
    ran = Ran()
    made = events(trigger, 3)
    for event in made:
        note(ran, returned(event, {}))
    ran.book(None, lambda *what: None)
    assert trigger.left == [(1, event) for event in made]
    closed(trigger)


def test_what_an_answer_that_json_cannot_say_held_is_given_back_once() -> None:
    trigger = trigger_of(Source())
    trigger.function.outputs = (Outlet(Spoken(), shut=False).send,)
    ran = Ran()
    made = events(trigger, 5)
    [left] = events(trigger, 1)  # else nothing is pending, and all is given back whatever was counted
    for number, event in enumerate(made):
        note(ran, returned(event, {"a": Spoiled() if number == 2 else 1}))
    ran.book(None, lambda *what: None)
    assert (trigger.handled, trigger.failed, trigger.pending) == (4, 1, 1)
    assert trigger.held == trigger.budget.used == EVENT_COST + len(left.raw_body)  # type: ignore[union-attr]
    closed(trigger)


def test_a_status_that_is_no_number_is_a_500_and_takes_no_other_event_along() -> None:
    trigger = trigger_of(Source())
    ran = Ran()
    events = [Event() for _ in range(4)]
    for event, result in zip(events, (None, (float("inf"), "x"), (float("nan"), "x"), "x"), strict=True):
        event.raw_body = b"1"
        event._trigger = trigger
        assert trigger.enter(event) == 1
        ran.calls.append(event if result is None else (event, result, None))
        ran.ticks.append(10)

    def raised(error: BaseException, call: Any) -> None:
        raise AssertionError(call) from error

    ran.book(None, raised)
    function: Any = trigger.function
    assert [status for _, status in function.failures] == [500, 500]
    assert (trigger.handled, trigger.failed, trigger.pending, trigger.held) == (2, 2, 0, 0)
    trigger.loop.close()
