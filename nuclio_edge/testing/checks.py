"""The contract of a source as checks; each is one sentence, its name, about a source made anew for it."""
# ruff: noqa: D103 - a check's name is what it says

from __future__ import annotations

from itertools import pairwise

from nuclio_edge.testing.rig import QUIET_MS, Bench, ensure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.testing.rig import Function, SourceRig


_CHECKS: list[tuple[Callable[[Bench], None], Callable[[SourceRig], bool]]] = []


def check_source(rig: SourceRig) -> list[str]:
    """Try everything that a source must do and that the rig can play; the sentences that were tried and hold.

    Raises one AssertionError that lists every sentence that does not hold, with what was seen instead. All the time, in
    every check: no error reaches the loop, the books of source and triggers balance after each turn, and after `close`
    no descriptor, thread or timer is left.
    """
    held: list[str] = []
    wrong: list[str] = []
    for check, applies in _CHECKS:
        if not applies(rig):
            continue
        sentence = check.__name__.replace("_", " ")
        try:
            with Bench(rig) as bench:
                check(bench)
        except Exception as error:  # noqa: BLE001 - whatever the source or the rig raises, the other checks are made
            wrong.append(f"{sentence}: {error}" if isinstance(error, AssertionError) else f"{sentence}: {error!r}")
        else:
            held.append(sentence)
    ensure(not wrong, f"{len(wrong)} of {len(held) + len(wrong)} do not hold:\n  " + "\n  ".join(wrong))
    return held


def _check(applies: Callable[[SourceRig], bool] = lambda rig: True) -> Callable[[Any], Any]:
    def note(check: Any) -> Any:
        _CHECKS.append((check, applies))
        return check

    return note


def _can_lose(rig: SourceRig) -> bool:
    return rig.can("lose")


def _sees_acknowledgements(rig: SourceRig) -> bool:
    return rig.can("acknowledged")


def _sees_replies(rig: SourceRig) -> bool:
    return rig.can("replied")


def _has_unrouted(rig: SourceRig) -> bool:
    return rig.can("emit_unrouted")


def _is_shared(rig: SourceRig) -> bool:
    return not rig.exclusive


def _is_exclusive(rig: SourceRig) -> bool:
    return rig.exclusive


def _pushes_back(rig: SourceRig) -> bool:
    return rig.pushes_back


@_check()
def the_class_says_what_it_is(bench: Bench) -> None:
    source = bench.source
    ensure(isinstance(source.kind, str) and source.kind, "kind is the word of the manifest")
    for flag in ("replies", "acks"):
        ensure(isinstance(getattr(source, flag), bool), f"{flag} is a bool")
    for table in ("PARAMS", "TRIGGER", "OUTPUT"):
        ensure(hasattr(source, table), f"{table} is there (OUTPUT may be None)")
    ensure(source.name == "checked", "it keeps its name")
    ensure(source.state == "closed", "nothing is opened before open()")
    ensure(source.received == 0, "nothing is received before open()")
    ensure(not bench.made_with, f"nothing is held before open(), not {bench.made_with}")


@_check()
def opening_ends_in_open_and_says_each_change_of_state(bench: Bench) -> None:
    bench.function()
    bench.open()
    states = bench.host.states
    ensure(states and states[-1] == "open", f"host.state_changed was called for {states}, the last of which is 'open'")
    ensure(all(a != b for a, b in pairwise(states)), f"each change is told once, not {states}")
    bench.source.close()
    ensure(bench.host.states[-1] == "closed", "closing is a change of state as well")


@_check(_can_lose)
def opening_does_not_wait_for_a_world_that_is_away(bench: Bench) -> None:
    bench.rig.lose()
    try:
        bench.function()
        bench.route()
        bench.source.open()
        ensure(
            bench.source.state == "connecting", f"while it tries, its state is 'connecting', not {bench.source.state!r}"
        )
        bench.turn_for(QUIET_MS)
    finally:
        bench.rig.restore()
    bench.until(lambda: bench.source.state == "open", "the source to open when the world is there")


