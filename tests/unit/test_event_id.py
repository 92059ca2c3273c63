"""An event's id is made when somebody first asks: the handler on its thread, or the loop that stores the event."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from nuclio_edge.core import port_cpython_event
from nuclio_edge.sources.mqtt_event import MqttEvent
from tests.waiting import LIMIT

if TYPE_CHECKING:
    import pytest

FORKS = """
import os
from nuclio_edge.core import port_cpython_event
from nuclio_edge.sources.mqtt_event import MqttEvent
port_cpython_event._naming.acquire()  # as another thread may have, at the moment of the fork
child = os.fork()
if not child:
    os._exit(0 if MqttEvent().id else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""

FINALIZES = """
import faulthandler, gc
from nuclio_edge.sources.mqtt_event import MqttEvent
class Session:
    def __init__(self):
        self.me = self
        self.event = MqttEvent()
    def __del__(self):
        said.append(self.event.id)
said, kept = [], []
faulthandler.dump_traceback_later(20, exit=True)
gc.set_threshold(50)
for number in range(20_000):
    if number % 7 == 0:
        Session()
    event = MqttEvent()
    kept.append((event.id, event))
assert all(event.id == id_ for id_, event in kept)
assert len({id_ for id_, _ in kept} | set(said)) == len(kept) + len(said)
assert len(said) > 100
"""


def test_two_threads_that_ask_at_a_time_get_the_same_id(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = threading.Semaphore(0)
    number = port_cpython_event.next_number

    def slow() -> int:
        inside.release()
        for _ in range(2):  # until the other one is here, too; it must not come so far
            inside.acquire(timeout=0.2)
        return number()

    monkeypatch.setattr(port_cpython_event, "next_number", slow)
    event = MqttEvent()
    found: list[str | None] = []
    threads = [threading.Thread(target=lambda: found.append(event.id)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert found == [event.id] * 2


def test_a_finalizer_that_asks_for_an_id_while_one_is_made_holds_nobody_up() -> None:
    """The collector begins where an exception or a frame is made, so in the middle of making an id, too."""
    subprocess.run([sys.executable, "-c", FINALIZES], check=True, timeout=LIMIT)


def test_a_fork_while_an_id_is_made_leaves_the_child_its_ids() -> None:
    subprocess.run([sys.executable, "-c", FORKS], check=True, timeout=LIMIT)


def test_ids_are_of_this_boot_and_all_different() -> None:
    ids = {MqttEvent().id for _ in range(100)}
    assert len(ids) == 100
    assert {(id_ or "").partition("-")[0] for id_ in ids} == {port_cpython_event.boot}
