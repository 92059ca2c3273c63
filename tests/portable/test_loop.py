"""The loop: order, timers, calls that fail."""

from nuclio_edge.core import port
from nuclio_edge.core.loop import Loop


def test_timers_run_in_the_order_of_their_times_and_equal_times_in_the_order_of_asking():
    loop = Loop()
    ran = []
    now = port.ticks_ms()
    loop.call_at(now + 2, lambda: ran.append("c"))
    loop.call_at(now + 1, lambda: ran.append("a"))
    loop.call_at(now + 1, lambda: ran.append("b"))
    while len(ran) < 3:
        loop.turn(10)
    loop.close()
    assert ran == ["a", "b", "c"], ran


def test_a_cancelled_timer_does_not_run_and_costs_no_wake_up():
    loop = Loop()
    ran = []
    timer = loop.call_later(1, lambda: ran.append(1))
    timer.cancel()
    timer.cancel()
    assert loop._wait_ms(500) == 500
    loop.turn(5)
    loop.close()
    assert ran == []


def test_cancelled_timers_do_not_pile_up():
    loop = Loop()
    keep = loop.call_later(1_000_000, lambda: None)
    for _ in range(1000):
        loop.call_later(1_000_000, lambda: None).cancel()
    assert len(loop._timers) < 200, len(loop._timers)
    keep.cancel()
    loop.close()


def test_a_timer_cancelled_by_the_one_before_it_does_not_run():
    loop = Loop()
    ran = []
    now = port.ticks_ms()
    later = []
    loop.call_at(now, lambda: later[0].cancel())  # noqa: PLW0108 - it is not there yet
    later.append(loop.call_at(now, lambda: ran.append(1)))
    loop.turn(5)
    loop.turn(5)
    loop.close()
    assert ran == []


def test_a_call_that_raises_is_reported_and_the_others_go_on():
    loop = Loop()
    failures = []
    ran = []
    loop.on_error = lambda error, call: failures.append(str(error))

    def fail():
        raise ValueError("bad")

    loop.call_soon(fail)
    loop.call_soon(lambda: ran.append("soon"))
    loop.post(fail)
    loop.post(lambda: ran.append("post"))
    loop.at_turn_end(fail)
    loop.at_turn_end(lambda: ran.append("end"))
    loop.call_later(0, fail)
    loop.turn(10)
    loop.turn(10)
    loop.close()
    assert sorted(ran) == ["end", "post", "soon"], ran
    assert failures == ["bad"] * 4, failures


def test_what_is_asked_for_the_turns_end_comes_after_everything_of_the_turn():
    loop = Loop()
    ran = []
    loop.at_turn_end(lambda: ran.append("end"))
    loop.call_soon(lambda: ran.append("soon"))
    loop.turn(0)
    loop.close()
    assert ran == ["soon", "end"], ran


def test_call_soon_from_a_call_waits_for_the_next_turn():
    loop = Loop()
    ran = []
    again = lambda: loop.call_soon(lambda: ran.append(1))  # noqa: E731 - shorter
    loop.call_soon(again)
    loop.post(again)
    loop.turn(0)
    assert ran == []
    loop.turn(0)
    loop.close()
    assert ran == [1, 1]


def test_run_ends_with_the_turn_in_which_stop_was_called():
    loop = Loop()
    ran = []

    def stop():
        ran.append(1)
        loop.stop()

    loop.call_soon(stop)
    loop.run()
    loop.close()
    assert ran == [1]
