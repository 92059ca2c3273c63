"""Worker threads: hand-over, order, timeouts, abandonment; through a real processor with the memory source."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest

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


def test_a_handler_runs_on_a_thread_of_its_own_and_the_answer_comes_back(tmp_path: Path) -> None:
    code = "import threading\ndef handler(context, event):\n    return threading.current_thread().name\n"
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        status, body = rig.ask("/f")
        assert status == 200
        assert body.decode() != threading.current_thread().name


def test_one_worker_keeps_the_order_of_events(tmp_path: Path) -> None:
    code = "seen = []\ndef handler(context, event):\n    seen.append(event.raw_body)\n    return b' '.join(seen)\n"
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        settled = Settled()
        for number in range(500):
            rig.deliver("/f", b"%d" % number, settled)
        rig.until(lambda: len(settled.outcomes) == 500)
        assert settled.bodies()[-1] == b" ".join(b"%d" % number for number in range(500))


def test_a_waiting_handler_stalls_neither_the_loop_nor_another_function(tmp_path: Path) -> None:
    slow = (
        "import threading\ngo = threading.Event()\ndef handler(context, event):\n    go.wait(20)\n    return 'slow'\n"
    )
    fast = "def handler(context, event):\n    return 'fast'\n"
    with Rig(tmp_path, MEMORY + manifest(name="slow") + manifest(name="fast"), slow=slow, fast=fast) as rig:
        settled = Settled()
        rig.deliver("/slow", b"", settled)
        assert rig.ask("/fast") == (200, b"fast")
        assert settled.outcomes == []
        rig.processor.functions["slow"].handler.__globals__["go"].set()
        rig.until(lambda: settled.outcomes)


@pytest.mark.parametrize("answer", ["None", "'done'"])
def test_nobody_waits_for_the_handler_of_the_event_behind(tmp_path: Path, answer: str) -> None:
    code = (
        "import threading\ngo = threading.Event()\n"
        f"def handler(context, event):\n    event.raw_body == b'slow' and go.wait(20)\n    return {answer}\n"
    )
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        rig.ask("/f")  # imported
        settled = Settled()
        for body in (b"", b"", b"slow", b""):
            rig.deliver("/f", body, settled)
        rig.until(lambda: len(settled.outcomes) == 2)
        assert rig.trigger("f").handled == 3
        rig.processor.functions["f"].handler.__globals__["go"].set()
        rig.until(lambda: len(settled.outcomes) == 4)
        assert rig.trigger("f").handled == 5


@pytest.mark.parametrize("answer", ["None", "'done'"])
def test_nor_for_that_of_an_event_that_is_claimed_while_the_loop_is_busy(tmp_path: Path, answer: str) -> None:
    code = (
        "import threading, time\ngo = threading.Event()\n"
        "def handler(context, event):\n"
        "    if event.raw_body:\n        go.wait(60)\n"
        f"    time.sleep(0.0004)\n    return {answer}\n"
    )
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        rig.ask("/f")
        runner = rig.processor.functions["f"].runner
        rig.until(lambda: runner._fetcher is None)
        settled = Settled()
        rig.deliver("/f", b"", settled)
        rig.processor.loop.turn(0)  # handed over
        rig.deliver("/f", b"slow")
        rig.processor.loop.post(lambda: time.sleep(0.01))  # the rest of a long turn: the worker claims both meanwhile
        rig.until(lambda: settled.outcomes)
        rig.processor.functions["f"].handler.__globals__["go"].set()


def test_several_workers_run_side_by_side_each_with_a_context_of_its_own(tmp_path: Path) -> None:
    code = (
        "import threading\nmeet = threading.Barrier(3)\n"
        "def init_context(context):\n    context.user_data.mine = context.worker_id\n"
        "def handler(context, event):\n    meet.wait(20)\n    return context.user_data.mine\n"
    )
    with Rig(tmp_path, MEMORY + manifest("workers = 3"), f=code) as rig:
        settled = Settled()
        for _ in range(3):
            rig.deliver("/f", b"", settled)
        rig.until(lambda: len(settled.outcomes) == 3)
        assert sorted(settled.bodies()) == [b"0", b"1", b"2"]


def test_init_context_runs_once_for_each_worker_on_the_workers_thread(tmp_path: Path) -> None:
    code = (
        "import threading\n"
        "def init_context(context):\n"
        "    context.user_data.thread = threading.get_ident()\n    context.user_data.calls = 0\n"
        "def handler(context, event):\n"
        "    context.user_data.calls += 1\n"
        "    return f'{context.user_data.thread == threading.get_ident()} {context.user_data.calls}'\n"
    )
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        assert rig.ask("/f") == (200, b"True 1")
        assert rig.ask("/f") == (200, b"True 2")


def test_a_worker_that_holds_state_keeps_its_thread_while_others_share_theirs(tmp_path: Path) -> None:
    keeps = (
        "import threading\n"
        "def handler(context, event):\n"
        "    data = context.user_data\n"
        "    data.first = getattr(data, 'first', threading.get_ident())\n"
        "    return str(data.first == threading.get_ident())\n"
    )
    shares = "import threading\ndef handler(context, event):\n    return str(threading.get_ident())\n"
    text = MEMORY + manifest(name="keeps") + manifest(name="a") + manifest(name="b")
    with Rig(tmp_path, text, keeps=keeps, a=shares, b=shares) as rig:
        for _ in range(5):
            assert rig.ask("/keeps")[1] == b"True"
            rig.until(lambda: rig.processor.assembly.threads.busy == 0)
            first = rig.ask("/a")[1]
            rig.until(lambda: rig.processor.assembly.threads.busy == 0)
            assert rig.ask("/b")[1] == first
            rig.until(lambda: rig.processor.assembly.threads.busy == 0)
        assert rig.processor.assembly.threads.carriers == 2


def test_a_thread_that_idles_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclio_edge.workers.carriers.IDLE_MS", 20)
    with Rig(tmp_path, MEMORY + manifest(), f="def handler(context, event):\n    return 'x'\n") as rig:
        rig.ask("/f")
        rig.until(lambda: rig.processor.assembly.threads.carriers == 0)
        assert rig.ask("/f") == (200, b"x")


def test_a_function_without_a_least_number_of_workers_is_loaded_by_an_event_and_unloaded_when_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.workers.threads.IDLE_MS", 30)
    code = (
        "import threading\n"
        "def init_context(context):\n    context.user_data.calls = 0\n"
        "def handler(context, event):\n    context.user_data.calls += 1\n    return str(context.user_data.calls)\n"
    )
    with Rig(tmp_path, MEMORY + manifest("workers = { min = 0, max = 2 }"), f=code) as rig:
        function = rig.processor.functions["f"]
        assert function.handler is None
        assert rig.ask("/f") == (200, b"1")
        rig.until(lambda: function.handler is None, "the function to be unloaded")
        assert function.runner.workers == []
        assert rig.ask("/f") == (200, b"1")
        assert rig.balanced()


def test_past_its_timeout_a_waiting_handler_fails_with_408_and_the_worker_is_replaced(tmp_path: Path) -> None:
    code = (
        "import threading\nstuck = threading.Event()\n"
        "def handler(context, event):\n"
        "    if event.raw_body == b'hang':\n        stuck.wait(20)\n"
        "    return 'ok'\n"
    )
    with Rig(tmp_path, MEMORY + manifest('timeout = "100ms"'), f=code) as rig:
        settled = Settled()
        rig.deliver("/f", b"hang", settled)
        rig.deliver("/f", b"next", settled)
        rig.until(lambda: len(settled.outcomes) == 2)
        assert settled.statuses() == [408, 200]
        assert rig.trigger("f").failed == 1
        assert rig.balanced()
        rig.processor.functions["f"].handler.__globals__["stuck"].set()
        rig.until(lambda: rig.processor.functions["f"].runner.lost == 0)
        assert len(settled.outcomes) == 2
        assert rig.balanced()


def test_a_handler_that_spins_in_python_is_stopped_at_its_timeout(tmp_path: Path) -> None:
    code = (
        "def handler(context, event):\n"
        "    while True:\n        try:\n            len('')\n        except Exception:\n            pass\n"
    )
    with Rig(tmp_path, MEMORY + manifest('timeout = "100ms"'), f=code) as rig:
        assert rig.ask("/f")[0] == 408
        rig.until(lambda: rig.processor.functions["f"].runner.lost == 0, "the spinning thread to end")
        assert rig.processor.functions["f"].suspended is None
        assert rig.ask("/f")[0] == 408


def test_a_zombies_binding_calls_raise(tmp_path: Path) -> None:
    code = (
        "import threading\nstuck = threading.Event()\nafter = []\n"
        "def handler(context, event):\n"
        "    try:\n        stuck.wait(20)\n    except BaseException:\n        pass\n"
        "    try:\n        context.bindings['mem'].publish('/out', b'too late')\n"
        "    except Exception as error:\n        after.append(type(error).__name__)\n"
    )
    with Rig(tmp_path, MEMORY + manifest('timeout = "100ms"'), f=code) as rig:
        assert rig.ask("/f")[0] == 408
        known = rig.processor.functions["f"].handler.__globals__
        known["stuck"].set()
        rig.until(lambda: known["after"])
        assert known["after"] == ["Revoked"]
        rig.until(lambda: rig.processor.functions["f"].runner.lost == 0)


def test_a_second_hanging_thread_suspends_the_function_and_names_the_way_out(tmp_path: Path) -> None:
    code = "import threading\nstuck = threading.Event()\ndef handler(context, event):\n    stuck.wait(20)\n"
    with Rig(
        tmp_path, MEMORY + manifest('timeout = "100ms"', 'retry = { attempts = 3, backoff = "1ms" }'), f=code
    ) as rig:
        assert rig.ask("/f")[0] == 408  # not tried again: an abandoned thread lives
        assert rig.trigger("f").retried == 0
        assert rig.ask("/f")[0] == 408
        assert rig.ask("/f")[0] == 503
        assert rig.trigger("f").shed == {"suspended": 1}
        assert 'isolation = "process"' in rig.records.text()
        rig.processor.functions["f"].handler.__globals__["stuck"].set()
        rig.until(lambda: rig.processor.functions["f"].suspended is None, "the function to run again")
        assert rig.ask("/f")[0] == 200
        assert rig.balanced()


def test_a_handler_that_calls_sys_exit_fails_and_the_worker_goes_on(tmp_path: Path) -> None:
    code = "import sys\ndef handler(context, event):\n    if event.raw_body:\n        sys.exit(3)\n    return 'ok'\n"
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        assert rig.ask("/f", b"x")[0] == 500
        assert rig.ask("/f") == (200, b"ok")


def test_an_init_context_that_raises_suspends_the_function_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.functions.function.FIRST_PAUSE_MS", 30)
    code = (
        "calls = []\n"
        "def init_context(context):\n"
        "    calls.append(1)\n    if len(calls) == 1:\n        raise RuntimeError('no sensor')\n"
        "def handler(context, event):\n    return 'ok'\n"
    )
    with Rig(
        tmp_path, MEMORY + manifest() + manifest(name="g"), f=code, g="def handler(c, e):\n    return 'g'\n"
    ) as rig:
        rig.until(lambda: "no sensor" in rig.records.text())
        assert rig.ask("/g") == (200, b"g")
        rig.until(lambda: rig.processor.functions["f"].suspended is None)
        assert rig.ask("/f") == (200, b"ok")


@pytest.mark.parametrize("isolation", ["thread", "inline", "process"])
def test_that_a_function_runs_again_is_said_when_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    monkeypatch.setattr("nuclio_edge.functions.function.FIRST_PAUSE_MS", 30)
    code = (
        f"import os\ndef init_context(context):\n    if not os.path.exists({str(tmp_path / 'sensor')!r}):\n"
        "        raise RuntimeError('no sensor')\n"
        "def handler(context, event):\n    return 'ok'\n"
    )
    with Rig(tmp_path, MEMORY + manifest(f'isolation = "{isolation}"'), f=code) as rig:
        rig.until(lambda: rig.records.text().count("function could not start") == 3)
        assert "runs again" not in rig.records.text()
        (tmp_path / "sensor").touch()
        rig.until(lambda: "function runs again" in rig.records.text())
        assert rig.ask("/f") == (200, b"ok")
        assert rig.records.text().count("runs again") == 1


def test_a_hanging_init_context_suspends_the_function_and_the_rest_gets_ready(tmp_path: Path) -> None:
    code = (
        "import threading\nstuck = threading.Event()\n"
        "def init_context(context):\n    stuck.wait(20)\n"
        "def handler(context, event):\n    return 'ok'\n"
    )
    text = MEMORY + manifest('timeout = "100ms"') + manifest(name="g")
    with Rig(tmp_path, text, f=code, g="def handler(c, e):\n    return 'g'\n") as rig:
        rig.until(lambda: rig.processor.functions["f"].suspended)
        rig.until(lambda: rig.processor.ready)
        assert rig.ask("/f")[0] == 503
        assert rig.ask("/g") == (200, b"g")
        rig.processor.functions["f"].handler.__globals__["stuck"].set()
        rig.until(lambda: rig.processor.functions["f"].suspended is None)


def test_first_event_loads_the_function_on_its_thread(tmp_path: Path) -> None:
    code = "import threading\nwhere = threading.get_ident()\ndef handler(context, event):\n    return str(where)\n"
    with Rig(tmp_path, MEMORY + manifest('load = "first-event"'), f=code) as rig:
        assert rig.processor.functions["f"].handler is None
        status, body = rig.ask("/f")
        assert status == 200
        assert int(body) != threading.get_ident()


def test_an_import_error_shows_the_users_frames_only_and_suspends(tmp_path: Path) -> None:
    code = "import helper\ndef handler(context, event):\n    return 'ok'\n"
    helper = "def broken():\n    return 1 / 0\nbroken()\n"
    with Rig(tmp_path, MEMORY + manifest(), f=code, helper=helper) as rig:
        text = rig.records.text()
        assert "ZeroDivisionError" in text
        assert "helper.py" in text
        assert "loader.py" not in text
        assert rig.ask("/f")[0] == 503


def test_a_flood_beyond_the_inbox_is_balanced_and_sheds_by_policy(tmp_path: Path) -> None:
    code = "import time\ndef handler(context, event):\n    time.sleep(0.001)\n"
    trigger = 'inbox = { size = 16, when_full = "drop-oldest" }'
    with Rig(tmp_path, MEMORY + manifest("", trigger), f=code) as rig:
        for number in range(2000):
            rig.deliver("/f", b"%d" % number)
        rig.until(lambda: rig.trigger("f").admitted == 2000 and rig.trigger("f").pending == 0)
        assert rig.trigger("f").shed["drop-oldest"] > 0
        assert rig.trigger("f").handled + rig.trigger("f").shed["drop-oldest"] == 2000
        assert rig.balanced()


def test_a_fast_handler_loses_nothing_to_a_burst_larger_than_its_inbox(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    return None\n"
    trigger = 'inbox = { size = 16, when_full = "drop-oldest" }'
    with Rig(tmp_path, MEMORY + manifest("", trigger), f=code) as rig:
        rig.ask("/f")  # imported, thread there
        for number in range(500):
            rig.deliver("/f", b"%d" % number)
        rig.until(lambda: rig.trigger("f").pending == 0 and rig.trigger("f").admitted == 501)
        assert rig.trigger("f").handled + sum(rig.trigger("f").shed.values()) == 501


def test_block_holds_the_source_and_loses_nothing(tmp_path: Path) -> None:
    code = "import time\ndef handler(context, event):\n    time.sleep(0.0005)\n"
    with Rig(tmp_path, MEMORY + manifest("", "inbox = { size = 8 }"), f=code) as rig:
        for number in range(300):
            rig.deliver("/f", b"%d" % number)
        rig.until(lambda: rig.trigger("f").handled == 300)
        assert rig.trigger("f").shed == {}
        assert rig.processor.budget.used == 0
        assert rig.balanced()


def test_several_triggers_of_a_function_share_its_workers_and_each_keeps_its_count(tmp_path: Path) -> None:
    text = MEMORY + manifest() + '[[function.f.trigger]]\nsource = "mem"\npath = "/other"\n'
    with Rig(tmp_path, text, f="def handler(context, event):\n    return None\n") as rig:
        for _ in range(50):
            rig.deliver("/f")
            rig.deliver("/other")
        rig.until(lambda: rig.trigger("f", 0).handled == 50 and rig.trigger("f", 1).handled == 50)
        assert rig.balanced()


def test_stop_waits_for_what_was_admitted(tmp_path: Path) -> None:
    code = "import time\ndef handler(context, event):\n    time.sleep(0.2)\n    return 'ok'\n"
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        settled = Settled()
        rig.deliver("/f", b"", settled)
        rig.until(lambda: rig.trigger("f").pending)
        rig.processor.stop()
        rig.until(lambda: not rig.processor.sources)
        assert settled.statuses() == [200]
        assert rig.processor.exit_code == 0


def test_stop_gives_up_after_stop_timeout_and_exits_with_5(tmp_path: Path) -> None:
    code = "import threading\nstuck = threading.Event()\ndef handler(context, event):\n    stuck.wait(20)\n"
    with Rig(tmp_path, 'stop_timeout = "100ms"\n' + MEMORY + manifest(), f=code) as rig:
        settled = Settled()
        rig.deliver("/f", b"", settled)
        rig.until(lambda: rig.trigger("f").pending)
        known = rig.processor.functions["f"].handler.__globals__
        rig.processor.stop()
        rig.until(lambda: not rig.processor.sources)
        assert rig.processor.exit_code == 5
        assert settled.outcomes == []  # not settled: a broker would send it again
        assert rig.processor.tally().pending == 1
        known["stuck"].set()


def test_a_thread_that_will_not_end_makes_the_exit_code_75(tmp_path: Path) -> None:
    code = "import threading\nstuck = threading.Event()\ndef handler(context, event):\n    stuck.wait(20)\n"
    with Rig(tmp_path, MEMORY + manifest('timeout = "100ms"'), f=code) as rig:
        assert rig.ask("/f")[0] == 408
        known = rig.processor.functions["f"].handler.__globals__
        rig.processor.stop()
        rig.until(lambda: not rig.processor.sources)
        assert rig.processor.exit_code == 75
        known["stuck"].set()


def test_a_replaced_function_drains_beside_the_new_version_and_no_event_is_dropped(tmp_path: Path) -> None:
    from nuclio_edge.manifest import load

    code = "import time\ndef handler(context, event):\n    time.sleep(0.001)\n    return 'VERSION'\n"
    with Rig(tmp_path, MEMORY + manifest(), f=code.replace("VERSION", "one")) as rig:
        settled = Settled()
        for _ in range(100):
            rig.deliver("/f", b"", settled)
        rig.until(lambda: len(settled.outcomes) > 10)
        (tmp_path / "f.py").write_text(code.replace("VERSION", "two"))
        done: list[str] = []
        rig.processor.reload(load(str(rig.path)), ["f"], done.extend)
        for _ in range(100):
            rig.deliver("/f", b"", settled)
        rig.until(lambda: len(settled.outcomes) == 200)
        assert done == ["function f replaced"]
        assert set(settled.statuses()) == {200}
        assert rig.ask("/f") == (200, b"two")
        rig.until(lambda: not rig.processor.retired)
        assert rig.processor.tally().handled == 201
        assert rig.balanced()


def test_an_exception_that_cannot_be_told_fails_its_event_and_nothing_else(tmp_path: Path) -> None:
    code = """
