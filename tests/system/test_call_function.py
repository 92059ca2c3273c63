"""`context.platform.call_function`: a function of the same processor is called in it, by the way of every event."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.rig import MEMORY, Rig, Settled
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION = """
[function.{name}]
handler = "{name}.py"
{keys}
[[function.{name}.trigger]]
source = "mem"
path = "/{name}"
"""
ASKS = """
import nuclio_sdk
def handler(context, event):
    answer = context.platform.call_function(WHOM, nuclio_sdk.Event(body=event.body, path="/p", method="PUT", **MORE))
    return [answer.status_code, answer.content_type, answer.body if isinstance(answer.body, dict) else str(answer.body)]
"""
TELLS = """
def handler(context, event):
    return {
        "body": event.raw_body.decode(), "type": event.content_type, "path": event.path, "method": event.method,
        "target": event.get_header("X-Nuclio-Target"), "trigger": [event.trigger.kind, event.trigger.name],
        "function": context.function_name,
    }
"""
KINDS = ["thread", "process", "async"]


def rig(folder: Path, *, keys: dict[str, str] | None = None, **functions: str) -> Rig:
    keys = keys or {}
    text = MEMORY + "".join(FUNCTION.format(name=name, keys=keys.get(name, "")) for name in functions)
    return Rig(folder, text, **{name: textwrap.dedent(code) for name, code in functions.items()})


def asks(whom: str, **more: object) -> str:
    return ASKS.replace("WHOM", repr(whom)).replace("**MORE", ", ".join(f"{k}={v!r}" for k, v in more.items()))


def as_kind(kind: str, code: str) -> tuple[str, str]:
    """The code, and its keys in the manifest."""
    if kind == "async":
        return code.replace("def handler", "async def handler"), ""
    return code, f'isolation = "{kind}"'


@pytest.mark.parametrize("caller", KINDS)
@pytest.mark.parametrize("called", [*KINDS, "inline"])
def test_every_kind_of_function_calls_every_kind(tmp_path: Path, caller: str, called: str) -> None:
    a, a_keys = as_kind(caller, asks("b", content_type="text/csv", headers={"X-Mine": "1"}))
    b, b_keys = as_kind(called, TELLS)
    with rig(tmp_path, keys={"a": a_keys, "b": b_keys}, a=a, b=b) as it:
        status, body = it.ask("/a", b"21,5")
        said = body.decode()
        assert status == 200, said
        assert '[200,"application/json",{' in said
        for part in (
            '"body":"21,5"',
            '"type":"text/csv"',
            '"path":"/p"',
            '"method":"PUT"',
            '"target":"b"',
            '"trigger":["call","call"]',
            '"function":"b"',
        ):
            assert part in said
        assert it.ask("/a", b"again")[0] == 200
        assert it.ask("/b", b"its own")[0] == 200
        # Three events from the source, two from the caller, and all of them have come to an end.
        tally = it.processor.tally()
        assert (tally.received, tally.handled, tally.pending, tally.wrong) == (5, 5, 0, [])


@pytest.mark.parametrize("caller", KINDS)
def test_a_function_that_is_not_here_is_called_over_http(tmp_path: Path, caller: str) -> None:
    code, keys = as_kind(caller, asks("elsewhere"))
    with rig(tmp_path, keys={"a": keys}, a=code) as it:
        status, body = it.ask("/a")
        assert status == 500
        assert b"gaierror" in body


@pytest.mark.parametrize("caller", KINDS)
def test_a_failure_of_the_called_one_is_its_answer_and_counted_there(tmp_path: Path, caller: str) -> None:
    code, keys = as_kind(caller, asks("b"))
    with rig(tmp_path, keys={"a": keys}, a=code, b="def handler(context, event):\n    raise KeyError('b fails')") as it:
        status, body = it.ask("/a")
        assert status == 200
        assert b"500" in body and b"b fails" in body
        assert (it.processor.tally().handled, it.processor.tally().failed) == (1, 1)
        assert 'File "b.py", line 2, in handler' in it.records.text()


@pytest.mark.parametrize("caller", KINDS)
def test_the_timeout_of_a_call_is_an_error_of_the_call_alone(tmp_path: Path, caller: str) -> None:
    code = """
    import nuclio_sdk
    def handler(context, event):
        try:
            context.platform.call_function("b", nuclio_sdk.Event(body=b""), timeout=0.1)
        except TimeoutError as error:
            return str(error)
    """
    code, keys = as_kind(caller, textwrap.dedent(code))
    slow = "import os, time\ndef handler(context, event):\n    while not os.path.exists(FILE): time.sleep(0.01)\n"
    slow = slow.replace("FILE", repr(str(tmp_path / "go")))
    with rig(tmp_path, keys={"a": keys}, a=code, b=slow) as it:
        assert it.ask("/a") == (200, b"call_function: b has not answered within 0.1 s")
        (tmp_path / "go").touch()
        it.until(lambda: it.processor.tally().handled == 2)
        assert it.balanced()


def test_the_called_ones_own_timeout_answers_408(tmp_path: Path) -> None:
    with rig(
        tmp_path, keys={"b": 'timeout = "100ms"'}, a=asks("b"), b="import time\ndef handler(c, e):\n    time.sleep(3)\n"
    ) as it:
        status, body = it.ask("/a")
        assert status == 200 and body.startswith(b"[408,")


@pytest.mark.parametrize("kind", KINDS)
def test_a_function_that_calls_itself_with_no_worker_left_is_told_so_at_once(tmp_path: Path, kind: str) -> None:
    code, keys = as_kind(kind, asks("a"))
    with rig(tmp_path, keys={"a": keys}, a=code) as it:
        status, body = it.ask("/a")
        assert status == 500
        assert b"a -> a: it would wait for itself" in body
        assert (b"asyncio.to_thread" if kind == "async" else b"workers = 2") in body
        assert it.balanced()


@pytest.mark.parametrize("kind", KINDS)
def test_and_so_is_one_that_does_so_through_another(tmp_path: Path, kind: str) -> None:
    code, keys = as_kind(kind, asks("b"))
    with rig(tmp_path, keys={"a": keys}, a=code, b=asks("a")) as it:
        status, body = it.ask("/a")
        assert status == 200  # of a; b has failed
        assert b"a -> b -> a: it would wait for itself" in body
        assert it.balanced()


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_with_a_second_worker_it_may_call_itself_once(tmp_path: Path, isolation: str) -> None:
    code = """
    import nuclio_sdk
    def handler(context, event):
        if event.raw_body == b"0":
            return "bottom"
        body = str(int(event.raw_body) - 1)
        return context.platform.call_function("a", nuclio_sdk.Event(body=body)).body
    """
    with rig(tmp_path, keys={"a": f'workers = 2\nisolation = "{isolation}"'}, a=code) as it:
        assert it.ask("/a", b"1") == (200, b"bottom")
        body = it.ask("/a", b"2")[1]
        assert b"a -> a -> a: it would wait for itself, as no worker is left; write workers = 3" in body


def test_workers_that_take_each_others_last_place_are_ended_by_the_timeout_and_the_function_works_on(
    tmp_path: Path,
) -> None:
    code = """
    import nuclio_sdk
    def handler(context, event):
        if event.raw_body == b"in":
            return "in"
        return context.platform.call_function("a", nuclio_sdk.Event(body=b"in")).body
    """
    with rig(tmp_path, keys={"a": 'workers = 2\ntimeout = "500ms"'}, a=code) as it:
        settled = Settled()
        it.deliver("/a", b"out", settled)
        it.deliver("/a", b"out", settled)
        it.until(lambda: len(settled.outcomes) == 2)
        it.until(lambda: not it.trigger("a", 1).pending)
        it.until(lambda: it.processor.functions["a"].suspended is None and not it.processor.functions["a"].runner.lost)
        assert it.ask("/a", b"in") == (200, b"in")
        assert it.balanced()


def test_an_inline_handler_is_told_that_it_cannot_wait(tmp_path: Path) -> None:
    with rig(tmp_path, keys={"a": 'isolation = "inline"'}, a=asks("b"), b=TELLS) as it:
        status, body = it.ask("/a")
        assert status == 500
        assert b'function.a runs on the loop, which cannot wait; leave isolation = "inline" out' in body


def test_an_async_handler_that_waits_on_a_thread_goes_on_with_other_events(tmp_path: Path) -> None:
    code = """
    import asyncio, nuclio_sdk
    async def handler(context, event):
        if event.raw_body == b"in":
            return "in"
        call = context.platform.call_function
        return (await asyncio.to_thread(call, "a", nuclio_sdk.Event(body=b"in"))).body
    """
    with rig(tmp_path, a=code) as it:
        assert it.ask("/a", b"out") == (200, b"in")


def test_a_call_reaches_a_function_that_is_flooded(tmp_path: Path) -> None:
    with rig(
        tmp_path, a=asks("b"), b=TELLS.replace("    return", "    import time; time.sleep(0.001)\n    return")
    ) as it:
        settled = Settled()
        asked = Settled()
        for _ in range(200):
            it.deliver("/b", b"flood", settled)
        it.until(lambda: settled.outcomes)
        it.deliver("/a", b"", asked)

        def flood() -> bool:
            while it.trigger("b").pending < 200:
                it.deliver("/b", b"flood", settled)
                it.processor.loop.turn(0)
            return bool(asked.outcomes)

        it.until(flood, "the call among the flood")
        assert asked.statuses() == [200]


def test_a_handler_of_batches_gets_a_list_of_one(tmp_path: Path) -> None:
    text = MEMORY + FUNCTION.format(name="a", keys="") + FUNCTION.format(name="b", keys="")
    code = "def handler(context, events):\n    return [len(events), events[0].raw_body.decode()]\n"
    with Rig(tmp_path, text + 'batch = { size = 5, timeout = "10ms" }\n', a=asks("b"), b=code) as it:
        assert it.ask("/a", b"one")[1] == b'[200,"application/json","[1, \'one\']"]'
        assert it.ask("/b", b"two") == (200, b'[1,"two"]')
        assert it.balanced()


def test_a_stop_lets_a_call_come_to_its_end(tmp_path: Path) -> None:
    slow = "import time\ndef handler(context, event):\n    print('begun')\n    time.sleep(0.3)\n    return 'done'\n"
    settled = Settled()
    with rig(tmp_path, a=asks("b"), b=slow) as it:
        it.deliver("/a", b"", settled)
        it.until(lambda: "begun" in it.records.text())
    assert settled.bodies() == [b'[200,"text/plain","b\'done\'"]']


def test_a_call_that_a_stop_leaves_behind_is_let_go(tmp_path: Path) -> None:
    waits = f"""
import nuclio_sdk
def handler(context, event):
    try:
        context.platform.call_function("b", nuclio_sdk.Event(body=b""))
    finally:
        open({str(tmp_path / "let go")!r}, "w").close()
"""
    hangs = f"""
import os, time
def handler(context, event):
    print("begun")
    while not os.path.exists({str(tmp_path / "go")!r}):
        time.sleep(0.01)
"""
    functions = FUNCTION.format(name="a", keys="") + FUNCTION.format(name="b", keys="")
    with Rig(tmp_path, 'stop_timeout = "100ms"\n' + MEMORY + functions, a=waits, b=hangs) as it:
        it.deliver("/a")
        it.until(lambda: "begun" in it.records.text())
    wait_until((tmp_path / "let go").exists)
    (tmp_path / "go").touch()


@pytest.mark.parametrize("caller", KINDS)
def test_a_suspended_function_answers_503(tmp_path: Path, caller: str) -> None:
    code, keys = as_kind(caller, asks("b"))
    with rig(tmp_path, keys={"a": keys}, a=code, b="raise ValueError\ndef handler(context, event): ...\n") as it:
        status, body = it.ask("/a")
        assert status == 200 and body.startswith(b"[503,")
