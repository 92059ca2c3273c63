"""The loop's seat: short handlers of a stream run on the loop's own thread, and stall nobody when they do not end."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.workers import seat
from tests.rig import MEMORY, Rig, Settled
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHORT = "import threading\ndef handler(context, event):\n    return str(threading.get_ident())\n"
# Short, unless it is told to wait.
WAITS = (
    "import threading\ngo = threading.Event()\nwaiting = threading.Event()\n"
    "def handler(context, event):\n"
    "    if event.raw_body == b'wait':\n        waiting.set()\n        go.wait(60)\n"
    "    return str(threading.get_ident())\n"
)
BOUND = (
    "import threading\n"
    "def init_context(context):\n    context.user_data.mine = threading.get_ident()\n"
    "def handler(context, event):\n    return str(context.user_data.mine == threading.get_ident())\n"
)


def function(name: str, more: str = "", trigger: str = "") -> str:
    return f"""
[function.{name}]
handler = "{name}.py"
{more}
[[function.{name}.trigger]]
source = "mem"
path = "/{name}"
{trigger}
"""


class Turning(Rig):
    """A processor whose loop is turned by `run`, on a thread that stands for the main one."""

    def __init__(self, folder: Path, manifest: str, **files: str) -> None:
        super().__init__(folder, MEMORY + manifest, **files)
        self.seat = self.processor.seat
        self.code: list[int] = []
        self.main = threading.Thread(target=lambda: self.code.append(self.processor.run()), name="main of the test")
        self.main.start()

    def until(self, condition: Any, what: str = "") -> None:
        wait_until(condition, lambda: f"{what}\n{self.records.text()}")

    def stream(self, name: str = "f") -> list[bytes]:
        """Ask, again and again, until a handler was called on the loop's own thread; what it answered."""
        before = self.seat.led
        answers: list[bytes] = []

        def settled(event: Any, response: Any, error: Any) -> None:
            assert error is None
            answers.append(b"" if response is None else response.body)
            if self.seat.led <= before + 20:  # the next comes from the loop itself, however slow this test's thread is
                self.deliver(f"/{name}", b"", settled)

        self.deliver(f"/{name}", b"", settled)
        wait_until(lambda: self.seat.led > before + 20, "a worker to be led")
        return answers

    def inside(self, name: str) -> dict[str, Any]:
        """The globals of a function's module."""
        found: dict[str, Any] = self.processor.functions[name].handler.__globals__
        return found

    def __enter__(self) -> Turning:
        return self

    def __exit__(self, *_: object) -> None:
        self.processor.loop.post(self.processor.stop)
        self.main.join(60)
        assert not self.main.is_alive(), "run did not return"
        self.processor.loop.close()


@pytest.fixture
def rigs(tmp_path: Path) -> Iterator[Any]:
    made = []

    def make(manifest: str, **files: str) -> Turning:
        made.append(Turning(tmp_path, manifest, **files))
        return made[-1]

    yield make
    for rig in made:
        rig.__exit__()


def test_a_stream_of_a_short_handler_is_called_on_the_loops_own_thread(rigs: Any) -> None:
    rig = rigs(function("f"), f=SHORT)
    threads: set[str] = set()

    def here() -> bool:
        threads.add(str(rig.processor.loop.thread))
        return rig.stream()[-1].decode() in threads

    rig.until(here)
    assert rig.balanced()


def test_a_led_handler_that_waits_stalls_nobody_else(rigs: Any) -> None:
    rig = rigs(function("f") + function("g"), f=WAITS, g=SHORT)
    rig.stream()
    settled = Settled()

    def taken() -> bool:
        """The deputy had the seat to take: the stream may just have ended when the event that waits came."""
        before = rig.seat.taken
        rig.stream()
        rig.inside("f")["go"].clear()
        rig.inside("f")["waiting"].clear()
        rig.deliver("/f", b"wait", settled)
        rig.until(rig.inside("f")["waiting"].is_set)
        assert rig.ask("/g")[0] == 200  # while f waits
        assert len(settled.outcomes) == asked[0]
        rig.inside("f")["go"].set()
        asked[0] += 1
        rig.until(lambda: len(settled.outcomes) == asked[0])
        return bool(rig.seat.taken > before)

    asked = [0]
    rig.until(taken)
    assert set(settled.statuses()) == {200}
    assert rig.ask("/f")[0] == rig.ask("/g")[0] == 200
    assert rig.balanced()