@_check()
def an_event_arrives_with_its_trigger_path_and_body(bench: Bench) -> None:
    function = bench.function(holds=True)
    bench.open()
    sent = bench.emit()
    bench.until_arrived(function, 1)
    event = function.arrived[0]
    ensure(event.raw_body == sent[0], f"raw_body is {event.raw_body!r}, the world sent {sent[0]!r}")
    ensure(type(event.raw_body) is bytes, "raw_body is bytes")
    trigger = event.trigger
    ensure(trigger.kind == bench.source.kind, f"trigger.kind is {trigger.kind!r}")
    ensure(trigger.name == "checked", f"trigger.name is {trigger.name!r}, the source's is 'checked'")
    ensure(event._trigger is function.triggers[0], "_trigger is the Trigger that it was submitted to")
    path = bench.rig.path
    ensure(isinstance(event.path, str) and (path is None or event.path == path), f"path is {event.path!r}")
    ensure(isinstance(event.headers, dict), f"headers are a dict, not {event.headers!r}")
    ensure(isinstance(event.content_type, str), f"content_type is a str, not {event.content_type!r}")
    ensure(isinstance(event.timestamp_ms, int), f"timestamp_ms is an int, not {event.timestamp_ms!r}")
    ensure(isinstance(event.to_json(), str), "it can be told as JSON")
    function.finish()
    ensure(bench.source.received == bench.source.routed == 1, "it counts as received and routed")


@_check(_sees_acknowledgements)
def an_event_is_acknowledged_once_and_not_before_its_handler_is_done(bench: Bench) -> None:
    function = bench.function(holds=True)
    bench.open()
    bench.emit(2)
    bench.until_arrived(function, 2)
    ensure(bench.rig.acknowledged() == 0, "an event is acknowledged before its handler is done")
    function.finish()
    bench.until(lambda: bench.rig.acknowledged() >= 1, "the acknowledgement of the one that is done")
    bench.turn_for(QUIET_MS)
    ensure(bench.rig.acknowledged() == 1, "more is acknowledged than is done")
    function.finish(error=ValueError("as a handler raises it"))
    bench.until(lambda: bench.rig.acknowledged() >= 2, "an end for the event whose handler raised")
    bench.turn_for(QUIET_MS)
    ensure(bench.rig.acknowledged() == 2, "an event is acknowledged twice")


@_check(_sees_acknowledgements)
def a_handler_that_is_done_late_holds_up_no_other_acknowledgement(bench: Bench) -> None:
    function = bench.function(holds=True)
    bench.open()
    bench.emit(3)
    bench.until_arrived(function, 3)
    function.held.append(function.held.pop(0))
    function.finish()
    function.finish()
    bench.until(lambda: bench.rig.acknowledged() == 2, "the acknowledgements of the two that are done")
    function.finish()
    bench.until(lambda: bench.rig.acknowledged() == 3, "the acknowledgement of the late one")


@_check(_sees_replies)
def what_a_handler_returns_is_the_reply(bench: Bench) -> None:
    function = bench.function(holds=True)
    bench.open()
    bench.emit(2)
    bench.until_arrived(function, 2)
    ensure(bench.rig.replied() == [], "there is a reply before the handler is done")
    function.finish(result=b"the answer")
    bench.until(bench.rig.replied, "a reply")
    ensure(bench.rig.replied() == [b"the answer"], f"the replies are {bench.rig.replied()}")
    function.finish(error=ValueError("as a handler raises it"))
    bench.until(lambda: len(bench.rig.replied()) >= 2, "a reply for the event whose handler raised")


@_check()
def what_is_refused_is_kept_and_comes_in_order_when_there_is_room(bench: Bench) -> None:
    function = bench.function(holds=True, size=2)
    bench.open()
    sent = bench.emit(6)
    bench.until(lambda: len(function.arrived) >= 2, "two events")
    bench.turn_for(QUIET_MS)
    ensure(len(function.arrived) == 2, "what was refused is submitted before there is room")
    _finish_all(bench, function)
    bench.until(lambda: len(function.arrived) > 2, "an event that was refused to come again")
    _finish_all(bench, function)
    bench.turn_for(QUIET_MS)
    _finish_all(bench, function)
    came = function.bodies()
    ensure(came == [one for one in sent if one in came] or bench.rig.body is not None, f"the order is {came}")
    if bench.rig.pushes_back:
        _finish_until(bench, [function], 6)
        ensure(function.bodies() == sent, f"sent were {sent}, there came {function.bodies()}")


