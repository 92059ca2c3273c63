"""`nuclio-edge run`: what it says, what signals do to it, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.cli import PROGRAM, Running, call, environment, write
from tests.mosquitto import program
from tests.terminal import Terminal
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto

TICK = """
[function.tick]
handler = "tick.py"
[[function.tick.trigger]]
every = "50ms"
"""
LONGEST = """
[device]
stop_timeout = "365d"
[spool]
flush = "365d"
""" + "".join(
    f"""
[function.{name}]
handler = "{file}.py"
isolation = "{isolation}"
timeout = "365d"
[[function.{name}.trigger]]
every = "50ms"
retry = {{ backoff = "365d", max_backoff = "365d" }}
{more}
"""
    for name, isolation, file, more in (
        ("thread", "thread", "tick", 'batch = { size = 2, timeout = "365d" }'),
        ("process", "process", "tick", ""),
        ("inline", "inline", "tick", ""),
        ("loop", "thread", "wait", ""),
    )
)
COUNT = """
def handler(context, event):
    context.logger.info_with("tick")
"""


def test_ready_is_a_json_record_with_counts_and_pid_in_a_pipe_and_stdout_stays_free(tmp_path: Path) -> None:
    write(tmp_path, TICK, tick=COUNT)
    with Running(tmp_path) as run:
        record = run.wait_for(event="ready")
        assert record["message"] == "ready: 1 function, 1 source"
        assert record["with"]["functions"] == 1
        assert record["with"]["pid"] == run.process.pid
        run.wait_for(message="tick", function="tick")
        assert run.stop() == 0
        assert run.out_file.read_bytes() == b""
        assert [r["event"] for r in run.records if "event" in r] == ["ready", "stopped"]


def test_the_longest_durations_that_a_manifest_may_have_break_no_timer(tmp_path: Path) -> None:
    write(tmp_path, LONGEST, tick=COUNT, wait=f"async {COUNT.strip()}")
    with Running(tmp_path) as run:
        for name in ("thread", "process", "inline", "loop"):
            run.wait_for(message="tick", function=name)
        assert run.stop() == 0
        assert not [r for r in run.records if r["level"] in ("warn", "error")]


def test_ready_is_one_line_of_text_on_a_terminal(tmp_path: Path) -> None:
    write(tmp_path, TICK, tick=COUNT)
    with Terminal(tmp_path) as run:
        run.read_until(b"tick: tick")
        run.process.send_signal(signal.SIGINT)
        run.read_until(b"received ")
        assert run.process.wait(30) == 0
        assert b"ready: 1 function, 1 source\r\n" in run.seen


def test_ctrl_c_on_a_terminal_leaves_the_last_line_a_line_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, TICK, tick=COUNT)
    with Terminal(tmp_path) as run:
        run.read_until(b"tick: tick")
        run.ctrl_c()
        run.read_until(b"received ")
        assert run.process.wait(30) == 0
        assert b"^C\r\n" in run.seen and b"\nreceived " in run.seen
        assert b"crashed" not in run.seen


def test_a_stop_that_takes_long_says_once_on_a_terminal_what_it_waits_for(tmp_path: Path) -> None:
    slow = "import time\ndef handler(context, event):\n    context.logger.info('begun')\n    time.sleep(3600)\n"
    write(tmp_path, '[device]\nstop_timeout = "1h"\n' + TICK, tick=slow)
    with Terminal(tmp_path) as run:
        run.read_until(b"begun")
        run.ctrl_c()
        run.read_until(b"waiting for tick; Ctrl-C again ends at once\r\n")
        run.ctrl_c()
        run.read_until(b"\nnuclio-edge: stopped at once by a second signal")
        assert run.process.wait(30) == 5
        assert run.seen.count(b"waiting for") == 1
        assert b"crashed" not in run.seen


def test_the_last_line_sums_up_what_was_received_handled_failed_and_shed(tmp_path: Path) -> None:
    write(tmp_path, TICK, tick="def handler(context, event):\n    1 / 0\n")
    with Running(tmp_path) as run:
        run.wait_for(message="failed")
        assert run.stop() == 0
        last = run.records[-1]
        assert last["event"] == "stopped"
        counted = last["with"]
        assert counted["received"] == counted["failed"] > 0
        assert counted["handled"] == 0
        assert counted["exit"] == 0
        assert last["message"].startswith(
            f"received {counted['received']}, handled 0, failed {counted['failed']}, shed 0"
        )


def test_sigterm_and_sigint_let_a_running_handler_finish(tmp_path: Path) -> None:
    slow = """
import time
def handler(context, event):
    context.logger.info_with("begun")
    time.sleep(1)
    context.logger.info_with("done")
