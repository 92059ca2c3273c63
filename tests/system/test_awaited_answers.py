"""What a handler returns to be awaited, though nothing shows that it is async, and an async init_context."""

from __future__ import annotations

import textwrap
import warnings
from typing import TYPE_CHECKING

import pytest

from tests.rig import MEMORY, Rig, Settled

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


@pytest.mark.parametrize("swallows", [False, True])
def test_what_is_awaited_past_the_timeout_fails_its_event_and_its_thread_ends(tmp_path: Path, swallows: bool) -> None:
    code = """
    import asyncio

    async def real(context, event):
        if event.raw_body == b"hang":
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if not SWALLOWS:
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