def test_what_a_worker_did_before_its_led_handler_waits_is_concluded_meanwhile(rigs: Any) -> None:
    rig = rigs(function("f"), f=WAITS)

    def taken() -> bool:
        """The deputy had the seat to take, and before that the worker had something done."""
        rig.stream()
        before, settled = rig.seat.taken, Settled()
        rig.inside("f")["go"].clear()
        rig.inside("f")["waiting"].clear()

        def burst() -> None:
            for body in (b"a", b"b", b"wait"):
                rig.processor.sources["mem"].deliver("/f", body, settled)

        rig.processor.loop.post(burst)
        rig.until(rig.inside("f")["waiting"].is_set)
        rig.until(lambda: len(settled.outcomes) == 2)
        found = rig.seat.taken > before
        rig.inside("f")["go"].set()
        rig.until(lambda: len(settled.outcomes) == 3)
        return bool(found)

    rig.until(taken)
    assert rig.balanced()


def test_a_led_handler_past_its_timeout_fails_with_408_and_its_worker_is_replaced(rigs: Any) -> None:
    rig = rigs(function("f", 'timeout = "200ms"'), f=WAITS)
    rig.stream()
    settled = Settled()
    rig.deliver("/f", b"wait", settled)
    rig.until(lambda: settled.outcomes)
    assert settled.statuses() == [408]
    rig.inside("f")["go"].set()
    rig.until(lambda: rig.processor.functions["f"].runner.lost == 0, "the abandoned thread to end")
    assert rig.ask("/f")[0] == 200
    assert rig.balanced()


def test_a_led_handler_that_computes_without_end_is_taken_from_the_loop_and_stopped_at_its_timeout(rigs: Any) -> None:
    code = "def handler(context, event):\n    while event.raw_body == b'spin':\n        pass\n    return 'x'\n"
    rig = rigs(function("f", 'timeout = "300ms"') + function("g"), f=code, g=SHORT)
    rig.stream()
    settled = Settled()
    rig.deliver("/f", b"spin", settled)
    assert rig.ask("/g")[0] == 200
    rig.until(lambda: settled.outcomes)
    assert settled.statuses() == [408]
    rig.until(lambda: rig.processor.functions["f"].runner.lost == 0)
    assert rig.balanced()


def test_a_worker_that_holds_state_is_led_on_its_own_thread(rigs: Any) -> None:
    rig = rigs(function("f"), f=BOUND)
    assert set(rig.stream()) == {b"True"}


def test_two_workers_that_hold_state_keep_their_threads_while_both_stream(rigs: Any) -> None:
    rig = rigs(function("f") + function("g") + function("h"), f=BOUND, g=BOUND, h=SHORT)
    assert set(rig.stream("f")) == {b"True"}
    assert set(rig.stream("g")) == {b"True"}  # the seat moves to its thread
    for name in ("f", "g", "f", "h", "g", "g", "f") * 40:
        status, body = rig.ask(f"/{name}")
        assert status == 200 and (name == "h" or body == b"True")
    assert set(rig.stream("f")) == {b"True"}
    assert rig.balanced()


def test_a_slow_handler_is_not_called_on_the_loops_thread(rigs: Any) -> None:
    slow = "import time\ndef handler(context, event):\n    time.sleep(0.001)\n    return 'x'\n"
    rig = rigs(function("f") + function("slow"), f=SHORT, slow=slow)
    rig.stream("f")
    runner = rig.processor.functions["slow"].runner
    for _ in range(60):
        assert rig.ask("/slow")[0] == 200
        assert rig.ask("/f")[0] == 200
    assert runner.slow > 0
    assert rig.seat.taken == 0


def test_a_handler_that_became_slow_leaves_the_loops_thread_though_it_holds_state(rigs: Any) -> None:
    code = BOUND.replace("    return", "    if event.raw_body:\n        time.sleep(0.002)\n    return").replace(
        "import threading\n", "import threading, time\n"
    )
    rig = rigs(function("f"), f=code)
    rig.stream()
    runner = rig.processor.functions["f"].runner
    for _ in range(5):
        assert rig.ask("/f", b"slow") == (200, b"True")
    assert runner.slow > 0
    for _ in range(5):
        assert rig.ask("/f") == (200, b"True")
    assert set(rig.stream()) == {b"True"}  # and comes back to it


