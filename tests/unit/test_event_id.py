"""An event's id is made when somebody first asks: the handler on its thread, or the loop that stores the event."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from nuclio_edge.core import port_cpython
from nuclio_edge.sources.mqtt_event import MqttEvent
from tests.waiting import LIMIT

if TYPE_CHECKING:
    import pytest

FORKS = """
import os
from nuclio_edge.core import port_cpython
from nuclio_edge.sources.mqtt_event import MqttEvent
port_cpython._naming.acquire()  # as another thread may have, at the moment of the fork
child = os.fork()
if not child:
    os._exit(0 if MqttEvent().id else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


def test_two_threads_that_ask_at_a_time_get_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Semaphore(0)
    number = port_cpython.next_number
    asked: list[int] = []

    def slow() -> int:
        asked.append(1)
        inside.release()
        for _ in range(2):  # until the other one is here, too; it must not come so far
            inside.acquire(timeout=0.2)
        return number()

    monkeypatch.setattr(port_cpython, "next_number", slow)
    event = MqttEvent()
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(event.id)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert found == [event.id] * 2
    assert asked == [1]


def test_a_fork_while_an_id_is_made_leaves_the_child_its_ids() -> None:
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=LIMIT)


def test_ids_are_of_this_boot_and_all_different() -> None:
    ids = {MqttEvent().id for _ in range(100)}
    assert len(ids) == 100
    assert {(id_ or "").partition("-")[0] for id_ in ids} == {port_cpython.boot}
