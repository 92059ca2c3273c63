"""What a handler returns to be awaited, though nothing shows that it is async, and an async init_context."""

from __future__ import annotations

import textwrap
import threading
import warnings
from typing import TYPE_CHECKING

import pytest

from tests.rig import MEMORY, Rig, Settled
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FUNCTION = """
[function.f]
handler = "f.py"
isolation = "{isolation}"
{keys}
[[function.f.trigger]]
source = "mem"
path = "/f"
"""
BLOCKING = ["thread", "process"]

HIDDEN = """
import asyncio, functools

async def real(context, event):
    await asyncio.sleep(0)
    if event.raw_body == b"fail":
        raise ValueError("no")
    if event.raw_body == b"nothing":
        return None
    return 201, event.raw_body.decode()

def hide(call):
    @functools.wraps(call)
    def shown(context, event):
        return call(context, event)
    return shown

handler = HANDLER
"""


@pytest.fixture(autouse=True)
def _strict() -> Iterator[None]:
    """What was never awaited is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def rig(folder: Path, code: str, isolation: str, keys: str = "") -> Rig:
    return Rig(folder, MEMORY + FUNCTION.format(isolation=isolation, keys=keys), f=textwrap.dedent(code))


@pytest.mark.parametrize("handler", ["hide(real)", "lambda context, event: real(context, event)", "real"])
@pytest.mark.parametrize("isolation", BLOCKING)
def test_what_a_handler_returns_to_be_awaited_is_awaited(tmp_path: Path, isolation: str, handler: str) -> None:
    with rig(tmp_path, HIDDEN.replace("HANDLER", handler), isolation) as it:
        assert it.ask("/f", b"x") == (201, b"x")
        assert it.ask("/f", b"nothing") == (200, b"")
        status, body = it.ask("/f", b"fail")
        assert (status, b"no" in body) == (500, True)
        settled = Settled()
        for number in range(50):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == 50)
        assert settled.bodies() == [b"%d" % number for number in range(50)]
        assert it.balanced()


@pytest.mark.parametrize("told", [True, False])
def test_an_inline_function_cannot_await_and_says_so(tmp_path: Path, told: bool) -> None:
    with rig(tmp_path, HIDDEN.replace("HANDLER", "hide(real)"), "inline") as it:
        settled = Settled()
        it.deliver("/f", b"x", settled if told else None)
        trigger = it.trigger("f")
        it.until(lambda: trigger.admitted and not trigger.pending)
        assert trigger.failed == 1
        assert 'isolation = "inline"' in it.records.text()
        if told:
            assert settled.statuses() == [500]


def test_what_is_bound_to_the_loop_of_a_worker_can_be_used_by_its_next_event(tmp_path: Path) -> None:
    code = """
    import asyncio

    async def init_context(context):
        context.user_data.lock = asyncio.Lock()
        context.user_data.loop = asyncio.get_running_loop()

    async def real(context, event):
        async with context.user_data.lock:
            await asyncio.sleep(0)
        return str(asyncio.get_running_loop() is context.user_data.loop)

    handler = lambda context, event: real(context, event)
    """
    with rig(tmp_path, code, "thread") as it:
        assert [it.ask("/f") for _ in range(3)] == [(200, b"True")] * 3


@pytest.mark.parametrize("isolation", ["inline", *BLOCKING])
def test_an_async_init_context_runs_before_a_handler_that_is_not(tmp_path: Path, isolation: str) -> None:
    code = """
    import asyncio
    async def init_context(context):
        await asyncio.sleep(0)
        context.user_data.ready = "yes"
    def handler(context, event):
        return context.user_data.ready
    """
    with rig(tmp_path, code, isolation) as it:
        assert it.ask("/f") == (200, b"yes")


@pytest.mark.parametrize("isolation", ["inline", *BLOCKING])
def test_an_async_init_context_that_fails_suspends_its_function(tmp_path: Path, isolation: str) -> None:
    code = """
    async def init_context(context):
        raise RuntimeError("init broke")
    def handler(context, event):
        return "ran"
    """
    with rig(tmp_path, code, isolation) as it:
        it.deliver("/f")
        it.until(lambda: it.processor.functions["f"].suspended)
        assert "init broke" in it.records.text()
        assert it.trigger("f").handled == 0


@pytest.mark.parametrize("swallows", [0, 1, 100])
def test_what_is_awaited_past_the_timeout_fails_its_event_and_its_thread_ends(tmp_path: Path, swallows: int) -> None:
    code = """
    import asyncio

    async def real(context, event):
        for left in range(SWALLOWS, -1, -1) if event.raw_body == b"hang" else ():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if not left:
                    raise
        return "ok"

    def handler(context, event):
        return real(context, event)
    """
    with rig(tmp_path, code.replace("SWALLOWS", str(swallows)), "thread", 'timeout = "100ms"') as it:
        settled = Settled()
        it.deliver("/f", b"hang", settled)
        it.until(lambda: settled.outcomes)
        assert settled.statuses() == [408]
        assert it.ask("/f") == (200, b"ok")
        runner = it.processor.functions["f"].runner
        it.until(lambda: runner.lost == 0, "the end of the thread, though it waited in C")
        assert it.balanced()


def test_what_is_awaited_holds_up_nobody_else(tmp_path: Path) -> None:
    code = """
    import asyncio
    async def real(context, event):
        await asyncio.sleep(0.2 if event.raw_body == b"slow" else 0)
        return event.raw_body
    def handler(context, event):
        return real(context, event)
    """
    other = FUNCTION.replace("function.f", "function.g").replace('"/f"', '"/g"').replace("f.py", "g.py")
    text = MEMORY + FUNCTION.format(isolation="thread", keys="") + other.format(isolation="inline", keys="")
    with Rig(tmp_path, text, f=textwrap.dedent(code), g="def handler(context, event):\n    return 'g'\n") as it:
        for _ in range(200):  # until its handler is short enough to be called on the loop's own thread
            it.ask("/f")
        settled = Settled()
        it.deliver("/f", b"slow", settled)
        assert it.ask("/g") == (200, b"g")
        assert not settled.outcomes
        it.until(lambda: settled.outcomes)


@pytest.mark.parametrize("way", ["inline", *BLOCKING, "async"])
def test_a_value_that_answers_to_every_name_is_no_awaitable(tmp_path: Path, way: str) -> None:
    code = """
    class AttrDict(dict):
        __getattr__ = dict.get
    def handler(context, event):
        return AttrDict(a=1)
    """
    if way == "async":
        code = code.replace("def handler", "async def handler")
    with rig(tmp_path, code, "thread" if way == "async" else way) as it:
        assert it.ask("/f") == (200, b'{"a":1}')


LEAVES = """
import asyncio, sys

