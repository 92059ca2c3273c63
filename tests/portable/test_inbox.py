"""A trigger's inbox and the inline worker: every event counted, settled once, retried as asked."""

from nuclio_edge.core import port
from nuclio_edge.core.context import Context
from nuclio_edge.core.event import Event
from nuclio_edge.core.inbox import Budget, Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.response import ExceptionWithResponse, Response
from nuclio_edge.core.worker import InlineRunner


class Source:
    kind = "test"
    name = "source"

    def __init__(self):
        self.settled = []

    def settle(self, event, response, error):
        self.settled.append((event.raw_body, 200 if response is None else response.status_code))


class Function:
    name = "f"

    def __init__(self, loop, handler, outputs=()):
        self.loop = loop
        self.handler = handler
        self.outputs = list(outputs)
        self.timeout_ms = 30_000
        self.suspended = None
        self.failures = []
        self.late = []
        self.retries = []
        self.triggers = []
        self.runner = InlineRunner(self, lambda worker: Context())

    def bind(self, context):
        pass

    def prepare(self, context):
        pass

    def on_started(self):
        pass

    def may_retry(self):
        return self.suspended is None

    def on_failure(self, event, error, status, result):
        self.failures.append(status)

    def on_retry(self, event, error, delay, status, result):
        self.retries.append(delay)

    def on_late(self, event, ticks):
        self.late.append(ticks)


class Made(Event):
    __slots__ = ()

    def __init__(self, trigger, body, token):
        self._trigger = trigger
        self._token = token
        self.raw_body = body


def _rig(handler, **about):
    loop = Loop()
    source = Source()
    function = Function(loop, handler, about.pop("outputs", ()))
    trigger = Trigger(function, source, loop, "function.f.trigger[0]", **about)
    function.triggers.append(trigger)
    function.runner.attach(trigger)
    return loop, source, function, trigger


def _balanced(trigger):
    shed = 0
    for reason in trigger.shed:
        shed += trigger.shed[reason]
    return trigger.admitted == trigger.handled + trigger.failed + trigger.dead_lettered + shed + trigger.pending


def test_an_event_is_handled_counted_and_settled_once():
    seen = []
    loop, source, _, trigger = _rig(lambda context, event: seen.append(event.raw_body))
    assert trigger.submit(Made(trigger, b"1", 7)) is True
    assert seen == [b"1"]
    assert source.settled == [(b"1", 200)]
    assert (trigger.admitted, trigger.handled, trigger.failed, trigger.pending) == (1, 1, 0, 0)
    assert sum(trigger.buckets) == 1
    assert _balanced(trigger)
    loop.close()


def test_an_event_without_a_token_has_nothing_to_settle():
    loop, source, _, trigger = _rig(lambda context, event: {"a": 1})
    trigger.submit(Made(trigger, b"1", None))
    assert source.settled == []
    assert trigger.handled == 1
    loop.close()


def test_an_exception_is_a_failure_answered_with_500():
    def handler(context, event):
        raise ValueError("bad")

    loop, source, function, trigger = _rig(handler)
    trigger.submit(Made(trigger, b"1", 7))
    assert source.settled == [(b"1", 500)]
    assert function.failures == [500]
    assert (trigger.failed, trigger.handled, trigger.pending) == (1, 0, 0)
    loop.close()


def test_sys_exit_in_a_handler_is_a_failure_of_that_handler():
    def handler(context, event):
        raise SystemExit(3)

    loop, source, _, trigger = _rig(handler)
    trigger.submit(Made(trigger, b"1", 7))
    assert source.settled == [(b"1", 500)]
    loop.close()


def test_an_exception_with_response_is_the_answer():
    def handler(context, event):
        raise ExceptionWithResponse(422, "no")

    loop, source, _, trigger = _rig(handler)
    trigger.submit(Made(trigger, b"1", 7))
    assert source.settled == [(b"1", 422)]
    loop.close()


def test_a_status_of_400_and_above_is_a_failure_and_goes_to_no_output():
    sent = []
    loop, _, _, trigger = _rig(
        lambda context, event: Response(status_code=404), outputs=[lambda response, event: sent.append(response)]
    )
    trigger.submit(Made(trigger, b"1", 7))
    assert (trigger.failed, trigger.handled) == (1, 0)
    assert sent == []
    loop.close()


def test_a_returned_value_goes_to_every_output_and_none_to_none():
    sent = []
    answers = [{"a": 1}, None]
    loop, _, _, trigger = _rig(
        lambda context, event: answers.pop(0),
        outputs=[lambda response, event: sent.append(response.body), lambda response, event: sent.append("second")],
    )
    trigger.submit(Made(trigger, b"1", None))
    trigger.submit(Made(trigger, b"2", None))
    assert sent == [b'{"a":1}', "second"], sent
    assert trigger.handled == 2
    loop.close()


