"""An answer that is a generator: put together where its handler ran, in its time, and nothing else waits for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nuclio_edge.functions import streams
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path


def manifest(function: str = "", trigger: str = "", *, name: str = "f") -> str:
    return f"""
[function.{name}]
handler = "{name}.py"
{function}
[[function.{name}.trigger]]
source = "mem"
path = "/{name}"
{trigger}
"""


SLOW = """
import threading
go, told = threading.Event(), []
def parts():
    told.append(threading.current_thread().name)
    go.wait(20)
    yield "a"
    yield b"b"
    yield "c"
def handler(context, event):
    return {answer}
"""


@pytest.mark.parametrize(
    ("answer", "status"),
    [("parts()", 200), ("context.Response(body=parts(), status_code=201, headers={'k': 'v'})", 201)],
)
def test_a_generator_runs_where_its_handler_ran_and_stalls_nothing_else(
    tmp_path: Path, answer: str, status: int
) -> None:
    fast = "def handler(context, event):\n    return 'fast'\n"
    slow = SLOW.replace("{answer}", answer)
    with Rig(tmp_path, MEMORY + manifest(name="slow") + manifest(name="fast"), slow=slow, fast=fast) as rig:
        settled = Settled()
        rig.deliver("/slow", b"", settled)
        assert rig.ask("/fast") == (200, b"fast")
        assert settled.outcomes == []
        module = rig.processor.functions["slow"].handler.__globals__
        module["go"].set()
        rig.until(lambda: settled.outcomes)
        assert (settled.statuses(), settled.bodies()) == ([status], [b"abc"])
        assert module["told"][0].startswith("worker-")


def test_a_generator_is_under_its_functions_timeout(tmp_path: Path) -> None:
    code = """
import time
def handler(context, event):
    while True:
        time.sleep(0.01)
        yield ""
"""
    with Rig(tmp_path, MEMORY + manifest('timeout = "200ms"'), f=code) as rig:
        assert rig.ask("/f")[0] == 408
        rig.until(lambda: not rig.processor.functions["f"].runner.lost)


def test_a_generator_that_raises_fails_its_event_and_is_tried_again(tmp_path: Path) -> None:
    code = """
calls = []
def handler(context, event):
    calls.append(1)
    yield "a"
    if len(calls) < 2:
        raise KeyError("k")
"""
    with Rig(tmp_path, MEMORY + manifest(trigger='retry = { attempts = 2, backoff = "10ms" }'), f=code) as rig:
        assert rig.ask("/f") == (200, b"a")
        assert (rig.trigger("f").handled, rig.trigger("f").retried) == (1, 1)


def test_a_generator_without_end_costs_its_event_and_not_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "JOINED", 1 << 20)
    code = "def handler(context, event):\n    while True:\n        yield b'x' * 1000\n"
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        status, body = rig.ask("/f")
        assert status == 500 and b"parts are more than 1 MiB" in body


def test_what_an_exception_carries_cannot_come_in_parts(tmp_path: Path) -> None:
    code = """
from nuclio_edge.core.response import ExceptionWithResponse
def handler(context, event):
    raise ExceptionWithResponse(409, (1 for _ in "x"))
"""
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        assert rig.ask("/f") == (500, b"an exception's body cannot come in parts")


def test_a_generator_that_nobody_waits_for_runs_where_its_handler_ran_too(tmp_path: Path) -> None:
    """A QoS 0 message with an output: the loop would run it otherwise."""
    code = SLOW.replace("{answer}", "parts()").replace("go.wait(20)", "pass")
    with Rig(tmp_path, MEMORY + manifest(name="slow") + '[[function.slow.output]]\npath = "/out"\n', slow=code) as rig:
        rig.deliver("/slow")
        rig.until(lambda: rig.trigger("slow").handled)
        assert rig.processor.functions["slow"].handler.__globals__["told"][0].startswith("worker-")


WAYS = ["inline", "thread", "process", "async"]


def in_the_way(folder: Path, way: str, code: str, trigger: str = "", more: str = "") -> Rig:
    """A rig of a function that runs in this way; async is told by its code."""
    if way == "async":
        code = code.replace("def handler", "async def handler")
    kind = "thread" if way == "async" else way
    return Rig(folder, MEMORY + manifest(f'isolation = "{kind}"', trigger) + more, f=code)


FIRST = """
def parts(context):
    yield context.Response(body="first", headers={"A": 1}, content_type="x/y", status_code=202)
    yield "two"
    yield {"three": 3}
