"""Functions with `async def` handlers, in a real processor."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from nuclio_edge.core import port
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

FUNCTION = """
[function.f]
handler = "f.py"
{keys}
[[function.f.trigger]]
source = "mem"
path = "/f"
{more}
"""


def rig(folder: Path, code: str, keys: str = "", more: str = "") -> Rig:
    return Rig(folder, MEMORY + FUNCTION.format(keys=keys, more=more), f=code)


def test_what_a_coroutine_returns_is_the_answer(tmp_path: Path) -> None:
    code = """
import asyncio
async def handler(context, event):
    await asyncio.sleep(0)
    return 201, event.body.decode()
"""
    with rig(tmp_path, code) as it:
        assert it.ask("/f", b"hello") == (201, b"hello")
        assert it.trigger("f").handled == 1


def test_a_coroutine_that_never_suspends_answers_too_and_knows_its_task(tmp_path: Path) -> None:
    code = "import asyncio\nasync def handler(context, event):\n    return str(asyncio.current_task() is not None)"
    with rig(tmp_path, code) as it:
        assert it.ask("/f") == (200, b"True")


def test_what_a_coroutine_raises_fails_its_event_only(tmp_path: Path) -> None:
    code = "async def handler(context, event):\n    return 1 // int(event.body)"
    with rig(tmp_path, code) as it:
        status, body = it.ask("/f", b"0")
        assert status == 500 and b"ZeroDivisionError" in body
        assert it.ask("/f", b"1") == (200, b"1")
        assert it.trigger("f").failed == 1 and it.balanced()


def test_sys_exit_in_a_coroutine_fails_its_event_only(tmp_path: Path) -> None:
    code = "import sys\nasync def handler(context, event):\n    sys.exit(3) if event.body else None"
    with rig(tmp_path, code) as it:
        assert it.ask("/f", b"x")[0] == 500
        assert it.ask("/f")[0] == 200


BARRIER = """
import asyncio
async def init_context(context):
    await asyncio.sleep(0)
    context.user_data.here = 0
    context.user_data.most = 0
    context.user_data.go = asyncio.Event()
async def handler(context, event):
    data = context.user_data
    data.here += 1
    data.most = max(data.most, data.here)
    if data.here == 5:
        data.go.set()
    try:
        await data.go.wait()
    finally:
        data.here -= 1
    return str(data.most)
"""


def test_handlers_that_wait_run_at_once_and_share_what_init_context_made(tmp_path: Path) -> None:
    with rig(tmp_path, BARRIER) as it:
        settled = Settled()
        for _ in range(5):
            it.deliver("/f", b"", settled)
        it.until(lambda: len(settled.outcomes) == 5)
        assert settled.bodies() == [b"5"] * 5


def test_no_more_than_concurrency_handlers_run_at_once(tmp_path: Path) -> None:
    code = BARRIER.replace("data.here == 5", "data.here == 2")
    with rig(tmp_path, code, "concurrency = 2") as it:
        settled = Settled()
        for _ in range(50):
            it.deliver("/f", b"", settled)
        it.until(lambda: len(settled.outcomes) == 50)
        assert max(map(int, settled.bodies())) == 2
        assert it.balanced()


def test_a_flood_of_events_comes_through_in_order(tmp_path: Path) -> None:
    code = "async def handler(context, event):\n    return event.body"
    with rig(tmp_path, code, "concurrency = 1", "inbox = { size = 10000 }") as it:
        settled = Settled()
        for number in range(3000):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == 3000)
        assert [int(body) for body in settled.bodies()] == list(range(3000))


def test_past_its_timeout_a_coroutine_is_cancelled_and_its_event_fails_with_408(tmp_path: Path) -> None:
    code = """
import asyncio
seen = []
async def handler(context, event):
    if event.body == b"hang":
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
    return ",".join(seen)
"""
    with rig(tmp_path, code, 'timeout = "100ms"') as it:
        assert it.ask("/f", b"hang")[0] == 408
        assert it.ask("/f", b"") == (200, b"cancelled")
        assert it.processor.functions["f"].runner.lost == 0
        assert it.balanced()


def test_only_the_late_one_of_several_handlers_times_out(tmp_path: Path) -> None:
    code = """
