"""Functions with `isolation = "process"`, in a real processor with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.rig import MEMORY, Rig, Settled
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto

FUNCTION = """
[function.f]
handler = "f.py"
isolation = "process"
{keys}
[[function.f.trigger]]
source = "mem"
path = "/f"
{more}
"""


def rig(folder: Path, code: str, keys: str = "", more: str = "") -> Rig:
    return Rig(folder, MEMORY + FUNCTION.format(keys=keys, more=more), f=textwrap.dedent(code))


PLAIN = """
import os, sys, time
def handler(context, event):
    return eval(event.body) if event.body else None
"""


def test_the_answer_comes_from_another_process(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN) as it:
        status, body = it.ask("/f", b"str(os.getpid())")
        assert status == 200 and int(body) not in (0, os.getpid())
        assert int(body) == it.processor.functions["f"].runner.children[0].spawned.pid


def test_an_event_is_the_same_on_the_other_side(tmp_path: Path) -> None:
    code = """
    def handler(context, event):
        assert event.content_type == "application/json" and event.body == {"a": 1}
        assert event.get_field("a") == 1 and event.path == "/f" and event.headers == {"x": "y"}
        assert (event.trigger.kind, event.trigger.name, event.source.name) == ("memory", "mem", "mem")
        assert context.trigger.name == "mem" and context.function_name == "f" and context.labels == {"room": "12"}
        return event.id
    """
    with rig(tmp_path, code, 'labels = { room = "12" }') as it:
        settled = Settled()
        it.deliver("/f", b'{"a":1}', settled, content_type="application/json", headers={"x": "y"})
        it.until(lambda: settled.outcomes)
        assert settled.statuses() == [200], settled.bodies()
        assert settled.bodies()[0].decode() == settled.outcomes[0][0].id


def test_every_kind_of_answer_crosses(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN) as it:
        assert it.ask("/f") == (200, b"")
        assert it.ask("/f", b"{'a': [1, None]}") == (200, b'{"a":[1,null]}')
        assert it.ask("/f", b"(418, 'tea')") == (418, b"tea")
        assert it.ask("/f", b"context.Response(body=b'\\0\\xff', status_code=201)") == (201, b"\0\xff")
        assert it.ask("/f", b"(str(i) for i in range(3))") == (200, b"012")
        status, body = it.ask("/f", b"{(1, 2): 3}")
        assert status == 500 and b"cannot be encoded" in body


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("raise Silent()", 500),
        ("raise Reply(409, (part for part in [Silent()]))", 500),
        ("return context.Response(event_id=10**5000)", 200),
        ("return context.Response(headers={'a': Silent()})", 500),
        ("return context.Response(body=Silent())", 500),
        ("return (1 / 0 for _ in range(1))", 500),
    ],
)
def test_an_answer_that_cannot_cross_fails_its_event_and_the_process_stays(
    tmp_path: Path, end: str, status: int
) -> None:
    code = f"""
    import os
    from nuclio_sdk import ExceptionWithResponse as Reply
    class Silent(Exception):
        def __str__(self):
            raise SystemExit
        __repr__ = __str__
    def handler(context, event):
        if event.body:
            return str(os.getpid())
        {end}
    """
    with rig(tmp_path, code) as it:
        before = it.ask("/f", b"pid")
        assert it.ask("/f")[0] == status
        assert it.ask("/f", b"pid") == before


def test_ten_megabytes_go_in_and_come_out(tmp_path: Path) -> None:
    code = "def handler(context, event):\n    return event.body[::-1]"
    with rig(tmp_path, code) as it:
        body = bytes(range(256)) * 40960
        assert it.ask("/f", body) == (200, body[::-1])


def test_an_exception_is_told_with_the_frames_of_the_function_only(tmp_path: Path) -> None:
    with rig(tmp_path, "def handler(context, event):\n    raise KeyError('nothing here')") as it:
        status, body = it.ask("/f")
        assert status == 500 and b"KeyError" in body and b"nothing here" in body
        said = it.records.text()
        assert 'File "f.py", line 2, in handler' in said and "process_child" not in said


def test_an_exception_with_a_response_is_that_response(tmp_path: Path) -> None:
    code = """
    import nuclio_sdk
    def handler(context, event):
        raise nuclio_sdk.ExceptionWithResponse(409, {"why": "taken"})
    """
    with rig(tmp_path, code) as it:
        assert it.ask("/f") == (409, b'{"why":"taken"}')


def test_a_flood_comes_through_in_order_and_balances(tmp_path: Path) -> None:
    with rig(tmp_path, "def handler(context, event):\n    return event.body", more="inbox = { size = 5000 }") as it:
        settled = Settled()
        for number in range(3000):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) == 3000)
        assert [int(body) for body in settled.bodies()] == list(range(3000))
        assert it.balanced() and it.trigger("f").handled == 3000


def test_several_workers_run_at_once(tmp_path: Path) -> None:
    code = """
    import os, time
    def handler(context, event):
        folder = event.body.decode()
        open(os.path.join(folder, "here" + context.worker_id), "w").close()
        while len([name for name in os.listdir(folder) if name.startswith("here")]) < 2:
            time.sleep(0.01)
        return context.worker_id
    """
    with rig(tmp_path, code, "workers = 2") as it:
        settled = Settled()
        for _ in range(2):
            it.deliver("/f", str(tmp_path).encode(), settled)
        it.until(lambda: len(settled.outcomes) == 2)
        assert sorted(settled.bodies()) == [b"0", b"1"]


ENDS = {
    "os._exit(3)": "exit code 3",
    "os.kill(os.getpid(), 9)": "SIGKILL",
    "os.kill(os.getpid(), 15)": "SIGTERM",
    "__import__('ctypes').string_at(0)": "SIGSEGV",
    "os.closerange(3, 10) or time.sleep(100)": "killed by",
}


@pytest.mark.parametrize("end", ENDS)
def test_a_process_that_ends_fails_its_event_only_and_the_others_go_on_in_order(tmp_path: Path, end: str) -> None:
    with rig(tmp_path, PLAIN) as it:
        for _ in range(3):
            assert it.ask("/f", b"1")[0] == 200  # short ones: now more than one is on its way
        settled = Settled()
        for number in range(10):
            it.deliver("/f", end.encode() if number == 4 else b"str(%d)" % number, settled)
        it.until(lambda: len(settled.outcomes) == 10)
        assert settled.statuses() == [200] * 4 + [500] + [200] * 5
        assert ENDS[end] in settled.bodies()[4].decode()
        assert [body for body in settled.bodies() if len(body) == 1] == [b"%d" % n for n in range(10) if n != 4]
        assert it.balanced()


def test_sys_exit_fails_its_event_and_the_process_stays(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN) as it:
        before = it.ask("/f", b"str(os.getpid())")
        status, body = it.ask("/f", b"sys.exit(4)")
        assert status == 500 and b"SystemExit" in body
        assert it.ask("/f", b"str(os.getpid())") == before


@pytest.mark.parametrize(
    "hang", ["time.sleep(1000)", "[None for _ in iter(int, 1)]", "__import__('re').match('(a+)+b', 'a' * 60)"]
)
def test_a_handler_that_hangs_is_killed_at_its_timeout_whatever_it_does(tmp_path: Path, hang: str) -> None:
    with rig(tmp_path, PLAIN, 'timeout = "500ms"') as it:
        assert it.ask("/f", b"1")[0] == 200
        assert it.ask("/f", hang.encode())[0] == 408
        assert it.ask("/f", b"1") == (200, b"1")
        assert it.processor.functions["f"].runner.lost == 0
        assert it.balanced()


def test_what_a_killed_handler_has_started_ends_with_it(tmp_path: Path) -> None:
    code = """
    import subprocess, time
    def handler(context, event):
        child = subprocess.Popen(["sleep", "1000"])
        with open(event.body.decode(), "w") as file:
            file.write(str(child.pid))
        time.sleep(1000)
    """
    with rig(tmp_path, code, 'timeout = "1s"') as it:
        assert it.ask("/f", str(tmp_path / "pid").encode())[0] == 408
        pid = int((tmp_path / "pid").read_text())
        wait_until(lambda: not _alive(pid))


def test_a_function_that_keeps_dying_is_started_ever_more_slowly(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN) as it:
        runner = it.processor.functions["f"].runner
        for deaths in range(1, 4):
            assert it.ask("/f", b"os._exit(1)")[0] == 500
            assert runner.deaths == deaths
        assert it.ask("/f", b"1")[0] == 200
        assert runner.deaths == 0


def test_a_process_that_is_killed_from_outside_while_idle_is_replaced(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN) as it:
        pid = int(it.ask("/f", b"str(os.getpid())")[1])
        os.kill(pid, signal.SIGKILL)
        it.until(lambda: pid not in [child.spawned.pid for child in it.processor.functions["f"].runner.children])
        status, body = it.ask("/f", b"str(os.getpid())")
        assert status == 200 and int(body) != pid
        assert it.trigger("f").failed == 0


FORK = """
import os
def handler(context, event):
    if event.body == b"return":
        return None if os.fork() == 0 else "parent"
    if event.body == b"print":
        pid = os.fork()
        if pid == 0:
            print("from the fork")
            context.logger.info("from the fork")
            os._exit(0)
        os.waitpid(pid, 0)
        return "parent"
    return "plain"
