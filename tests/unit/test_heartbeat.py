"""When systemd is told that the process lives: by a clock that a test moves, and by a spool whose disk hangs."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core import port
from nuclio_edge.logs import Log
from nuclio_edge.manifest import load
from nuclio_edge.processor import Processor
from nuclio_edge.spool.disk import Disk
from nuclio_edge.spool.spool import Spool
from nuclio_edge.supervision import supervise
from nuclio_edge.supervision.heartbeat import DISK_MS, GRACE_MS, Heart
from nuclio_edge.testing import Clock
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MANIFEST = """
[device]
state_dir = "state"
[source.m]
kind = "memory"
[function.f]
handler = "f.py"
timeout = "2s"
[[function.f.trigger]]
source = "m"
path = "a"
"""
CODE = """
import threading
begun, go = threading.Event(), threading.Event()
def handler(context, event):
    begun.set()
    go.wait()
"""
INTERVAL_MS = 10_000


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield made


@pytest.fixture
def processor(tmp_path: Path) -> Iterator[Processor]:
    (tmp_path / "edge.toml").write_text(MANIFEST)
    (tmp_path / "f.py").write_text(CODE)
    made = Processor(load(str(tmp_path / "edge.toml")), Log())
    made.open()
    turn_until(made, lambda: made.ready, "it to be ready")
    yield made
    made.functions["f"].handler.__globals__["go"].set()
    made.stop()
    if made.functions:
        made.run()
    made.loop.close()


def turn_until(processor: Processor, condition: Callable[[], Any], what: str) -> None:
    def there() -> Any:
        processor.loop.turn(5)
        return condition()

    wait_until(there, what)


def told(systemd: socket.socket) -> list[str]:
    messages = []
    try:
        while True:
            messages.append(systemd.recv(4096).decode())
    except BlockingIOError:
        return messages


def test_it_is_told_more_than_twice_in_its_interval_with_a_wake_up_each(
    processor: Processor, systemd: socket.socket
) -> None:
    with Clock() as clock:
        heart = Heart(processor, INTERVAL_MS, lambda: "fine")
        assert told(systemd) == ["WATCHDOG=1\nSTATUS=fine"]
        for _ in range(20):
            clock.advance(INTERVAL_MS * 2 // 5, processor.loop)
            assert told(systemd) == ["WATCHDOG=1"]
        heart.close()
        heart.close()
        clock.advance(10 * INTERVAL_MS, processor.loop)
        assert told(systemd) == []


def test_a_worker_that_never_comes_back_and_is_not_replaced_either_stops_it_until_it_moves_again(
    processor: Processor, systemd: socket.socket
) -> None:
    function = processor.functions["f"]
    code = function.handler.__globals__
    processor.sources["m"].deliver("a", b"x")
    turn_until(processor, code["begun"].is_set, "the handler to begin")
    function.runner._deadline.cancel()  # the fault: nobody looks whether it is past its timeout
    with Clock() as clock:
        heart = Heart(processor, INTERVAL_MS, lambda: "fine")
        clock.advance(function.timeout_ms + GRACE_MS, processor.loop)
        assert heart.trouble == ""
        clock.advance(INTERVAL_MS, processor.loop)
        assert heart.trouble == "function f has not moved for more than 7 s"
        assert told(systemd)[-1] == f"STATUS=stuck: {heart.trouble}"
        clock.advance(10 * INTERVAL_MS, processor.loop)
        assert told(systemd) == []
        code["go"].set()
        turn_until(processor, lambda: function.triggers[0].handled, "the handler to end")
        clock.advance(INTERVAL_MS, processor.loop)
        assert heart.trouble == ""
        assert told(systemd)[0] == "WATCHDOG=1\nSTATUS=fine"
        heart.close()


def test_a_handler_past_its_timeout_that_is_replaced_does_not(processor: Processor, systemd: socket.socket) -> None:
    function = processor.functions["f"]
    code = function.handler.__globals__
    processor.sources["m"].deliver("a", b"x")
    turn_until(processor, code["begun"].is_set, "the handler to begin")
    heart = Heart(processor, 100, lambda: "fine")
    turn_until(processor, lambda: function.triggers[0].failed, "its timeout")
    assert (heart.trouble, function.suspended) == ("", None)
    heart.close()
    assert told(systemd)[0].startswith("WATCHDOG=1")


def test_a_long_queue_is_no_standstill_as_long_as_it_grows_shorter(processor: Processor) -> None:
    with Clock() as clock:
        heart = Heart(processor, INTERVAL_MS, lambda: "fine")
        trigger = processor.functions["f"].triggers[0]
        processor.functions["f"].runner.queue._boxes = ([1],)  # something always waits
        for _ in range(20):
            trigger.failed += 1
            clock.skip(6_000)
            assert heart.look() == ""
        clock.skip(9_000)
        assert heart.look() == "function f has not moved for more than 7 s"
        processor.functions["f"].runner.queue._boxes = ()
        trigger.failed = 0
        heart.close()


class Hanging(Disk):
    """A disk that takes its time over a sync."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()

    def sync(self, descriptor: int) -> None:
        self.begun.set()
        self.go.wait()
        super().sync(descriptor)


def test_a_spool_whose_disk_hangs_in_a_sync_stops_it(processor: Processor, tmp_path: Path) -> None:
    disk = Hanging()
    spool = Spool(processor.loop, str(tmp_path / "spool"), disk=disk)
    spool.open()
    heart = Heart(processor, INTERVAL_MS, lambda: "fine")
    heart.watch("the spool's writer", lambda: spool.in_hand, DISK_MS)
    spool.append(1, "key", b"payload", urgent=True)
    turn_until(processor, disk.begun.is_set, "the sync")
    with Clock(ticks=port.ticks_ms()) as clock:
        heart.look()
        clock.skip(DISK_MS)
        assert heart.look() == ""
        clock.skip(1_000)
        assert heart.look() == "the spool's writer has not moved for more than 60 s"
        disk.go.set()
        turn_until(processor, lambda: spool.in_hand is None, "the group to be durable")
        assert heart.look() == ""
    heart.close()
    spool.close()


@pytest.mark.parametrize(
    ("usec", "pid", "expected"),
    [
        ("30000000", None, 30_000),
        ("30000000", "mine", 30_000),
        ("30000000", "1", 0),
        ("", None, 0),
        ("-5", None, 0),
        ("x", None, 0),
        (None, None, 0),
    ],
)
def test_the_interval_is_systemds_if_it_is_meant_for_this_process(
    monkeypatch: pytest.MonkeyPatch, usec: str | None, pid: str | None, expected: int
) -> None:
    import os

    values: dict[str, Any] = {"WATCHDOG_USEC": usec, "WATCHDOG_PID": str(os.getpid()) if pid == "mine" else pid}
    for name, value in values.items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert supervise.watchdog_ms() == expected