def handler(context, event):
    return RETURNED
"""


@pytest.mark.parametrize("way", WAYS)
def test_the_first_part_makes_the_response_as_it_does_where_parts_are_sent(tmp_path: Path, way: str) -> None:
    more = '[[function.f.output]]\npath = "/out"\n'
    with in_the_way(tmp_path, way, FIRST.replace("RETURNED", "parts(context)"), more=more) as rig:
        settled = Settled()
        rig.deliver("/f", b"", settled)
        rig.until(lambda: settled.outcomes)
        [(_, response, _)] = settled.outcomes
        assert response is not None
        assert (response.status_code, response.content_type, response.headers) == (202, "x/y", {"A": "1"})
        assert response.body == b'firsttwo{"three":3}'
        assert list(rig.processor.sources["mem"].outputs) == [("/out", response.body)]


@pytest.mark.parametrize("way", WAYS)
def test_a_response_around_a_generator_wins(tmp_path: Path, way: str) -> None:
    around = "context.Response(body=parts(context), status_code=203, content_type='z/z')"
    with in_the_way(tmp_path, way, FIRST.replace("RETURNED", around)) as rig:
        assert rig.ask("/f") == (203, b'firsttwo{"three":3}')


@pytest.mark.parametrize("way", WAYS)
def test_a_status_beside_a_generator_wins_and_the_first_part_says_the_rest(tmp_path: Path, way: str) -> None:
    with in_the_way(tmp_path, way, FIRST.replace("RETURNED", "208, parts(context)")) as rig:
        settled = Settled()
        rig.deliver("/f", b"", settled)
        rig.until(lambda: settled.outcomes)
        [(_, response, _)] = settled.outcomes
        assert response is not None
        assert (response.status_code, response.content_type, response.headers) == (208, "x/y", {"A": "1"})
        assert response.body == b'firsttwo{"three":3}'


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", ["'x'", "999"])
def test_a_status_beside_a_generator_that_is_none_fails_its_event(tmp_path: Path, way: str, status: str) -> None:
    with in_the_way(tmp_path, way, FIRST.replace("RETURNED", f"{status}, parts(context)")) as rig:
        assert rig.ask("/f")[0] == 500
        assert rig.trigger("f").failed == 1 and rig.balanced()


@pytest.mark.parametrize("way", WAYS)
def test_a_generator_that_fails_fails_its_event_with_the_users_error(tmp_path: Path, way: str) -> None:
    code = (
        "def parts():\n    yield 'a'\n    raise KeyError('broken')\ndef handler(context, event):\n    return parts()\n"
    )
    with in_the_way(tmp_path, way, code) as rig:
        status, body = rig.ask("/f")
        assert (status, rig.trigger("f").failed) == (500, 1)
        assert b"broken" in body
        assert "KeyError" in rig.records.text()


@pytest.mark.parametrize("way", WAYS)
def test_answers_of_a_batch_may_come_in_parts_in_every_way(tmp_path: Path, way: str) -> None:
    code = """
def handler(context, events):
    return [context.Response(body=(str(i) for i in range(n)), event_id=e.id) for n, e in enumerate(events, 1)]
"""
    with in_the_way(tmp_path, way, code, 'batch = { size = 2, timeout = "1s" }') as rig:
        settled = Settled()
        rig.deliver("/f", b"", settled)
        rig.deliver("/f", b"", settled)
        rig.until(lambda: len(settled.outcomes) == 2)
        assert sorted(settled.bodies()) == [b"0", b"01"]


@pytest.mark.parametrize("way", ["process", "async"])
def test_an_async_generator_is_put_together_where_its_handler_is_async(tmp_path: Path, way: str) -> None:
    code = """
async def parts():
    yield "a"
    yield "b"
async def handler(context, event):
    return (200, parts()) if event.body else parts()
""".replace("async def handler", "def handler" if way == "async" else "async def handler")
    with in_the_way(tmp_path, way, code) as rig:
        assert rig.ask("/f") == rig.ask("/f", b"x") == (200, b"ab")