@_check(_pushes_back)
def a_full_inbox_loses_nothing(bench: Bench) -> None:
    function = bench.function(holds=True, size=4)
    bench.open()
    sent = bench.emit(100)
    _finish_until(bench, [function], 100)
    bench.turn_for(QUIET_MS)
    ensure(function.bodies() == sent, "a hundred events do not come once each and in order")


@_check(_is_shared)
def every_function_has_its_own_event_once(bench: Bench) -> None:
    one, two = bench.function(holds=True), bench.function()
    if not bench.rig.own_schedule:
        two.listen(bench.rig.trigger)  # a second trigger that fits brings no second event
    bench.open()
    bench.emit()
    bench.until_arrived(one, 1)
    bench.until_arrived(two, 1)
    ensure(one.arrived[0] is not two.arrived[0], "two functions share one Event")
    if bench.rig.can("acknowledged"):
        ensure(bench.rig.acknowledged() < 2 or bench.source.received == 2, "it is acknowledged twice")
        before = bench.rig.acknowledged()
        one.finish()
        bench.until(lambda: bench.rig.acknowledged() > before, "an acknowledgement when the last function is done")


@_check(_has_unrouted)
def what_no_trigger_wants_is_counted(bench: Bench) -> None:
    function = bench.function()
    bench.open()
    bench.rig.emit_unrouted()
    bench.until(lambda: bench.source.unrouted == 1, "the event to be counted as unrouted")
    ensure(not function.arrived, "an event that fits no trigger arrived")
    bench.emit()
    bench.until_arrived(function, 1)


@_check(_is_shared)
def routes_are_added_removed_and_replaced_while_it_is_open(bench: Bench) -> None:
    one = bench.function()
    bench.open()
    bench.emit()
    bench.until_arrived(one, 1)
    two = bench.function()
    bench.route()
    bench.until_in_force()
    bench.emit(first=1)
    bench.until_arrived(one, 2)
    bench.until_arrived(two, 1)
    bench.functions.remove(one)
    bench.route()
    bench.until_in_force()
    bench.emit(first=2)
    bench.until_arrived(two, 2)
    ensure(len(one.arrived) == 2, "a function whose trigger was removed gets an event")
    bench.functions = [new] = [_successor(bench, two)]
    bench.route()
    bench.until_in_force()
    bench.emit(first=3)
    bench.until_arrived(new, 1)
    ensure(len(two.arrived) == 2, "a function that was replaced gets an event")
    ensure(bench.source.state == "open", "it does not stay open")


@_check(_is_exclusive)
def an_address_goes_from_one_function_to_the_next_while_it_is_open(bench: Bench) -> None:
    one = bench.function()
    bench.open()
    bench.emit()
    bench.until_arrived(one, 1)
    bench.functions = [new] = [_successor(bench, one)]
    bench.route()
    bench.until_in_force()
    bench.emit(first=1)
    bench.until_arrived(new, 1)
    ensure(len(one.arrived) == 1, "a function that was replaced gets an event")
    ensure(bench.source.state == "open", "it does not stay open")


@_check()
def what_waits_for_room_is_not_lost_when_its_function_is_replaced(bench: Bench) -> None:
    old = bench.function(holds=True, size=1)
    bench.open()
    sent = bench.emit(3)
    bench.until(lambda: len(old.arrived) >= 1, "an event")
    bench.turn_for(QUIET_MS)
    new = _successor(bench, old)
    bench.functions.append(new)
    bench.source.routes(new.triggers)
    bench.until_in_force()
    _finish_until(bench, [old, new], 3 if bench.rig.pushes_back else 2)
    bench.turn_for(QUIET_MS)
    came = old.bodies() + new.bodies()
    ensure(len(came) == len(set(came)) or bench.rig.body is not None, f"an event came twice: {came}")
    if bench.rig.pushes_back:
        ensure(sorted(came) == sorted(sent), f"sent were {sent}, there came {came}")