class Silent(Exception):
    def __str__(self):
        raise RuntimeError
class Leaves(Exception):
    def __str__(self):
        raise SystemExit(7)
class Hidden(type):
    @property
    def __name__(cls):
        raise SystemExit(8)
class Nameless(Exception, metaclass=Hidden):
    pass
def handler(context, event):
    raise eval(event.raw_body)()
"""
    with Rig(tmp_path, MEMORY + manifest(), f=code) as rig:
        for kind in (b"Silent", b"Leaves", b"Nameless"):
            assert rig.ask("/f", kind)[0] == 500
        assert rig.trigger("f").failed == 3
        assert rig.balanced()


@pytest.mark.parametrize("isolation", ["thread", "inline"])
def test_what_a_handler_forks_ends_where_the_handler_ends(tmp_path: Path, isolation: str) -> None:
    code = """
import os, sys
def handler(context, event):
    child = os.fork()
    if not child:
        if event.raw_body == b"raise":
            raise ValueError
        if event.raw_body == b"exit":
            sys.exit(3)
        try:
            1 / 0
        except ZeroDivisionError:
            return None
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
    with Rig(tmp_path, MEMORY + manifest(f'isolation = "{isolation}"'), f=code) as rig:
        assert [rig.ask("/f", kind)[1] for kind in (b"return", b"raise", b"exit")] == [b"0", b"1", b"3"]


