"""A processor under systemd, for which a datagram socket stands in: when it hears that the process lives, when not."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, write
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(180)

GOOD = """
[function.good]
handler = "good.py"
[[function.good.trigger]]
every = "100ms"
"""
HANGING = """
[function.hanging]
handler = "hanging.py"
timeout = "500ms"
[[function.hanging.trigger]]
every = "100ms"
"""
GOOD_CODE = "def handler(context, event):\n    pass\n"
HANGING_CODE = """
import time
def handler(context, event):
    while True:
        try:
            time.sleep(100)
        except BaseException:
            pass
"""
HANGS = 'function suspended: its handlers hang; isolation = "process" can stop what a thread cannot'
INTERVAL_US = 1_000_000
SHORT = "WatchdogSec is shorter than a handler may hold this process up: systemd may end it for no fault"


class Systemd:
    """The socket that systemd gives a service, and what came through it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(60)
        self.environment = {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(INTERVAL_US)}

    def next(self, beginning: str) -> str:
        """The next message that begins like this; those before it are skipped."""
        end = time.monotonic() + 60
        message = ""
        while time.monotonic() < end:
            message = self.socket.recv(4096).decode()
            if message.startswith(beginning):
                return message
        raise AssertionError(f"waited in vain for {beginning}; the last was {message}")

    def count_until(self, run: Running, seconds: float) -> int:
        """How many times it is told within so long that the process lives."""
        count = 0
        end = time.monotonic() + seconds
        while run.process.poll() is None and (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                count += self.socket.recv(4096).startswith(b"WATCHDOG=1")
            except TimeoutError:
                break
        return count


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path)
    yield made
    made.socket.close()


def test_it_is_told_the_start_that_the_process_lives_the_reload_and_the_stop(tmp_path: Path, systemd: Systemd) -> None:
    write(tmp_path, GOOD, good=GOOD_CODE)
    with Running(tmp_path, env=systemd.environment) as run:
        assert systemd.next("READY=1") == "READY=1\nSTATUS=1 function, 1 source"
        assert systemd.next("WATCHDOG=1") == "WATCHDOG=1\nSTATUS=1 function, 1 source"
        for _ in range(3):
            assert systemd.next("WATCHDOG=1") == "WATCHDOG=1"  # the status only when it has changed
        run.send(signal.SIGHUP)
        assert "MONOTONIC_USEC=" in systemd.next("RELOADING=1")
        systemd.next("READY=1")
        run.process.terminate()
        assert systemd.next("STOPPING=1") == "STOPPING=1\nEXTEND_TIMEOUT_USEC=10000000\nSTATUS=stopping"
        assert run.wait() == 0


@pytest.mark.parametrize("pid", ["1", "nonsense"])
def test_a_watchdog_that_is_meant_for_another_process_is_left_alone(tmp_path: Path, systemd: Systemd, pid: str) -> None:
    write(tmp_path, GOOD, good=GOOD_CODE)
    with Running(tmp_path, env={**systemd.environment, "WATCHDOG_PID": pid}) as run:
        systemd.next("READY=1")
        run.ready()
        run.process.terminate()
        message = systemd.next("")
        assert message.startswith("STOPPING=1"), message
        assert run.wait() == 0


def test_one_function_that_hangs_beside_another_is_no_reason_to_end_the_process(
    tmp_path: Path, systemd: Systemd
) -> None:
    write(tmp_path, GOOD + HANGING, good=GOOD_CODE, hanging=HANGING_CODE)
    with Running(tmp_path, env=systemd.environment) as run:
        run.wait_for(logger="hanging", level="error", message=HANGS)
        while "1 suspended" not in systemd.next("WATCHDOG=1"):
            pass
        for _ in range(5):
            systemd.next("WATCHDOG=1")


def test_when_every_function_hangs_it_is_told_no_more_and_why(tmp_path: Path, systemd: Systemd) -> None:
    write(tmp_path, HANGING, hanging=HANGING_CODE)
    with Running(tmp_path, env=systemd.environment) as run:
        run.wait_for(logger="hanging", level="error", message=HANGS)
        why = "no function can run any more, and these hang: hanging"
        assert systemd.next("STATUS=stuck") == f"STATUS=stuck: {why}"
        assert systemd.count_until(run, 3) == 0
        told = run.wait_for(message="systemd is told no more that this process lives: it will end it")
        assert told["with"]["reason"] == why
        os.kill(run.process.pid, 6)  # what systemd does when WatchdogSec is over
        assert run.wait() == -6
    with Running(tmp_path, env=systemd.environment) as run:
        told = run.wait_for(message=f"the last process crashed: Aborted (stuck: {why})")["with"]
        assert told["culprit"] == "unknown"  # nobody is suspended: a new process is the cure
        assert "function suspended" not in run.log
        systemd.next("WATCHDOG=1")


def test_a_loop_that_is_held_up_is_not_covered_by_another_thread(tmp_path: Path, systemd: Systemd) -> None:
    inline = '\n[function.slow]\nhandler = "slow.py"\nisolation = "inline"\n[[function.slow.trigger]]\nevery = "2s"\n'
    slow = "import time\ndef handler(context, event):\n    open('slow', 'w').close()\n    time.sleep(60)\n"
    write(tmp_path, GOOD + inline, good=GOOD_CODE, slow=slow)
    with Running(tmp_path, env=systemd.environment) as run:
        run.wait_for(level="warning", message=SHORT)
        systemd.next("WATCHDOG=1")
        wait_until((tmp_path / "slow").exists, "the slow handler to begin")
        count = systemd.count_until(run, 3)
        assert systemd.count_until(run, 3) == 0, count  # what had come before was read


def test_it_is_told_which_import_takes_long(tmp_path: Path, systemd: Systemd) -> None:
    wait = f"import os, time\nwhile not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\n"
    write(tmp_path, GOOD, good=wait + GOOD_CODE)
    with Running(tmp_path, env=systemd.environment):
        assert systemd.next("READY=1") == "READY=1\nSTATUS=1 function (1 loading: good), 1 source"
        (tmp_path / "go").touch()


def test_without_a_watchdog_nobody_is_woken_for_it(tmp_path: Path, systemd: Systemd) -> None:
    write(tmp_path, GOOD.replace("100ms", "1h"), good=GOOD_CODE)
    with Running(tmp_path, env={"NOTIFY_SOCKET": str(systemd.path)}) as run:
        systemd.next("READY=1")
        assert systemd.count_until(run, 2) == 0