"""
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / number.name
        folder.mkdir()
        write(folder, TICK, tick=slow)
        with Running(folder) as run:
            run.wait_for(message="begun")
            run.send(number)
            assert run.wait() == 0
            assert any(r["message"] == "done" for r in run.records)


def test_what_takes_longer_than_stop_timeout_is_left_undrained_and_the_exit_code_is_5_or_75(tmp_path: Path) -> None:
    manifest = '[device]\nstop_timeout = "200ms"\n' + TICK
    slow = "import time\ndef handler(context, event):\n    context.logger.info('begun')\n    time.sleep(3600)\n"
    write(tmp_path, manifest, tick=slow)
    with Running(tmp_path) as run:
        run.wait_for(message="begun")
        assert run.stop() in (5, 75)  # a thread that hangs is more than an event undrained
        assert any(r["message"] == "stopped with events undrained" for r in run.records)


def test_a_thread_that_does_not_end_is_told_with_its_function_and_the_exit_code_75(tmp_path: Path) -> None:
    hangs = "import time\ndef handler(context, event):\n    time.sleep(3600)\n"
    write(tmp_path, TICK.replace("[[", 'timeout = "100ms"\n[['), tick=hangs)
    with Running(tmp_path) as run:
        run.wait_for(message="failed")
        assert run.stop() == 75
        told = run.wait_for(message="a handler's thread does not end: start the process anew")
        assert told["with"] == {"functions": "tick", "exit": 75}


def test_whatever_a_handler_has_done_to_the_process_a_signal_ends_it(tmp_path: Path) -> None:
    breaks = """
import os, sys
def handler(context, event):
    sys.stdout = sys.stderr = None
    del sys.stdout, sys.stderr
    sys.__stdout__.close()
    os.environ = None
    context.logger.info_with("begun")
"""
    write(tmp_path, TICK, tick=breaks)
    with Running(tmp_path) as run:
        run.wait_for(message="begun")
        assert run.stop() == 0
        assert not [r for r in run.records if r["level"] != "info"]


def test_an_inline_function_cannot_make_the_processor_deaf_to_signals(tmp_path: Path) -> None:
    deaf = """
import signal
def handler(context, event):
    for take in (
        lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        lambda: signal.set_wakeup_fd(-1),
    ):
        try:
            take()
        except ValueError as error:
            context.logger.info_with("refused", "error", str(error))
"""
    write(tmp_path, TICK.replace("[[", 'isolation = "inline"\n[['), tick=deaf)
    with Running(tmp_path) as run:
        wait_until(lambda: len([r for r in run.records if r["message"] == "refused"]) >= 2, "both are refused")
        assert run.stop() == 0


def test_a_stop_that_meets_a_fault_of_ours_ends_all_the_same_and_with_1(tmp_path: Path) -> None:
    breaks = """
from nuclio_edge import clock, stop
def fails(self):
    raise ValueError("broken")
def handler(context, event):
    stop.Stop._waits = clock.Clock.close = fails
    context.logger.info_with("begun")
"""
    write(tmp_path, TICK, tick=breaks)
    with Running(tmp_path) as run:
        run.wait_for(message="begun")
        assert run.stop() == 1
        defects = [r["with"]["where"] for r in run.records if r["message"] == "a defect of nuclio-edge"]
        assert [where.rpartition(".")[2] for where in defects] == ["look", "fails"]
        assert run.records[-1]["event"] == "stopped"


def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    manifest = '[device]\nstop_timeout = "1h"\n' + TICK
    slow = "import time\ndef handler(context, event):\n    context.logger.info('begun')\n    time.sleep(3600)\n"
    write(tmp_path, manifest, tick=slow)
    with Running(tmp_path) as run:
        run.wait_for(message="begun")
        run.send(signal.SIGTERM)

        def again() -> bool:
            run.send(signal.SIGTERM)
            return run.process.poll() is not None

        wait_until(again, "it is still there")
        assert run.wait() == 5
        assert "stopped at once by a second signal" in run.log


def test_a_manifest_with_problems_ends_it_with_2_and_the_text_that_check_has(tmp_path: Path) -> None:
    write(tmp_path, '[function.door]\nhandler = "door.py"\n[[function.door.trigger]]\nevery = "soon"\n')
    done = call("run", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "edge.toml:4: function.door.trigger[0].every: " in done.stderr
    assert done.stderr.endswith("problems in edge.toml; nothing was started.\n")
    assert call("check", cwd=tmp_path).stderr == done.stderr


def test_no_manifest_is_a_manifest_error(tmp_path: Path) -> None:
    done = call("run", "absent.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "absent.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_holder_of_the_state_directory_exits_1_and_names_the_pid(tmp_path: Path) -> None:
    write(tmp_path, TICK, tick=COUNT)
    with Running(tmp_path) as run:
        run.ready()
        done = call("run", cwd=tmp_path)
        assert done.returncode == 1
        assert f"held by the processor with pid {run.process.pid}" in done.stderr
        run.process.kill()
        run.process.wait()
    with Running(tmp_path) as again:  # a killed one holds nothing
        again.ready()
        assert again.stop() == 0


def test_what_a_handler_has_forked_does_not_hold_the_state_directory(tmp_path: Path) -> None:
    forks = """