async def tick():
    while True:
        for _ in range(20_000):
            pass
        await asyncio.sleep(0)

async def exits():
    await asyncio.sleep(0.05)
    sys.exit(3)

async def cleans(context):
    try:
        await asyncio.sleep(3600)
    finally:
        context.logger.info("cleaned up")

async def real(context, event):
    if event.raw_body == b"tick":
        context.user_data.kept = asyncio.create_task(tick())
        await asyncio.sleep(3600)
    if event.raw_body == b"exits":
        context.user_data.kept = asyncio.create_task(exits())
    if event.raw_body == b"cleans":
        context.user_data.kept = asyncio.create_task(cleans(context))
        await asyncio.sleep(0)
    if event.raw_body == b"waits":
        await asyncio.sleep(0.2)
    if event.raw_body == b"closes":
        asyncio.get_running_loop().call_soon(lambda: None)
        context.user_data.loop = asyncio.get_running_loop()
    return "ok"

def handler(context, event):
    loop = getattr(context.user_data, "loop", None)
    if loop is not None and event.raw_body == b"next":
        loop.close()
    return real(context, event)
"""


def test_a_timeout_reaches_what_is_awaited_beside_a_task_that_is_never_done(tmp_path: Path) -> None:
    for _ in range(3):  # the exception that is raised into the thread hits the one or the other
        with rig(tmp_path, LEAVES, "thread", 'timeout = "100ms"') as it:
            assert it.ask("/f", b"tick")[0] == 408
            runner = it.processor.functions["f"].runner
            it.until(lambda: runner.lost == 0, "the end of the thread")  # noqa: B023 - called at once


def test_what_a_task_that_was_left_behind_raises_is_said_and_fails_no_other_event(tmp_path: Path) -> None:
    with rig(tmp_path, LEAVES, "thread") as it:
        assert it.ask("/f", b"exits") == (200, b"ok")
        assert it.ask("/f", b"waits") == (200, b"ok")
        it.until(lambda: "a background task ended by SystemExit" in it.records.text())


def test_tasks_that_were_left_behind_are_cancelled_when_their_worker_ends(tmp_path: Path) -> None:
    it = rig(tmp_path, LEAVES, "thread")
    with it:
        assert it.ask("/f", b"cleans") == (200, b"ok")
    assert "cleaned up" in it.records.text()


def test_a_loop_that_a_handler_has_closed_is_made_anew(tmp_path: Path) -> None:
    with rig(tmp_path, LEAVES, "thread") as it:
        assert it.ask("/f", b"closes") == (200, b"ok")
        assert it.ask("/f", b"next") == (200, b"ok")


def test_a_loop_that_a_handler_runs_elsewhere_keeps_the_processor_from_nothing(tmp_path: Path) -> None:
    code = """
    import asyncio, threading
    loops = []
    async def real(context, event):
        loops.append(asyncio.get_running_loop())
        return "ok"
    def handler(context, event):
        if event.raw_body == b"run":
            threading.Thread(target=loops[0].run_forever).start()
            return "ok"
        if event.raw_body == b"stop":
            loops[0].call_soon_threadsafe(loops[0].stop)
            return "ok"
        return real(context, event)
    """
    with rig(tmp_path, code, "thread") as it:
        for body in (b"", b"run"):
            assert it.ask("/f", body) == (200, b"ok")
        worker = it.processor.functions["f"].runner.workers[0]
        awaiter = worker.awaiter
        worker.close()  # as at a stop
        assert it.ask("/f", b"stop") == (200, b"ok")
        it.until(lambda: not awaiter._aio.is_running())
        awaiter.close()


@pytest.mark.parametrize("isolation", BLOCKING)
def test_last_words_that_are_async_run_on_the_loop_of_their_worker(tmp_path: Path, isolation: str) -> None:
    code = """
    import asyncio
    async def init_context(context):
        context.user_data.loop = asyncio.get_running_loop()
        async def last():
            context.logger.info("same loop: %s" % (asyncio.get_running_loop() is context.user_data.loop))
        context.platform.set_termination_callback(last)
    def handler(context, event):
        return "ok"
    """
    it = rig(tmp_path, code, isolation)
    with it:
        assert it.ask("/f") == (200, b"ok")
    assert "same loop: True" in it.records.text()


def test_async_last_words_that_do_not_end_are_given_up_and_leave_nothing_behind(tmp_path: Path) -> None:
    code = """
    import asyncio
    def init_context(context):
        context.platform.set_termination_callback(lambda: asyncio.sleep(3600))
    def handler(context, event):
        return "ok"
    """
    it = rig(tmp_path, code, "thread", 'timeout = "200ms"\nworkers = 2')
    with it:
        assert it.ask("/f") == (200, b"ok")
        runner = it.processor.functions["f"].runner
    wait_until(lambda: runner.lost == 0 or not any(t.name.startswith("worker-") for t in threading.enumerate()))
    assert it.records.text().count("callbacks still running") == 2


@pytest.mark.parametrize("isolation", BLOCKING)
def test_an_awaited_none_is_nothing_for_an_output(tmp_path: Path, isolation: str) -> None:
    more = '[[function.f.output]]\nsource = "mem"\n'.replace("source", "to")
    text = MEMORY + FUNCTION.format(isolation=isolation, keys="") + more
    code = textwrap.dedent(HIDDEN.replace("HANDLER", "hide(real)"))
    with Rig(tmp_path, text, f=code) as it:
        for body in (b"nothing", b"x", b"nothing"):
            it.deliver("/f", body)
        it.until(lambda: it.trigger("f").handled == 3)
        assert [body for _, body in it.processor.sources["mem"].outputs] == [b"x"]


@pytest.mark.parametrize("isolation", BLOCKING)
@pytest.mark.parametrize("first", [b"", b"await"])
def test_generators_do_not_depend_on_what_was_awaited_before(tmp_path: Path, isolation: str, first: bytes) -> None:
    code = """
    import asyncio
    async def real(context, event):
        return "awaited"
    async def agen():
        yield "a"
        yield "b"
    async def late():
        return agen()
    async def one():
        return "1"
    def gen():
        yield asyncio.run(one())
        yield "2"
    def handler(context, event):
        return {b"await": real(context, event) if event.raw_body == b"await" else None, b"agen": agen(), b"gen": gen(),
            b"late": late() if event.raw_body == b"late" else None}.get(event.raw_body)
    """
    with rig(tmp_path, code, isolation) as it:
        it.ask("/f", first)
        assert [it.ask("/f", body) for body in (b"agen", b"gen", b"late")] == [(200, b"ab"), (200, b"12"), (200, b"ab")]


def test_a_function_may_call_itself_from_what_its_worker_awaits_if_another_worker_is_there(tmp_path: Path) -> None:
    code = """
    import nuclio_sdk
    async def real(context, event):
        if event.raw_body == b"inner":
            return "inner"
        answer = context.platform.call_function("f", nuclio_sdk.Event(body=b"inner"))
        return b"outer " + answer.body
    def handler(context, event):
        return real(context, event)
    """
    with rig(tmp_path, code, "thread", "workers = 2") as it:
        assert it.ask("/f", b"outer") == (200, b"outer inner")
