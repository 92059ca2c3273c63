"""What ships for the tests of users: a handler called with a context that notes, and a clock that stands."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pytest

from nuclio_edge.core import port
from nuclio_edge.core.event import Event
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.response import ExceptionWithResponse
from nuclio_edge.testing import Clock, Recorder, make_event, run_handler


@pytest.mark.parametrize(
    ("returned", "status", "body"),
    [
        (None, 200, b""),
        ("text", 200, b"text"),
        ({"a": 1}, 200, b'{"a":1}'),
        ((201, "made"), 201, b"made"),
    ],
)
def test_a_handler_answers_as_it_would_answer_a_requester(returned: Any, status: int, body: bytes) -> None:
    response = run_handler(lambda context, event: returned, b"")
    assert (response.status_code, response.body) == (status, body)


def test_an_async_handler_is_run_to_its_end() -> None:
    async def handler(context: Any, event: Any) -> Any:
        import asyncio

        await asyncio.sleep(0)
        return event.body

    assert run_handler(handler, "x").body == b"x"


def test_an_exception_is_raised_unless_there_is_a_recorder() -> None:
    def handler(context: Any, event: Any) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_handler(handler)
    response = run_handler(handler, recorder=Recorder())
    assert (response.status_code, response.body) == (500, b"Exception caught in handler - ValueError: no")

    def teapot(context: Any, event: Any) -> None:
        raise ExceptionWithResponse(418, "short and stout")

    assert run_handler(teapot, recorder=Recorder()).status_code == 418


def test_the_event_is_made_of_a_body_and_what_is_said_about_it() -> None:
    event = make_event({"t": 1}, topic="a/b", headers={"X": "y"})
    assert (event.body, event.fields, event.content_type) == ({"t": 1}, {"t": 1}, "application/json")
    assert (event.path, event.get_header("x"), event.size) == ("a/b", "y", 7)
    assert (event.trigger.kind, event.trigger.name) == ("test", "test")
    assert make_event("21.5").get_field("value") == make_event(b"21.5").get_field("value")
    assert make_event().raw_body == b""
    whole = Event(body="x", topic="t")
    assert run_handler(lambda context, event: event is whole and event.topic, whole).body == b"t"


def test_what_a_handler_does_is_noted_in_order() -> None:
    recorder = Recorder(env={"A": "b"}, name="door", level="info")
    recorder.returns["db", "get"] = 5
    recorder.returns["db", "set"] = lambda key, value: (key, value)

    def handler(context: Any, event: Any) -> Any:
        context.logger.debug("not at this level")
        context.logger.info("hello %s", "you")
        context.logger.warn_with("look", "x", 1, y=2)
        context.bindings["broker"].publish("a/b", b"1", qos=1)
        assert context.data_binding["db"].set("k", context.bindings.get("db").get("k")) == ("k", 5)
        assert "anything" in context.bindings
        return [context.env["A"], context.function_name, context.trigger.kind]

    assert run_handler(handler, recorder=recorder).body == b'["b","door","test"]'
    assert recorder.logs == [("info", "hello you", {}), ("warning", "look", {"x": 1, "y": 2})]
    assert recorder.calls == [
        ("broker", "publish", ("a/b", b"1"), {"qos": 1}),
        ("db", "get", ("k",), {}),
        ("db", "set", ("k", 5), {}),
    ]
    assert recorder.calls[0] != ("broker", "publish", ("a/b", b"2"), {"qos": 1})
    assert recorder.sent("broker") == [("a/b", b"1", 1)]
    assert list(recorder.context.bindings) == ["broker", "db"]
    assert repr(recorder.calls[0]) == "broker.publish('a/b', b'1', qos=1)"


def test_init_context_and_several_events_share_one_recorder() -> None:
    recorder = Recorder()
    recorder.context.user_data.count = 0

    def handler(context: Any, event: Any) -> Any:
        context.user_data.count += 1
        return context.user_data.count

    assert [run_handler(handler, recorder=recorder).body for _ in range(3)] == [b"1", b"2", b"3"]


def test_the_clock_stands_until_it_is_told_to_go_on_and_gives_the_real_one_back() -> None:
    real = port.ticks_ms, port.now_ms
    with Clock(wall=5000, ticks=100) as clock:
        assert (port.ticks_ms(), port.now_ms()) == (100, 5000)
        clock.skip(50)
        clock.wall -= 4000
        assert (port.ticks_ms(), port.now_ms()) == (150, 1050)
    assert (port.ticks_ms, port.now_ms) == real


def test_advancing_runs_what_is_due_each_at_its_time_and_in_order() -> None:
    with Clock(ticks=0) as clock:
        loop = Loop()
        seen: list[tuple[str, int]] = []

        def again() -> None:
            seen.append(("again", loop.now))
            loop.call_later(30, again)
            loop.call_soon(lambda: seen.append(("soon", loop.now)))

        loop.call_later(30, again)
        loop.call_later(45, lambda: seen.append(("once", loop.now)))
        loop.call_later(101, lambda: seen.append(("too late", loop.now)))
        clock.advance(100, loop)
        assert seen == [
            ("again", 30),
            ("soon", 30),
            ("once", 45),
            ("again", 60),
            ("soon", 60),
            ("again", 90),
            ("soon", 90),
        ]
        assert clock.ticks == loop.now == 100
        loop.post(lambda: seen.append(("posted", loop.now)))
        clock.advance(0, loop)
        assert seen[-1] == ("posted", 100)
        loop.close()


def test_other_threads_reach_a_loop_whose_clock_stands() -> None:
    with Clock() as clock:
        loop = Loop()
        heard: list[int] = []
        thread = threading.Thread(target=lambda: loop.post(lambda: heard.append(1)))
        thread.start()
        thread.join()
        clock.advance(1, loop)
        assert heard == [1]
        loop.close()


def test_nothing_of_it_needs_pytest() -> None:
    program = "import sys, nuclio_edge.testing; print([name for name in sys.modules if 'pytest' in name])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
