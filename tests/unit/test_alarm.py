"""The kernel's timer on which a thread sleeps while another puts it off."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from nuclio_edge.workers.alarm import Alarm
from tests.waiting import wait_until


def test_a_wait_ends_when_the_time_is_over_and_not_before() -> None:
    alarm = Alarm()
    begin = time.monotonic_ns()
    alarm.set(3_000_000)
    alarm.wait()
    assert time.monotonic_ns() - begin >= 3_000_000
    alarm.close()


def test_whoever_waits_is_not_woken_while_the_alarm_is_put_off() -> None:
    alarm = Alarm()
    alarm.set(10_000_000_000)
    woken: list[int] = []

    def sleep() -> None:
        alarm.wait()
        woken.append(1)

    thread = threading.Thread(target=sleep)
    thread.start()
    wait_until(lambda: thread.native_id is not None)
    status = f"/proc/self/task/{thread.native_id}/status"
    wait_until(lambda: "S (sleeping)" in Path(status).read_text(encoding="ascii"), "the thread to wait")
    before = _switches(status)
    for _ in range(100):
        alarm.set(10_000_000_000)
    assert not woken
    assert _switches(status) == before
    alarm.set(1)
    thread.join(30)
    assert woken == [1]
    alarm.close()


def _switches(status: str) -> list[str]:
    return [line for line in Path(status).read_text(encoding="ascii").splitlines() if "ctxt_switches" in line]


def test_its_descriptor_is_not_inherited_and_given_back() -> None:
    alarm = Alarm()
    assert not os.get_inheritable(alarm.descriptor)
    alarm.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(alarm.descriptor)
