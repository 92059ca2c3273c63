"""Signals through the loop, systemd's notifications, and the lock of the state directory."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.context import Context
from nuclio_edge.core.loop import Loop
from nuclio_edge.errors import StateError
from nuclio_edge.functions import environment, running
from nuclio_edge.supervision import supervise
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


class Calls:
    """Notes what the signals call."""

    def __init__(self, loop: Loop) -> None:
        self.seen: list[str] = []
        note = self.seen.append
        self.signals = supervise.Signals(loop, lambda: note("stop"), lambda: note("reload"), lambda: note("abort"))


@pytest.fixture
def calls(loop: Loop) -> Iterator[Calls]:
    made = Calls(loop)
    yield made
    made.signals.close()


def turn_until(loop: Loop, calls: Calls, wanted: list[str]) -> None:
    def there() -> bool:
        loop.turn(10)
        return calls.seen == wanted

    wait_until(there, lambda: f"{wanted}, and there is {calls.seen}")


@pytest.mark.parametrize(
    ("number", "call"), [(signal.SIGTERM, "stop"), (signal.SIGINT, "stop"), (signal.SIGHUP, "reload")]
)
def test_each_signal_is_a_call_on_the_loop(loop: Loop, calls: Calls, number: signal.Signals, call: str) -> None:
    os.kill(os.getpid(), number)
    turn_until(loop, calls, [call])


def test_a_signal_ends_a_wait_without_a_deadline(loop: Loop, calls: Calls) -> None:
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGHUP))
    timer.start()
    loop.turn()  # an hour, if nobody wakes it
    timer.join()
    turn_until(loop, calls, ["reload"])


def test_two_signals_of_one_moment_are_one_and_a_later_one_aborts_before_the_loop_turns(
    calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    assert calls.seen == []
    clock[0] += 1
    os.kill(os.getpid(), signal.SIGINT)
    assert calls.seen == ["abort"]


def test_closing_gives_the_signals_back(loop: Loop) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    calls = Calls(loop)
    assert signal.getsignal(signal.SIGTERM) not in before
    calls.signals.close()
    calls.signals.close()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_a_function_on_the_main_thread_cannot_take_the_signals_away(loop: Loop, calls: Calls) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    running.bind(running.Running("f", environment.function_environment("f", {}), Context()))
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPROF):
            with pytest.raises(ValueError, match="the processor's"):
                signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    finally:
        running.bind(None)
        signal.signal(signal.SIGUSR1, before)
    os.kill(os.getpid(), signal.SIGTERM)
    turn_until(loop, calls, ["stop"])


def test_nobody_is_told_where_there_is_no_notify_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not supervise.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "absent"))
    assert not supervise.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "relative")
    assert not supervise.notify("READY=1")


def test_an_abstract_socket_is_told_too(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"nuclio-edge-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        assert supervise.ready("fine")
        assert systemd.recv(100) == b"READY=1\nSTATUS=fine"


def test_the_lock_makes_the_folder_and_a_second_one_names_the_holder(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "state"
    lock = supervise.StateLock(str(folder))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / supervise.LOCK_FILE).read_text() == f"{os.getpid()}\n"
    taking = f"from nuclio_edge.supervision.supervise import StateLock; StateLock({str(folder)!r})"
    other = subprocess.run([sys.executable, "-c", taking], capture_output=True, check=False)
    assert other.returncode == 1
    assert f"held by the processor with pid {os.getpid()}" in other.stderr.decode()
    lock.release()
    lock.release()
    supervise.StateLock(str(folder)).release()


def test_a_state_directory_that_cannot_be_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").symlink_to("nothing")
    for path, why in (
        (tmp_path / "file", "there is a file$"),
        (tmp_path / "file" / "below", "a file stands where a folder has to$"),
        (tmp_path / "folder", "there is a file$"),
    ):
        with pytest.raises(StateError, match="cannot be used: " + why) as caught:
            supervise.StateLock(str(path))
        assert caught.value.hint == "write state_dir in [device]"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Makes the state directory of a test read-only, with what is in it; `tmp_path/state`."""
    folder = tmp_path / "state"
    folder.mkdir()
    mounted: list[Path] = []

    def mount() -> Path:
        done = subprocess.run(["mount", "--bind", folder, folder], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no right to mount: {done.stderr.decode().strip()}")
        mounted.append(folder)
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        return folder

    yield mount
    for one in mounted:
        subprocess.run(["umount", "-l", one], check=True)


def test_a_read_only_state_directory_is_held_by_its_lock_file(read_only: Any, tmp_path: Path) -> None:
    supervise.StateLock(str(tmp_path / "state")).release()
    folder = read_only()
    lock = supervise.StateLock(str(folder))
    assert lock.held
    assert lock.trouble == "Read-only file system"
    taking = f"from nuclio_edge.supervision.supervise import StateLock; StateLock({str(folder)!r})"
    other = subprocess.run([sys.executable, "-c", taking], capture_output=True, check=False)
    assert other.returncode == 1
    assert "held by the processor with pid (unknown)" in other.stderr.decode()
    lock.release()
    lock.release()
    assert not lock.held


@pytest.mark.parametrize("name", ["", "missing/folder"])
def test_a_read_only_state_directory_without_a_lock_file_is_not_held(read_only: Any, name: str) -> None:
    lock = supervise.StateLock(str(read_only() / name))
    assert not lock.held
    assert lock.trouble == "Read-only file system"
    lock.release()