import os, time
def handler(context, event):
    if not os.path.exists("child"):
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
        with open("child", "w") as file:
            file.write(str(child))
        context.logger.info("forked")
"""
    write(tmp_path, TICK, tick=forks)
    with Running(tmp_path) as first:
        first.wait_for(message="forked")
        first.process.kill()
        first.process.wait()
    try:
        with Running(tmp_path) as second:
            second.ready()
            assert second.stop() == 0
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)


def test_sighup_takes_a_changed_manifest_and_keeps_running_without_a_valid_one(tmp_path: Path) -> None:
    path = write(tmp_path, TICK, tick=COUNT, more="def handler(context, event):\n    context.logger.info('more')\n")
    with Running(tmp_path) as run:
        run.ready()
        path.write_text("[function.tick]\nhandle = 1\n")
        run.send(signal.SIGHUP)
        refused = run.wait_for(event="reload-failed")
        assert refused["level"] == "error"
        assert "edge.toml:2: function.tick.handle: unknown key" in refused["with"]["problems"]
        ticks = len([r for r in run.records if r["message"] == "tick"])
        run.wait_for(ticks + 2, message="tick")
        path.write_text(TICK + TICK.replace("tick", "more"))
        run.send(signal.SIGHUP)
        assert run.wait_for(event="reloaded")["with"]["changes"] == "function more added"
        run.wait_for(message="more")
        assert run.stop() == 0


def test_watch_loads_a_changed_function_and_a_module_that_it_imports(tmp_path: Path) -> None:
    using = "import words\ndef handler(context, event):\n    context.logger.info('one ' + words.WORD)\n"
    write(tmp_path, TICK, tick=using, words="WORD = 'a'\n")
    with Running(tmp_path, "--watch") as run:
        run.wait_for(message="one a")
        (tmp_path / "words.py").write_text("WORD =\n")
        run.wait_for(message="the new version could not be loaded; the old one stays")
        run.wait_for(len([r for r in run.records if r["message"] == "one a"]) + 2, message="one a")
        (tmp_path / "words.py").write_text("WORD = 'changed'\n")
        run.wait_for(message="one changed")
        (tmp_path / "tick.py").write_text(using.replace("one", "another"))
        run.wait_for(message="another changed")
        (tmp_path / "tick.py").write_text("def handler(context, event\n")
        run.wait_for(event="reload-failed")
        (tmp_path / "tick.py").write_text(using.replace("one", "third"))
        run.wait_for(message="third changed")
        assert run.stop() == 0


def test_systemd_is_told_that_it_is_ready_reloading_and_stopping(tmp_path: Path) -> None:
    path = write(tmp_path, TICK, tick=COUNT)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        with Running(tmp_path, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}) as run:
            assert systemd.recv(4096) == b"READY=1\nSTATUS=1 function, 1 source"
            path.write_text(TICK.replace("50ms", "60ms"))
            run.send(signal.SIGHUP)
            assert systemd.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert systemd.recv(4096).startswith(b"READY=1\n")
            run.send(signal.SIGTERM)
            assert systemd.recv(4096).startswith(b"STOPPING=1\n")
            assert run.wait() == 0


def test_it_is_ready_while_a_broker_is_away_and_says_so(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        manifest = f'[source.broker]\nkind = "mqtt"\nurl = "mqtt://127.0.0.1:{port}"\n' + TICK
        write(tmp_path, manifest, tick=COUNT)
        with Running(tmp_path) as run:
            assert run.wait_for(event="ready")["message"] == "ready: 1 function, 2 sources (1 connecting)"
            assert run.stop() == 0


def test_an_mqtt_message_reaches_the_function_and_its_answer_the_broker(tmp_path: Path, mosquitto: Mosquitto) -> None:
    from paho.mqtt import publish, subscribe

    manifest = f"""