import asyncio
async def handler(context, event):
    if event.body == b"hang":
        await asyncio.Event().wait()
    await asyncio.sleep(0.01)
"""
    with rig(tmp_path, code, 'timeout = "700ms"') as it:
        late, others = Settled(), Settled()
        it.deliver("/f", b"hang", late)
        for _ in range(20):
            it.deliver("/f", b"", others)
        it.until(lambda: late.outcomes and len(others.outcomes) == 20)
        assert late.statuses() == [408] and set(others.statuses()) == {200}


def test_a_binding_refuses_what_a_cancelled_handler_still_sends(tmp_path: Path) -> None:
    code = """
import asyncio
said = []
async def handler(context, event):
    if not event.body:
        return ",".join(said)
    try:
        await asyncio.Event().wait()
    finally:
        try:
            context.bindings["mem"].publish("/elsewhere", b"")
        except Exception as error:
            said.append(type(error).__name__)
"""
    with rig(tmp_path, code, 'timeout = "100ms"') as it:
        assert it.ask("/f", b"x")[0] == 408
        assert it.ask("/f") == (200, b"Revoked")


STUBBORN = """
import asyncio, threading
stop = False
go = threading.Event()
async def handler(context, event):
    global stop
    if event.body == b"stop":
        stop = True
    elif event.body == b"swallow":
        while not stop:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass
    elif event.body == b"sleep":
        go.wait()
    elif event.body == b"spin":
        while True:
            pass
"""


def test_a_handler_that_swallows_its_cancellation_is_written_off_and_the_others_go_on(tmp_path: Path) -> None:
    with rig(tmp_path, STUBBORN, 'timeout = "200ms"\nconcurrency = 1') as it:
        runner = it.processor.functions["f"].runner
        assert it.ask("/f", b"swallow")[0] == 408
        assert it.ask("/f", b"")[0] == 200  # in the place of the lost one
        assert runner.lost == 1
        assert it.ask("/f", b"stop")[0] == 200
        it.until(lambda: runner.lost == 0)
        assert it.balanced()


def test_a_second_lost_handler_suspends_the_function_until_one_ends(tmp_path: Path) -> None:
    with rig(tmp_path, STUBBORN, 'timeout = "200ms"') as it:
        function = it.processor.functions["f"]
        settled = Settled()
        it.deliver("/f", b"swallow", settled)
        it.deliver("/f", b"swallow", settled)
        it.until(lambda: function.suspended)
        assert settled.statuses() == [408, 408]
        assert 'isolation = "process"' in it.records.text()
        assert it.ask("/f")[0] == 503
        function.handler.__globals__["stop"] = True
        it.until(lambda: not function.suspended)
        assert it.ask("/f")[0] == 200


def test_a_handler_that_blocks_the_thread_is_given_up_with_it_and_the_queue_goes_on(tmp_path: Path) -> None:
    with rig(tmp_path, STUBBORN, 'timeout = "200ms"') as it:
        function = it.processor.functions["f"]
        late, others = Settled(), Settled()
        it.deliver("/f", b"sleep", late)
        it.until(lambda: function.runner.worker and function.runner.worker.running)
        for _ in range(3):
            it.deliver("/f", b"", others)
        it.until(lambda: late.outcomes and len(others.outcomes) == 3)
        assert late.statuses() == [408] and others.statuses() == [200] * 3
        assert function.runner.lost == 1
        function.handler.__globals__["go"].set()
        it.until(lambda: function.runner.lost == 0)
        assert it.balanced()


def test_a_handler_that_spins_is_interrupted_and_its_thread_ends(tmp_path: Path) -> None:
    with rig(tmp_path, STUBBORN, 'timeout = "200ms"') as it:
        runner = it.processor.functions["f"].runner
        assert it.ask("/f", b"spin")[0] == 408
        it.until(lambda: runner.lost == 0 and not any(t.name == "async-f" for t in threading.enumerate()))
        assert it.ask("/f")[0] == 200
        assert it.trigger("f").failed == 1 and it.balanced()


def test_an_init_context_that_fails_suspends_the_function_and_is_tried_again(tmp_path: Path) -> None:
    code = """
tries = []
async def init_context(context):
    tries.append(1)
    if len(tries) == 1:
        raise RuntimeError("not yet")
async def handler(context, event):
    return str(len(tries))