"""


def test_a_handler_that_forks_does_not_spoil_the_channel(tmp_path: Path) -> None:
    with rig(tmp_path, FORK) as it:
        for _ in range(3):
            assert it.ask("/f", b"return") == (200, b"parent")
            assert it.ask("/f", b"print") == (200, b"parent")
            assert it.ask("/f") == (200, b"plain")


def test_what_is_printed_or_logged_arrives_with_the_events_id(tmp_path: Path) -> None:
    code = """
    import logging, os, sys
    def handler(context, event):
        print("printed")
        print("to stderr", file=sys.stderr)
        context.logger.info_with("logged", "key", {"a": 1})
        logging.getLogger("lib").warning("by logging")
        os.write(1, b"past Python\\n")
        os.system("echo from a shell")
    """
    with rig(tmp_path, code) as it:
        assert it.ask("/f", id="the-id")[0] == 200
        wanted = {"printed", "to stderr", "logged", "by logging", "past Python", "from a shell"}
        it.until(lambda: wanted <= {record[3] for record in it.records.records}, "the records")
        found = {record[3]: record for record in it.records.records}
        assert all(found[text][5] == "f" for text in wanted)
        assert all(found[text][6] == "the-id" for text in ("printed", "to stderr", "logged", "by logging"))
        assert found["logged"][4] == ("key", {"a": 1})
        assert (found["printed"][1], found["to stderr"][1]) == (20, 30)


def test_a_megabyte_of_prints_comes_through(tmp_path: Path) -> None:
    with rig(tmp_path, "def handler(context, event):\n    for _ in range(16384):\n        print('x' * 63)") as it:
        assert it.ask("/f")[0] == 200
        assert sum(1 for record in it.records.records if record[3] == "x" * 63) == 16384


def test_what_was_logged_before_a_crash_is_not_lost(tmp_path: Path) -> None:
    code = "import os\ndef handler(context, event):\n    print('last words')\n    os._exit(1)"
    with rig(tmp_path, code) as it:
        assert it.ask("/f")[0] == 500
        assert "last words" in it.records.text()


def test_environment_working_directory_and_standard_input_are_a_processes_own(tmp_path: Path) -> None:
    code = """
    import os, subprocess, sys
    def handler(context, event):
        shell = subprocess.run("echo $COLOUR", shell=True, capture_output=True, text=True).stdout.strip()
        return {
            "colour": os.environ["COLOUR"], "env": context.env["COLOUR"], "shell": shell, "cwd": os.getcwd(),
            "stdin": sys.stdin.read(), "name": os.environ["NUCLIO_FUNCTION_NAME"],
            "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd"))[:-1],
        }
    """
    with rig(tmp_path, code, 'env = { COLOUR = "red" }') as it:
        from nuclio_edge.core.port import json_loads

        said = json_loads(it.ask("/f")[1])
        assert said["colour"] == said["env"] == said["shell"] == "red"
        assert said["cwd"] == os.getcwd() and said["stdin"] == "" and said["name"] == "f"
        assert said["open"] == [0, 1, 2, 3, 4]
        assert "COLOUR" not in os.environ


def test_bindings_of_the_processor_can_be_used(tmp_path: Path) -> None:
    code = """
    def handler(context, event):
        if event.path == "/f":
            context.bindings["mem"].publish("/g", b"raw", headers={"n": 1})
            assert "mem" in context.bindings and list(context.bindings) == ["mem", "pins"]
    """
    other = """
    [function.g]
    handler = "g.py"
    [[function.g.trigger]]
    source = "mem"
    path = "/g"
    """
    manifest = MEMORY + FUNCTION.format(keys="", more="") + textwrap.dedent(other)
    got = "seen = []\ndef handler(context, event):\n    seen.append((event.body, event.headers))"
    with Rig(tmp_path, manifest, f=textwrap.dedent(code), g=got) as it:
        status, body = it.ask("/f")
        assert status == 200, body
        it.until(lambda: it.trigger("g").handled == 1)
        assert it.processor.functions["g"].handler.__globals__["seen"] == [(b"raw", {"n": 1})]


def test_a_binding_call_with_an_answer_is_a_round_trip_and_its_errors_are_the_functions(tmp_path: Path) -> None:
    code = """
    import threading
    def handler(context, event):
        mem = context.bindings["mem"]
        if event.body == b"threads":
            got = []
            threads = [threading.Thread(target=lambda n=n: got.append(mem.double(n))) for n in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            return sorted(got)
        if event.body == b"error":
            mem.fail()
        if event.body == b"object":
            mem.double(object())
        return mem.double(21)
    """

    class Binding:
        def double(self, number: int) -> int:
            return number * 2

        def fail(self) -> None:
            raise LookupError("not here")

    from nuclio_edge.sources.memory import MemorySource

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemorySource, "binding", lambda self, context: Binding())
        with rig(tmp_path, code) as it:
            assert it.ask("/f") == (200, b"42")
            assert it.ask("/f", b"threads") == (200, b"[0,2,4,6,8,10,12,14]")
            status, body = it.ask("/f", b"error")
            assert status == 500 and b"LookupError: not here" in body
            status, body = it.ask("/f", b"object")
            assert status == 500 and b"cannot leave a worker process" in body


def test_an_init_context_that_fails_suspends_the_function_with_its_own_frames_in_the_log(tmp_path: Path) -> None:
    code = "def init_context(context):\n    raise OSError('no sensor')\ndef handler(context, event):\n    pass"
    with rig(tmp_path, code) as it:
        it.until(lambda: it.processor.functions["f"].suspended)
        assert "no sensor" in it.records.text() and "process_child" not in it.records.text()
        assert it.ask("/f")[0] == 503


def test_an_import_that_ends_the_process_suspends_the_function(tmp_path: Path) -> None:
    with rig(tmp_path, "import os\nos._exit(9)\ndef handler(context, event):\n    pass") as it:
        it.until(lambda: it.processor.functions["f"].suspended)
        assert "exit code 9" in it.records.text()


def test_an_init_context_that_hangs_is_killed_at_the_timeout(tmp_path: Path) -> None:
    code = "import time\ndef init_context(context):\n    time.sleep(1000)\ndef handler(context, event):\n    pass"
    with rig(tmp_path, code, 'timeout = "300ms"') as it:
        it.until(lambda: it.processor.functions["f"].suspended)
        assert "init_context still running" in it.records.text()


def test_async_handlers_run_in_a_process_one_at_a_time(tmp_path: Path) -> None:
    code = """
    import asyncio
    async def init_context(context):
        context.user_data.n = 1
    async def handler(context, event):
        await asyncio.sleep(0.001)
        context.user_data.n += 1
        return str(context.user_data.n)
    """
    with rig(tmp_path, code) as it:
        assert it.ask("/f") == (200, b"2")
        assert it.ask("/f") == (200, b"3")


def test_a_function_that_writes_to_our_descriptor_hurts_itself_only(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN) as it:
        assert it.ask("/f", b"os.write(3, b'x' * 100)")[0] == 500
        assert it.ask("/f", b"1")[0] == 200


def test_a_failed_event_is_tried_again_in_a_new_process(tmp_path: Path) -> None:
    code = """
    import os
    def handler(context, event):
        if not os.path.exists(event.body):
            open(event.body, "w").close()
            os._exit(1)
        return "second"
    """
    with rig(tmp_path, code, more='retry = { attempts = 2, backoff = "10ms" }') as it:
        assert it.ask("/f", str(tmp_path / "mark").encode()) == (200, b"second")
        assert it.trigger("f").retried == 1


def test_without_workers_in_stock_a_process_starts_with_the_first_event(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN, 'workers = { min = 0, max = 1 }\nload = "first-event"') as it:
        assert it.processor.functions["f"].runner.children == []
        assert it.ask("/f", b"1")[0] == 200


def test_an_idle_process_ends_by_itself_or_is_killed_when_a_thread_of_its_own_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.workers.processes.IDLE_MS", 1)
    code = """
    import atexit, os, threading
    def handler(context, event):
        if event.body == b"thread":
            threading.Thread(target=threading.Event().wait).start()
        else:
            atexit.register(lambda: open(event.body, "w").close())
        return str(os.getpid())
    """
    with rig(tmp_path, code, 'workers = { min = 0, max = 1 }\ntimeout = "2s"') as it:  # looked at no later than then
        runner = it.processor.functions["f"].runner
        _, kept = it.ask("/f", b"thread")
        it.until(lambda: runner.children[0].dying)
        status, second = it.ask("/f", str(tmp_path / "mark").encode())
        assert status == 200 and second != kept
        it.until(lambda: not runner.children)
        assert (tmp_path / "mark").exists()


def test_a_timeout_is_kept_however_late_the_next_idle_process_ends(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN, 'workers = { min = 0, max = 1 }\ntimeout = "300ms"') as it:
        assert it.ask("/f", b"1")[0] == 200
        runner = it.processor.functions["f"].runner
        it.until(lambda: runner._timer.at - it.processor.loop.now > 10_000)  # nothing else is to be decided
        assert it.ask("/f", b"time.sleep(3600)")[0] == 408


PARENT = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.system.test_process_workers import rig, PLAIN
it = rig(Path(sys.argv[1]), PLAIN, 'timeout = "60s"')
print(int(it.ask("/f", b"str(os.getpid())")[1]), flush=True)
it.deliver("/f", b"[None for _ in iter(int, 1)]")
it.until(lambda: it.processor.functions["f"].runner.children[0].inflight)
it.turn_for(200)
print("spinning", flush=True)
it.turn_for(60_000)
"""


def test_when_the_processor_is_killed_its_processes_end_even_one_that_spins(tmp_path: Path) -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(root=root), str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert parent.stdout.readline() == "spinning\n" and _alive(pid)
        parent.kill()
        wait_until(lambda: not _alive(pid))


def test_at_the_stop_nothing_is_left(tmp_path: Path) -> None:
    with rig(tmp_path, PLAIN, "workers = 2") as it:
        assert it.ask("/f", b"1")[0] == 200
        pids = [child.spawned.pid for child in it.processor.functions["f"].runner.children]
    assert pids and not any(_alive(pid) for pid in pids)


def test_events_among_random_deaths_are_settled_once(tmp_path: Path) -> None:
    code = """
    import os, time
    def handler(context, event):
        kind = int(event.body) % 13
        if kind == 5:
            os._exit(1)
        if kind == 7:
            time.sleep(0.001)
    """
    with rig(tmp_path, code, "workers = 2", "inbox = { size = 1000 }") as it:
        settled = Settled()
        for number in range(130):
            it.deliver("/f", b"%d" % number, settled)
        it.until(lambda: len(settled.outcomes) >= 130)
        assert len({id(event) for event, _, _ in settled.outcomes}) == 130 == len(settled.outcomes)
        assert settled.statuses().count(500) == 10 and settled.statuses().count(200) == 120
        assert it.balanced()


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_event_of_mqtt_and_of_the_clock_is_the_same_on_the_other_side(tmp_path: Path, mosquitto: Mosquitto) -> None:
    code = """
    def handler(context, event):
        return [event.content_type, event.fields, str(event.url), event.headers, event.trigger.kind]
    """
    manifest = f"""
    [source.broker]
    kind = "mqtt"
    url = "{mosquitto.url}"
    content_type = "application/json"
    [function.f]
    handler = "f.py"
    isolation = "process"
    [[function.f.trigger]]
    topic = "in"
    [[function.f.trigger]]
    topic = "other"
    content_type = "text/csv"
    [[function.f.trigger]]
    every = "1h"
    body = "5"
    headers = {{ a = "b" }}
    [[function.f.output]]
    topic = "out"
    """
    with Rig(tmp_path, textwrap.dedent(manifest), f=textwrap.dedent(code)) as it:
        sent: list[str] = []
        it.processor.functions["f"].outputs = (lambda response, event: sent.append(response.body.decode()),)
        it.until(lambda: it.processor.sources["broker"].state == "open")
        publish = it.processor.sources["broker"].publisher.publish
        for topic, payload in (("in", '{"a":1}'), ("other", "1,2")):
            publish(topic, payload, 1, False, None)
            it.until(lambda: sent, topic)
        it.until(lambda: len(sent) == 2)
        assert sent[0] == f'["application/json",{{"a":1}},"{mosquitto.url}",{{}},"mqtt"]'
        assert sent[1].startswith('["text/csv",')


def test_large_events_wait_in_the_inbox_and_not_a_second_time_on_their_way_to_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
    import os, time
    def handler(context, event):
        while event.raw_body[:4] == b"wait" and not os.path.exists(os.environ["GO"]):
            time.sleep(0.002)
    """
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    with rig(tmp_path, code) as it:
        child = it.processor.functions["f"].runner.children
        for _ in range(3):  # it has shown that it is short: now it is given several at a time
            it.ask("/f")
        settled = Settled()
        for number in range(15):
            it.deliver("/f", b"wait" * 200_000 if number == 0 else bytes(800_000), settled)
        it.until(lambda: it.trigger("f").admitted == 18 and child[0].inflight)
        it.turn_for(30)
        assert len(child[0].inflight) <= 3 and child[0].unsent <= 2_000_000
        (tmp_path / "go").touch()
        it.until(lambda: len(settled.outcomes) == 15, "all outcomes")
        assert child[0].unsent == 0