def test_an_output_that_raises_keeps_the_answer_from_no_other_and_the_event_from_no_end():
    def broken(response, event):
        raise ValueError(event.raw_body)

    sent = []
    raised = []
    for attempts in (1, 2):  # 2: the second event of the trigger goes the quick way
        loop, source, _, trigger = _rig(
            lambda context, event: {"a": 1}, outputs=[broken, lambda response, event: sent.append(response.body)]
        )
        loop.on_error = lambda error, call: raised.append(str(error))
        for _ in range(attempts):
            trigger.submit(Made(trigger, b"1", 7))
        assert source.settled == [(b"1", 200)] * attempts
        assert trigger.handled == attempts
        assert _balanced(trigger)
        loop.close()
    assert sent == [b'{"a":1}'] * 3
    assert len(raised) == 3, raised


def test_an_exception_that_answers_is_sent_to_the_outputs_before_anything_else_was():
    sent = []

    def handler(context, event):
        raise ExceptionWithResponse(201, "made")

    loop, source, _, trigger = _rig(handler, outputs=[lambda response, event: sent.append(response.body)])
    trigger.submit(Made(trigger, b"1", 7))
    assert sent == [b"made"]
    assert source.settled == [(b"1", 201)]
    loop.close()


def test_a_failed_event_is_tried_again_after_growing_pauses_and_then_settled_once():
    calls = []

    def handler(context, event):
        calls.append(1)
        if len(calls) < 3:
            raise ValueError("not yet")

    loop, source, function, trigger = _rig(handler, attempts=3, backoff_ms=1, max_backoff_ms=50)
    trigger.submit(Made(trigger, b"1", 7))
    assert source.settled == []
    assert trigger.pending == 1
    assert _balanced(trigger)
    while not source.settled:
        loop.turn(20)
    assert function.retries == [1, 2]
    assert source.settled == [(b"1", 200)]
    assert (trigger.handled, trigger.failed, trigger.retried, trigger.pending) == (1, 0, 2, 0)
    loop.close()


def test_when_the_attempts_have_ended_the_event_has_failed():
    def handler(context, event):
        return 503, "busy"

    loop, source, _, trigger = _rig(handler, attempts=2, backoff_ms=1)
    trigger.submit(Made(trigger, b"1", 7))
    while not source.settled:
        loop.turn(20)
    assert source.settled == [(b"1", 503)]
    assert (trigger.failed, trigger.retried, trigger.pending) == (1, 1, 0)
    loop.close()


def test_a_client_error_is_not_tried_again():
    loop, source, _, trigger = _rig(lambda context, event: (404, "no"), attempts=5)
    trigger.submit(Made(trigger, b"1", 7))
    assert source.settled == [(b"1", 404)]
    assert trigger.retried == 0
    loop.close()


def test_a_suspended_function_turns_events_away():
    loop, source, function, trigger = _rig(lambda context, event: None)
    function.suspended = "could not start"
    assert trigger.submit(Made(trigger, b"1", 7)) is True
    assert trigger.shed == {"suspended": 1}
    assert source.settled == [(b"1", 503)]
    assert _balanced(trigger)
    loop.close()


def test_a_late_inline_call_is_recorded():
    loop, _, function, trigger = _rig(lambda context, event: None)
    function.timeout_ms = -1
    function.runner.attach(trigger)
    trigger.submit(Made(trigger, b"1", None))
    assert trigger.late == 1
    assert trigger.handled == 1
    loop.close()


def _queued(when_full, size, **about):
    """A trigger whose runner queues and never works."""
    loop = Loop()
    source = Source()
    function = Function(loop, None)
    trigger = Trigger(function, source, loop, size=size, when_full=when_full, **about)
    trigger.box = port.queue(size + 8)

    def submit(event):
        verdict = trigger.enter(event)
        if verdict == 1:
            trigger.box.append(event)
            return True
        return verdict < 0

    trigger.submit = submit
    return loop, source, trigger


def _fill(trigger, count):
    return [trigger.submit(Made(trigger, b"%d" % number, number)) for number in range(count)]


def test_block_refuses_what_does_not_fit_and_counts_nothing():
    loop, source, trigger = _queued("block", 2)
    assert _fill(trigger, 3) == [True, True, False]
    assert (trigger.admitted, trigger.pending) == (2, 2)
    assert source.settled == []
    loop.close()