"""
    with rig(tmp_path, code) as it:
        function = it.processor.functions["f"]
        it.until(lambda: function.suspended)
        assert "not yet" in it.records.text()
        assert it.ask("/f")[0] == 503
        it.until(lambda: not function.suspended and not function.runner.starting())
        assert it.ask("/f") == (200, b"2")


def test_an_init_context_that_waits_for_ever_fails_at_the_timeout(tmp_path: Path) -> None:
    code = """
import asyncio
async def init_context(context):
    await asyncio.Event().wait()
async def handler(context, event):
    pass
"""
    with rig(tmp_path, code, 'timeout = "200ms"') as it:
        it.until(lambda: it.processor.functions["f"].suspended)
        assert "init_context still running" in it.records.text()


def test_prints_and_records_carry_the_event_of_their_own_task(tmp_path: Path) -> None:
    code = """
import asyncio
async def handler(context, event):
    name = event.body.decode()
    await asyncio.sleep(0.01)
    print("printed", name)
    await asyncio.sleep(0.01)
    context.logger.info("logged %s", name)
    await asyncio.to_thread(print, "beside", name)
"""
    with rig(tmp_path, code) as it:
        settled = Settled()
        for number in range(10):
            it.deliver("/f", b"%d" % number, settled, id=f"id{number}")
        it.until(lambda: len(settled.outcomes) == 10)
        said = {record[3]: record[6] for record in it.records.records if record[5] == "f"}
        for number in range(10):
            for what in ("printed", "logged", "beside"):
                assert said[f"{what} {number}"] == f"id{number}"


def test_what_init_context_binds_to_the_logger_is_in_the_records_of_every_task(tmp_path: Path) -> None:
    code = """
def init_context(context):
    context.logger.bind(site="lab")
async def handler(context, event):
    context.logger.info("here")
"""
    with rig(tmp_path, code) as it:
        assert it.ask("/f")[0] == 200
        it.until(lambda: any(record[3] == "here" for record in it.records.records))
        assert next(record for record in it.records.records if record[3] == "here")[4] == ("site", "lab")


def test_the_environment_is_the_functions_in_every_task(tmp_path: Path) -> None:
    code = """
import asyncio, os
async def handler(context, event):
    await asyncio.sleep(0.001)
    return os.environ["COLOUR"]
"""
    with rig(tmp_path, code, 'env = { COLOUR = "red" }') as it:
        assert it.ask("/f") == (200, b"red")


def test_background_tasks_end_with_the_function_and_their_errors_are_logged(tmp_path: Path) -> None:
    code = """
import asyncio, gc, sys
kept = []
async def fail():
    raise ValueError("in the background")
async def leave():
    sys.exit(7)
async def handler(context, event):
    if event.body == b"exit":
        kept.append(asyncio.create_task(leave()))
    elif event.body == b"fail":
        asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gc.collect()
    else:
        kept.append(asyncio.create_task(asyncio.sleep(3600)))
"""
    with rig(tmp_path, code) as it:
        assert it.ask("/f", b"forever")[0] == 200
        assert it.ask("/f", b"fail")[0] == 200
        it.until(lambda: "in the background" in it.records.text())
        assert it.ask("/f", b"exit")[0] == 200
        assert it.ask("/f", b"forever")[0] == 200


def test_a_failed_event_is_tried_again(tmp_path: Path) -> None:
    code = """
count = []
async def handler(context, event):
    count.append(1)
    if len(count) < 3:
        raise OSError("not yet")
    return str(len(count))
"""
    with rig(tmp_path, code, more='retry = { attempts = 3, backoff = "10ms" }') as it:
        assert it.ask("/f") == (200, b"3")
        assert it.trigger("f").retried == 2


def test_a_handler_that_cancels_itself_fails_and_the_next_event_is_not_touched(tmp_path: Path) -> None:
    code = """
import asyncio
async def handler(context, event):
    if event.body:
        asyncio.current_task().cancel()
        if event.body == b"wait":
            await asyncio.sleep(0)
    return "fine"