def test_what_a_led_handler_raises_into_the_booking_ends_nothing_but_itself(rigs: Any) -> None:
    spoils = "def handler(context, event):\n    if event.raw_body == b'spoil':\n        event.raw_body = None\n"
    rig = rigs(function("f"), f=spoils)
    rig.stream()
    settled = Settled()

    def burst() -> None:
        for body in (b"a", b"spoil", b"b", b"spoil"):
            rig.processor.sources["mem"].deliver("/f", body, settled)

    for count in range(4, 200, 4):
        rig.processor.loop.post(burst)
        rig.until(lambda wanted=count: len(settled.outcomes) == wanted)
    assert rig.main.is_alive()
    assert rig.balanced()
    assert rig.trigger("f").held == 0


def test_a_deputy_that_begins_to_watch_lets_the_next_lease_put_its_alarm_off(rigs: Any) -> None:
    rig = rigs(function("f"), f=SHORT)
    rig.stream()
    rig.until(lambda: not rig.seat.watching, "the deputy to sleep")
    seen: list[Any] = []

    def stream() -> None:
        worker = rig.processor.functions["f"].runner.workers[0]
        while not rig.seat.watching:
            rig.seat._notice(worker)
        seen.append(rig.seat._put_off_ms)

    rig.processor.loop.post(stream)
    rig.until(lambda: seen)
    assert rig.processor.loop.now - seen[0] >= seat.PUT_OFF_MS


def test_a_worker_whose_queue_does_not_empty_is_led_in_the_end(rigs: Any) -> None:
    code = (
        "import time\n"
        "def handler(context, event):\n"
        "    end = time.perf_counter() + 0.00005\n"
        "    while time.perf_counter() < end:\n        pass\n"
    )
    rig = rigs(function("f", trigger="inbox = { size = 20000 }"), f=code)
    settled = Settled()
    rig.processor.loop.post(lambda: [rig.processor.sources["mem"].deliver("/f", b"", settled) for _ in range(8000)])
    rig.until(lambda: len(settled.outcomes) == 8000)
    assert rig.seat.led > 0
    assert rig.balanced()