@_check(_can_lose)
def it_recovers_when_the_world_comes_back(bench: Bench) -> None:
    function = bench.function()
    bench.open()
    bench.emit()
    bench.until_arrived(function, 1)
    said = len(bench.host.log.complaints())
    bench.rig.lose()
    try:
        bench.until(lambda: bench.source.state == "connecting", "the source to notice that the world is gone")
        bench.turn_for(10 * QUIET_MS)
        complaints = bench.host.log.complaints()[said:]
        ensure(complaints, "it does not say that the world is gone")
        ensure(len(set(complaints)) == len(complaints), f"it says it more than once: {complaints}")
    finally:
        bench.rig.restore()
    bench.until(lambda: bench.source.state == "open", "the source to be open again")
    bench.until_in_force()
    bench.emit(first=1)
    bench.until_arrived(function, 2)
    ensure(bench.host.states[-3:] == ["open", "connecting", "open"], f"the states told were {bench.host.states}")


@_check(_can_lose)
def what_is_done_while_the_world_is_away_is_done_once(bench: Bench) -> None:
    function = bench.function(holds=True)
    bench.open()
    bench.emit()
    bench.until_arrived(function, 1)
    bench.rig.lose()
    try:
        bench.until(lambda: bench.source.state == "connecting", "the source to notice that the world is gone")
        function.finish(result=b"too late for a reply")
        bench.turn_for(QUIET_MS)
    finally:
        bench.rig.restore()
    bench.until(lambda: bench.source.state == "open", "the source to be open again")
    bench.until_in_force()
    bench.emit(first=1)
    bench.until(lambda: len(function.arrived) >= 2, "an event after the return")
    bench.turn_for(3 * QUIET_MS)
    if bench.rig.body is None:
        ensure(function.bodies() == [b"0", b"1"], f"what came is {function.bodies()}")
    _finish_all(bench, function)


@_check()
def a_stopped_source_takes_nothing_more_and_finishes_what_it_has(bench: Bench) -> None:
    function = bench.function(holds=True)
    bench.open()
    bench.emit()
    bench.until_arrived(function, 1)
    bench.source.stop_receiving()
    bench.source.stop_receiving()
    if not bench.rig.own_schedule:
        bench.emit(first=1)
    bench.turn_for(QUIET_MS)
    ensure(len(function.arrived) == 1, "an event arrives after stop_receiving()")
    function.finish(result=b"an answer")
    if bench.rig.can("acknowledged"):
        bench.until(lambda: bench.rig.acknowledged() >= 1, "the acknowledgement of what was taken before")
    if bench.rig.can("replied"):
        bench.until(bench.rig.replied, "the reply to what was taken before")
    bench.source.close()


@_check()
def it_can_be_closed_twice_and_before_it_was_opened(bench: Bench) -> None:
    bench.function()
    bench.route()
    bench.source.close()
    bench.open()
    bench.source.close()
    bench.source.close()


@_check()
def it_can_be_closed_with_events_in_flight_and_refused(bench: Bench) -> None:
    function = bench.function(holds=True, size=1)
    bench.open()
    bench.emit(3)
    bench.until(lambda: function.arrived, "an event")
    bench.turn_for(QUIET_MS)
    bench.source.stop_receiving()
    bench.source.close()
    while function.held:
        function.finish(result=b"too late")  # whom it still reaches is the source's affair; it must not raise
    bench.turn_for(QUIET_MS)
    ensure(len(function.arrived) == 1, "a refused event is submitted after close()")


@_check(_can_lose)
def it_can_be_closed_while_the_world_is_away(bench: Bench) -> None:
    bench.function()
    bench.open()
    bench.rig.lose()
    try:
        bench.until(lambda: bench.source.state == "connecting", "the source to notice that the world is gone")
        bench.source.close()
        bench.turn_for(QUIET_MS)
    finally:
        bench.rig.restore()


def _finish_all(bench: Bench, function: Function) -> None:
    """Finish what is held, with a turn for what comes next."""
    while function.held:
        function.finish()
    bench.turn()


def _finish_until(bench: Bench, functions: list[Function], count: int) -> None:
    """Finish what comes until so many events have come to the functions together."""

    def enough() -> bool:
        for function in functions:
            _finish_all(bench, function)
        return sum(len(function.arrived) for function in functions) >= count

    bench.until(enough, f"{count} events")


def _successor(bench: Bench, old: Function) -> Function:
    """The new version of a function: another object with the name and triggers of the old one."""
    new = bench.function()
    bench.functions.remove(new)
    new.name = old.name
    new.triggers.clear()
    new.listen(bench.rig.trigger)
    return new