[source.broker]
kind = "mqtt"
url = "{mosquitto.url}"
[function.double]
handler = "double.py"
[[function.double.trigger]]
topic = "in/+"
[[function.double.output]]
topic = "out"
retain = true
"""
    write(tmp_path, manifest, double="def handler(context, event):\n    return {'twice': 2 * int(event.body)}\n")
    with Running(tmp_path) as run:
        run.ready()
        run.wait_for(message="connected")
        publish.single("in/a", "21", qos=1, hostname="127.0.0.1", port=mosquitto.port)
        host, port = "127.0.0.1", mosquitto.port
        message = subscribe.simple("out", hostname=host, port=port)  # type: ignore[no-untyped-call]  # paho's own
        assert json.loads(message.payload) == {"twice": 42}
        assert run.stop() == 0
        assert run.records[-1]["with"]["received"] == run.records[-1]["with"]["handled"] == 1


def test_a_secret_of_a_source_never_shows_in_the_log(tmp_path: Path) -> None:
    manifest = """
[source.broker]
kind = "mqtt"
url = "mqtt://127.0.0.1:1"
username = "u"
password = { secret = "word" }
"""
    write(tmp_path, manifest + TICK, tick="def handler(context, event):\n    print('it is open-sesame')\n")
    with Running(tmp_path, env={"NUCLIO_EDGE_SECRET_WORD": "open-sesame"}) as run:
        run.wait_for(message="it is ***")
        assert run.stop() == 0
        assert "open-sesame" not in run.log


def test_closed_standard_descriptors_are_no_harm(tmp_path: Path) -> None:
    write(tmp_path, TICK, tick="def handler(context, event):\n    open('handled', 'w').close()\n")
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *PROGRAM, "run"], cwd=tmp_path, env=environment(tmp_path)
    )
    try:
        wait_until((tmp_path / "handled").exists, "nothing was handled")
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_a_run_loads_nothing_that_its_manifest_does_not_need(tmp_path: Path) -> None:
    listing = """
import sys
def handler(context, event):
    context.logger.info_with("modules", "names", sorted(sys.modules))
"""
    write(tmp_path, TICK, tick=listing)
    with Running(tmp_path) as run:
        loaded = set(run.wait_for(message="modules")["with"]["names"])
        assert run.stop() == 0
    heavy = "argparse asyncio dataclasses inspect logging pathlib signal ssl subprocess typing urllib"
    heavy += " aiocoap h11 msgpack paho importlib.metadata tempfile"
    # What the interpreter loads by itself (a .pth file of the virtual environment may import much) is not ours.
    bare = subprocess.run([sys.executable, "-c", "import sys; print(*sys.modules)"], capture_output=True, check=True)
    own = loaded - set(bare.stdout.decode().split())
    assert own.isdisjoint(heavy.split()), sorted(own & set(heavy.split()))


def test_a_second_reload_while_a_source_still_settles_opens_only_the_last_one(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    slow = """
import os, time
def handler(context, event):
    context.logger.info("began")
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
    text = """
[source.broker]
kind = "mqtt"
url = "{url}"
client_id = "two-reloads"
keepalive = "{seconds}s"
[function.slow]
handler = "slow.py"
[[function.slow.trigger]]
topic = "in"
"""
    path = write(tmp_path, text.format(url=mosquitto.url, seconds=60), slow=slow)
    with Running(tmp_path) as run:
        run.ready()
        message = ("-p", str(mosquitto.port), "-t", "in", "-m", "1", "-q", "1")
        subprocess.run([program("mosquitto_pub"), *message], check=True)
        run.wait_for(message="began")
        for count, seconds in enumerate((50, 40), 1):
            path.write_text(text.format(url=mosquitto.url, seconds=seconds))
            run.send(signal.SIGHUP)
            run.wait_for(count, event="reloaded")
        (tmp_path / "go").touch()
        mosquitto.wait_for_log("as two-reloads (p5, c0, k40")
        assert run.stop() == 0
        assert "as two-reloads (p5, c0, k50" not in mosquitto.log
        assert "already connected" not in mosquitto.log


def test_no_import_makes_a_reload_the_last_one(tmp_path: Path) -> None:
    text = TICK.replace("[[", 'timeout = "500ms"\n[[', 1)
    path = write(tmp_path, text, tick=COUNT)
    with Running(tmp_path) as run:
        run.ready()
        imports = (
            "raise KeyboardInterrupt",
            "class Odd(BaseException): pass\nraise Odd",
            "import time\ntime.sleep(600)",
        )
        for count, code in enumerate((*imports, "WORD = 'again'"), 1):
            path.write_text(f'{text}[function.tick.env]\nA = "{count}"\n'.replace("\n\n[", "\n["))
            (tmp_path / "tick.py").write_text(f"{code}\ndef handler(context, event):\n    context.logger.info(WORD)\n")
            run.send(signal.SIGHUP)
            wanted = "keeps its old version" if count <= len(imports) else "replaced"
            assert run.wait_for(count, event="reloaded")["with"]["changes"] == f"function tick {wanted}"
        run.wait_for(message="again")
        run.stop()