def test_where_the_kernel_has_no_timer_for_us_nothing_is_led(rigs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Any:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("nuclio_edge.workers.seat.Alarm", refused)
    rig = rigs(function("f"), f=SHORT)
    for _ in range(300):
        assert rig.ask("/f")[0] == 200
    assert rig.seat.led == 0
    assert rig.balanced()


def test_a_quiet_processor_is_woken_by_nobody(rigs: Any) -> None:
    rig = rigs(function("f"), f=SHORT)
    rig.stream()
    rig.until(lambda: not rig.seat.watching, "the deputy to sleep")
    turns = rig.processor.loop.wakeups
    alarm = rig.seat._alarm
    assert alarm is not None
    with open(f"/proc/self/fdinfo/{alarm.descriptor}", encoding="ascii") as info:
        assert "it_value: (0, 0)" in info.read()  # it is not set: the deputy sleeps until somebody does
    assert rig.processor.loop.wakeups <= turns + 1
    assert len(rig.stream()) > 0  # it wakes again


def test_run_returns_where_it_was_called_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with Turning(tmp_path, function("f"), f=SHORT) as rig:
        rig.stream()
        assert rig.seat.carrier is not None
    assert rig.code == [0]
    assert set(threading.enumerate()) <= before


def test_whenever_it_is_stopped_no_thread_stays(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    dice = random.Random(3)
    for number in range(20):
        folder = tmp_path / str(number)
        folder.mkdir()
        with Turning(folder, function("f") + function("g"), f=BOUND, g=SHORT) as rig:
            for _ in range(dice.randrange(30, 90)):
                rig.deliver("/" + dice.choice("ffg"), b"")
                if dice.random() < 0.7:
                    rig.ask("/" + dice.choice("ffg"))
        assert rig.code == [0]
        assert set(threading.enumerate()) <= before


def test_an_exit_in_a_call_of_the_loop_reaches_whoever_runs_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, MEMORY + function("f"), f=SHORT)
    rig.processor.loop.call_soon(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        rig.processor.run()
    rig.__exit__()


def test_the_loops_thread_is_nobodys_again_after_a_led_handler(rigs: Any) -> None:
    code = "import os\ndef handler(context, event):\n    return os.environ['NUCLIO_FUNCTION_NAME']\n"
    rig = rigs(function("f"), f=code)
    assert set(rig.stream()) == {b"f"}
    from nuclio_edge.functions import running

    found: list[Any] = []
    rig.processor.loop.post(lambda: found.append(running.current()))
    rig.until(lambda: found)
    assert found == [None]


def test_a_function_without_a_least_number_of_workers_is_unloaded_after_it_was_led(
    rigs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.workers.threads.IDLE_MS", 50)
    rig = rigs(function("f", "workers = { min = 0, max = 2 }") + function("g"), f=BOUND, g=SHORT)
    assert set(rig.stream("f")) == {b"True"}
    rig.until(lambda: rig.processor.functions["f"].handler is None, "the function to be unloaded")
    assert rig.ask("/g")[0] == 200
    assert rig.ask("/f") == (200, b"True")


def test_a_led_queue_is_left_to_the_next_turn_so_that_the_loop_goes_on(rigs: Any) -> None:
    code = (
        "import time\n"
        "def handler(context, event):\n"
        "    end = time.perf_counter() + 0.0001\n"
        "    while event.raw_body and time.perf_counter() < end:\n        pass\n"
    )
    rig = rigs(function("f", trigger="inbox = { size = 5000 }"), f=code)
    rig.stream()
    turns = rig.processor.loop.wakeups
    settled = Settled()
    rig.processor.loop.post(lambda: [rig.processor.sources["mem"].deliver("/f", b"busy", settled) for _ in range(1000)])
    rig.until(lambda: len(settled.outcomes) == 1000)
    assert rig.processor.loop.wakeups - turns >= 20  # 100 ms of work, at most half a millisecond each time
    assert rig.balanced()


def test_each_event_is_settled_once_whatever_handlers_do(rigs: Any) -> None:
    code = (
        "import time, random\n"
        "def init_context(context):\n    if {bound}:\n        context.user_data.x = 1\n"
        "def handler(context, event):\n"
        "    kind = event.raw_body[:1]\n"
        "    if kind == b's':\n        time.sleep(random.random() / 300)\n"
        "    if kind == b'e':\n        raise ValueError\n"
        "    if kind == b'r':\n        return event.raw_body\n"
    )
    names = ["a", "b", "c", "d"]
    files = {name: code.format(bound=name in "ab") for name in names}
    rig = rigs(
        "".join(function(name, "workers = 3" if name == "d" else "", "inbox = { size = 4096 }") for name in names),
        **files,
    )
    for name in names:
        rig.stream(name)
    before = {name: rig.trigger(name).admitted for name in names}
    dice = random.Random(7)
    settled = {name: Settled() for name in names}
    sent = dict.fromkeys(names, 0)
    for _ in range(4000):
        name = dice.choice(names)
        kind = dice.choices((b"n", b"r", b"e", b"s"), (60, 30, 5, 2))[0]
        rig.deliver(f"/{name}", kind, settled[name])
        sent[name] += 1
        if dice.random() < 0.3:
            rig.until(lambda name=name: len(settled[name].outcomes) >= sent[name] - 20)
    for name in names:
        rig.until(lambda name=name: len(settled[name].outcomes) == sent[name], f"all of {name}")
        assert len({id(event) for event, _, _ in settled[name].outcomes}) == sent[name]
        trigger = rig.trigger(name)
        assert trigger.admitted - before[name] == sent[name]
        assert trigger.admitted == trigger.handled + trigger.failed
        assert trigger.pending == 0
    assert rig.balanced()


# Short, until it is asked to wait for the other one; `go` is set by a handler that is being led itself.
HOLDS = (
    "import threading\nwaiting = threading.Event()\ngo = threading.Event()\n"
    "def handler(context, event):\n"
    "    if event.raw_body == b'wait':\n        waiting.set()\n        go.wait(60)\n"
    "    return b'x'\n"
)
FREES = (
    "import time\nfree = []\n"
    "def handler(context, event):\n"
    "    if free:\n        free.pop().set()\n        time.sleep(0.0007)\n"  # less than the deputy's two looks
    "    return b'x'\n"
)


def test_a_handler_that_lost_the_seat_ends_while_it_is_lent_again_and_does_not_get_it_back(rigs: Any) -> None:
    rig = rigs(function("f") + function("g"), f=HOLDS, g=FREES)
    loop, seat = rig.processor.loop, rig.seat
    wrong: list[str] = []

    def look() -> None:
        if seat.carrier is not None and seat.carrier.thread.ident != threading.get_ident():
            wrong.append(f"{threading.current_thread().name} turns the loop in the place of {seat.carrier.thread.name}")

    for _ in range(30):
        rig.stream("f")
        rig.inside("f")["go"].clear()
        rig.inside("f")["waiting"].clear()
        settled = Settled()
        rig.deliver("/f", b"wait", settled)
        rig.until(rig.inside("f")["waiting"].is_set)
        rig.stream("g")
        # From the loop itself, in the middle of g's stream: the next call is one that is led.
        loop.post(lambda: rig.inside("g")["free"].append(rig.inside("f")["go"]))
        for _ in range(20):
            rig.stream("g")
            if rig.inside("f")["go"].is_set():
                break
        rig.inside("f")["go"].set()
        rig.until(lambda settled=settled: settled.outcomes)
        rig.deliver("/g")
        loop.post(look)
        assert rig.ask("/g")[0] == 200
        assert not wrong, wrong
    assert rig.balanced()


def test_a_burst_that_makes_the_loops_own_worker_slow_is_served_without_another_event(rigs: Any) -> None:
    code = (
        "import time\n"
        "def init_context(context):\n    context.user_data.mine = 1\n"
        "def handler(context, event):\n"
        "    end = time.perf_counter() + 0.0003\n"
        "    while event.raw_body and time.perf_counter() < end:\n        pass\n"
    )
    rig = rigs(function("f"), f=code)
    for _ in range(5):
        rig.stream()
        settled = Settled()
        rig.processor.loop.post(
            lambda settled=settled: [rig.processor.sources["mem"].deliver("/f", b"busy", settled) for _ in range(50)]
        )
        # Without asking the loop for anything meanwhile.
        rig.until(lambda settled=settled: len(settled.outcomes) == 50)
    assert rig.balanced()


def test_a_source_that_raises_when_it_is_told_of_a_led_call_stops_nothing_else(rigs: Any) -> None:
    rig = rigs(function("f"), f=SHORT)
    rig.stream()
    source = rig.processor.sources["mem"]
    raised: list[int] = []
    settle = source.settle

    def broken(event: Any, response: Any, error: Any) -> None:
        if event.raw_body == b"bad":
            raised.append(1)
            raise RuntimeError("bad source")
        settle(event, response, error)

    source.settle = broken
    for _ in range(20):
        rig.stream()
        rig.deliver("/f", b"bad", Settled())
        rig.deliver("/f", b"bad", Settled())
        rig.stream()
    rig.until(lambda: len(raised) == 40)
    assert rig.ask("/f")[0] == 200
    assert "bad source" in rig.records.text()


# The first event, not `open`, makes its context: a rig is opened by another thread than the one that turns it.
LATE_INLINE = 'isolation = "inline"\nload = "first-event"'


def test_no_worker_is_led_beside_an_inline_function_whose_objects_belong_to_a_thread(rigs: Any) -> None:
    bound = (
        "import sqlite3\n"
        "def init_context(context):\n    context.user_data.base = sqlite3.connect(':memory:')\n"
        "def handler(context, event):\n    return str(context.user_data.base.execute('select 1').fetchone()[0])\n"
    )
    rig = rigs(function("f") + function("base", LATE_INLINE), f=SHORT, base=bound)
    for _ in range(200):
        assert rig.ask("/f")[0] == 200
        assert rig.ask("/base") == (200, b"1")
    rig.processor.loop.post(rig.processor.functions["base"].runner.context.user_data.base.close)
    assert rig.ask("/f")[0] == 200


def test_an_inline_function_that_a_reload_brings_keeps_its_thread_too(rigs: Any) -> None:
    rig = rigs(function("f") + function("g"), f=BOUND, g=BOUND, base=BOUND)
    rig.stream("f")
    text = rig.path.read_text()
    from nuclio_edge.manifest import load

    rig.path.write_text(text + function("base", 'isolation = "inline"'))
    done: list[Any] = []
    new = load(str(rig.path))
    rig.processor.loop.post(lambda: rig.processor.reload(new, (), done.append))
    rig.until(lambda: done)
    for name in ("f", "g") * 3:
        for _ in range(100):
            assert rig.ask(f"/{name}") == (200, b"True")
        assert rig.ask("/base") == (200, b"True")