def test_room_is_told_once_when_half_of_the_inbox_is_free():
    loop, _, trigger = _queued("block", 4)
    _fill(trigger, 5)
    told = []
    trigger.on_room(lambda: told.append(1))
    trigger.leave(1, len(trigger.box.popleft().raw_body), None)
    loop.turn(0)
    assert told == []
    trigger.leave(1, len(trigger.box.popleft().raw_body), None)
    loop.turn(0)
    loop.turn(0)
    assert told == [1]
    loop.close()


def test_drop_newest_and_reject_turn_the_new_event_away_with_503():
    for policy in ("drop-newest", "reject"):
        loop, source, trigger = _queued(policy, 2)
        assert _fill(trigger, 3) == [True, True, True]
        assert trigger.shed == {policy: 1}
        assert source.settled == [(b"2", 503)]
        assert _balanced(trigger)
        loop.close()


def test_drop_oldest_makes_its_source_wait_once_and_then_drops_the_oldest():
    loop, source, trigger = _queued("drop-oldest", 2)
    assert _fill(trigger, 3) == [True, True, False]
    told = []
    trigger.on_room(lambda: told.append(1))
    while not told:
        loop.turn(20)
    assert trigger.submit(Made(trigger, b"2", 2)) is True
    assert source.settled == [(b"0", 503)]
    assert trigger.shed == {"drop-oldest": 1}
    assert [event.raw_body for event in (trigger.box.popleft(), trigger.box.popleft())] == [b"1", b"2"]
    assert _balanced(trigger)
    loop.close()


def test_thin_takes_every_second_event_of_the_busiest_address_and_keeps_the_order():
    loop, _, trigger = _queued("thin", 5)
    for body, path in ((b"0", "a"), (b"1", "b"), (b"2", "a"), (b"3", "a"), (b"4", "a")):
        event = Made(trigger, body, 1)
        event.path = path
        trigger.submit(event)
    event = Made(trigger, b"5", 1)
    event.path = "a"
    while trigger.submit(event) is False:
        loop.turn(5)
    left = []
    while len(left) < 4:
        left.append(trigger.box.popleft().raw_body)
    assert left == [b"1", b"2", b"4", b"5"], left
    assert trigger.shed == {"thin": 2}
    assert _balanced(trigger)
    loop.close()


def test_thin_keeps_events_whose_handler_has_put_something_else_in_the_place_of_their_address():
    loop, _, trigger = _queued("thin", 4)
    for number, path in enumerate((["a"], ["b"], "c", {})):
        event = Made(trigger, str(number).encode(), 1)
        event.path = path
        trigger.submit(event)
    event = Made(trigger, b"4", 1)
    event.path = "c"
    while trigger.submit(event) is False:
        loop.turn(5)
    left = []
    while len(left) < trigger.pending:
        left.append(trigger.box.popleft().raw_body)
    assert left == [b"1", b"2", b"4"], left
    assert trigger.shed == {"thin": 2}
    assert _balanced(trigger)
    loop.close()


def test_the_common_budget_refuses_beyond_the_floor_of_an_inbox():
    budget = Budget(2000, 500)
    loop, _, trigger = _queued("block", 100, budget=budget)
    results = _fill(trigger, 20)
    assert results.count(True) < 20
    held = trigger.held
    assert held == budget.used
    assert held <= 2000 + 500
    while trigger.pending:
        trigger.leave(1, len(trigger.box.popleft().raw_body), None)
    assert budget.used == 0
    loop.close()


def test_a_small_inbox_that_fills_again_and_again_makes_its_source_wait_no_more_than_once_in_a_while():
    loop, _, trigger = _queued("drop-oldest", 1)
    waits = 0
    for number in range(20):
        assert trigger.submit(Made(trigger, b"%d" % number, number))
        while trigger.submit(Made(trigger, b"newer", 0)) is False:
            waits += 1
            trigger._grace = 1  # it is over
        trigger.leave(1, len(trigger.box.popleft().raw_body), None)
        trigger.handled += 1
    assert waits <= 1
    assert _balanced(trigger)
    loop.close()


def test_a_large_inbox_that_a_burst_fills_makes_its_source_wait_each_time_that_it_has_half_emptied_meanwhile():
    loop, _, trigger = _queued("drop-oldest", 512)
    waits = 0
    event = Made(trigger, b"", None)  # one for all: a microcontroller has no memory for so many
    for _ in range(3):
        while trigger.submit(event):
            pass
        waits += 1
        trigger._grace += 1_000_000  # it is not over, however slow this machine is
        while trigger.pending > 256:
            trigger.leave(1, len(trigger.box.popleft().raw_body), None)
            trigger.handled += 1
    assert waits == 3 and not trigger.shed
    loop.close()