@pytest.mark.parametrize("isolation", ["thread", "inline"])
def test_an_import_that_hangs_at_the_start_holds_up_its_own_function_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isolation: str
) -> None:
    monkeypatch.setattr("nuclio_edge.assembly.IMPORT_PATIENCE_MS", 50)
    go = tmp_path / "go"
    slow = f"""
import os, time
while not os.path.exists({str(go)!r}):
    time.sleep(0.01)
def handler(context, event):
    return "slow"
"""
    fast = "def handler(context, event):\n    return 'fast'\n"
    keys = f'isolation = "{isolation}"\ntimeout = "100ms"'
    text = MEMORY + manifest(keys, name="slow") + manifest(name="fast")
    with Rig(tmp_path, text, slow=slow, fast=fast) as rig:
        assert rig.ask("/fast") == (200, b"fast")
        rig.until(lambda: rig.processor.functions["slow"].suspended)
        assert rig.ask("/slow")[0] == 503
        go.touch()
        rig.until(lambda: not rig.processor.functions["slow"].suspended)
        rig.until(lambda: rig.ask("/slow") == (200, b"slow"))
        assert rig.balanced()


def test_a_timeout_that_comes_as_the_handler_ends_leaves_the_function_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The HandlerTimeout is on its way while the handler returns by itself, and its worker hands back."""
    from nuclio_edge.workers.carriers import Carrier

    code = (
        "import threading\ngo = threading.Event()\n"
        "def handler(context, event):\n    if event.raw_body:\n        go.wait(60)\n    return 'x'\n"
    )
    handing_back, raised = threading.Event(), threading.Event()

    class Outcomes(deque[Any]):
        """Stops a thread that hands back where the HandlerTimeout finds it."""

        def append(self, outcome: Any) -> None:
            if late and type(outcome) is tuple and outcome[1] is None:
                handing_back.set()
                raised.wait(60)
            super().append(outcome)

    late = False
    raise_into = Carrier.raise_into
    monkeypatch.setattr("nuclio_edge.workers.carriers.deque", Outcomes)
    with Rig(tmp_path, MEMORY + manifest('timeout = "50ms"'), f=code) as rig:
        function = rig.processor.functions["f"]

        def raise_late(carrier: Carrier, error: type[BaseException], told: Any) -> None:
            function.handler.__globals__["go"].set()
            handing_back.wait(0.2)  # in vain where the thread waits for the HandlerTimeout before it hands back
            raise_into(carrier, error, told)
            raised.set()

        monkeypatch.setattr(Carrier, "raise_into", raise_late)
        assert rig.ask("/f")[0] == 200
        late = True
        assert rig.ask("/f", b"wait")[0] == 408
        rig.until(lambda: function.runner.lost == 0, "the abandoned thread to be known as ended")
        assert rig.ask("/f")[0] == 200
        assert rig.processor.assembly.threads.abandoned == 0
        assert rig.balanced()


def test_where_the_system_has_no_thread_left_the_others_wait_for_one_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start
    none_left = False

    def refused(thread: threading.Thread) -> None:
        if none_left:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr("nuclio_edge.workers.carriers.SHORT_OF_THREADS_MS", 5)
    monkeypatch.setattr(threading.Thread, "start", refused)
    waits = "import threading\ngo = threading.Event()\ndef handler(context, event):\n    go.wait(60)\n    return 'f'\n"
    with Rig(
        tmp_path,
        MEMORY + manifest(name="f") + manifest("workers = { min = 0, max = 1 }", name="g"),
        f=waits,
        g="def handler(context, event):\n    return 'g'\n",
    ) as rig:
        settled, other = Settled(), Settled()
        rig.deliver("/f", b"", settled)
        rig.until(lambda: rig.processor.functions["f"].handler is not None)
        rig.turn_for(20)
        none_left = True
        rig.deliver("/g", b"", other)
        rig.until(lambda: "no thread for its handler" in rig.records.text())
        assert not other.outcomes
        rig.processor.functions["f"].handler.__globals__["go"].set()
        rig.until(lambda: other.outcomes and settled.outcomes)  # by the thread of f, which is free now
        assert other.bodies() == [b"g"]
        none_left = False
        assert rig.ask("/g") == (200, b"g")
        assert rig.processor.exit_code == 0
        assert rig.balanced()