"""
    with rig(tmp_path, code) as it:
        settled = Settled()
        for body in (b"wait", b"", b"return", b"", b""):
            it.deliver("/f", body, settled)
        it.until(lambda: len(settled.outcomes) == 5)
        assert sorted(settled.statuses()) == [200, 200, 200, 200, 500]


def test_a_processor_with_no_async_function_does_not_import_asyncio() -> None:
    import subprocess
    import sys

    code = "import sys, nuclio_edge.processor, nuclio_edge.workers.aio; assert 'asyncio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_events_that_end_at_their_very_deadline_are_settled_once(tmp_path: Path) -> None:
    code = """
import asyncio
async def handler(context, event):
    await asyncio.sleep(int(event.body) / 1000)
"""
    with rig(tmp_path, code, 'timeout = "60ms"', "inbox = { size = 1000 }") as it:
        settled = Settled()
        for number in range(300):
            it.deliver("/f", b"%d" % (40 + number % 40), settled)
        it.until(lambda: len(settled.outcomes) >= 300 and it.trigger("f").pending == 0)
        it.turn_for(50)
        assert len(settled.outcomes) == 300 and len({id(event) for event, _, _ in settled.outcomes}) == 300
        assert set(settled.statuses()) <= {200, 408} and it.balanced()


def test_an_event_that_the_thread_has_not_begun_when_the_loop_looks_times_out_too(tmp_path: Path) -> None:
    code = """
import asyncio, threading
held = threading.Event()
go = threading.Event()
async def handler(context, event):
    if event.body:
        asyncio.get_running_loop().call_soon(lambda: (held.set(), go.wait()))
    else:
        await asyncio.Event().wait()
"""
    with rig(tmp_path, code, 'timeout = "300ms"') as it:
        function = it.processor.functions["f"]
        assert it.ask("/f", b"hold")[0] == 200
        here = function.handler.__globals__
        it.until(here["held"].is_set)
        settled = Settled()
        it.deliver("/f", b"", settled)
        it.until(lambda: function.runner.queue)
        function.runner._timer.cancel()
        function.runner._check()  # as it comes about when the timer of an earlier event ends now
        here["go"].set()
        it.until(lambda: settled.outcomes)
        assert settled.statuses() == [408]


def test_an_outcome_that_was_concluded_at_its_deadline_is_the_only_one(tmp_path: Path) -> None:
    class Slow(deque[Any]):
        """The thread loses its turn between an outcome and whatever comes behind it."""

        def append(self, item: Any) -> None:
            super().append(item)
            if item[1] is not None:
                gone.wait()

    gone = threading.Event()
    code = "async def handler(context, event):\n    return 'in time'"
    with rig(tmp_path, code, 'timeout = "300ms"') as it:
        assert it.ask("/f")[0] == 200
        runner = it.processor.functions["f"].runner
        pool = runner.pool
        it.until(lambda: not runner.worker.running)
        usual, pool.done = pool.done, Slow()
        settled = Settled()
        it.deliver("/f", b"", settled)
        try:
            it.until(lambda: pool.done)
            late = port.clock() + 300 * port.TICKS_PER_MS
            it.until(lambda: port.clock() > late)
            runner._check()
        finally:
            pool.done = usual
            gone.set()
        it.until(lambda: not runner.worker.running)
        it.until(lambda: settled.outcomes)
        assert settled.statuses() == [200]
        assert it.trigger("f").handled == 2 and it.trigger("f").pending == 0 and it.balanced()


def test_an_async_generator_is_put_together_on_the_functions_own_loop(tmp_path: Path) -> None:
    code = """
import asyncio
async def handler(context, event):
    for part in ("a", b"b", 3):
        await asyncio.sleep(0.001)
        yield part
"""
    with rig(tmp_path, code) as it:
        assert it.ask("/f") == (200, b"ab3")
        assert it.trigger("f").handled == 1


def test_an_async_generator_is_under_its_functions_timeout(tmp_path: Path) -> None:
    code = """
import asyncio
async def parts():
    while True:
        await asyncio.sleep(0.01)
        yield ""
async def handler(context, event):
    return context.Response(body=parts())
"""
    with rig(tmp_path, code, 'timeout = "200ms"') as it:
        assert it.ask("/f")[0] == 408


def test_a_plain_generator_of_an_async_function_is_put_together_too(tmp_path: Path) -> None:
    code = "async def handler(context, event):\n    return (part for part in 'ab')"
    with rig(tmp_path, code) as it:
        assert it.ask("/f") == (200, b"ab")
