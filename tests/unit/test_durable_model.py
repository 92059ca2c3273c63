"""Durable triggers by random sequences of events, ends, commits, crashes and stops, against what must always hold.

The parts are real (Delivery, its spool, a trigger, files); only the handler and the sender are the test's. The sender
keeps what was not acknowledged and sends it again, marked, after a crash.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
import time
from _thread import get_ident
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from nuclio_edge.core.inbox import Budget, Trigger
from nuclio_edge.core.loop import Loop
from nuclio_edge.core.worker import conclude
from nuclio_edge.delivery.delivery import Delivery, side_of
from nuclio_edge.sources.mqtt_event import mqtt_event
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "function.f.trigger[0]"


class Says:
    """A logger that says nothing."""

    def __getattr__(self, _name: str) -> Any:
        return lambda *_: None

    def get_child(self, _name: str) -> Says:
        return self


class Source:
    """A sender with acknowledgements: what it was told is done, by number."""

    kind, name, content_type, url = "mqtt", "broker", "", ""
    window = 8

    def __init__(self, acknowledged: set[int]) -> None:
        self.acknowledged = acknowledged

    def settle(self, event: Any, _response: Any, _error: Any) -> None:
        self.stored(event)

    def acknowledge(self, event: Any) -> None:
        self.acknowledged.add(int(event.raw_body))

    def stored(self, event: Any) -> None:
        self.acknowledge(event)
        event._token = None


class Function:
    """A function whose handler is the test."""

    name, version, outputs, timeout_ms = "f", "1", (), 30_000
    suspended: str | None = None

    def __init__(self) -> None:
        self.runner = self
        self.held: list[Any] = []
        self.triggers: tuple[Trigger, ...] = ()

    def drain(self) -> bool:
        return not self.held

    def may_retry(self) -> bool:
        return False

    def on_failure(self, *_: Any) -> None:
        pass

    def explain(self, error: BaseException) -> str:
        return str(error)


class Durability(RuleBasedStateMachine):
    """One durable trigger with an inbox of three events, over many processes."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="nuclio-edge-model-"))
        self.lives = 0
        self.sent = 0
        self.acknowledged: set[int] = set()
        self.handled: list[tuple[int, bool]] = []  # in order, with whether it was marked
        self.inline = False  # whether the handler runs when an event is taken
        self.buried: set[int] = set()
        self.waiting: list[Any] = []  # refused, kept by the sender
        self.begin(self.root / "0")

    def begin(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.loop = Loop()
        self.loop.thread = get_ident()
        table = SimpleNamespace(max_size=1 << 20, flush=4, writes_per_day=0)
        manifest = SimpleNamespace(spool=table, device=SimpleNamespace(state_dir=str(folder)))
        processor: Any = SimpleNamespace(loop=self.loop, logger=Says(), manifest=manifest)
        self.delivery = Delivery(processor)
        self.delivery.open()
        self.function = Function()
        self.source = Source(self.acknowledged)
        spec = SimpleNamespace(durable=True, dead_letter=True, content_type=None)
        self.trigger = Trigger(
            self.function, self.source, self.loop, KEY, size=3, attempts=1000, spec=spec, budget=Budget(1 << 30, 0)
        )
        self.trigger.submit = self._take
        self.function.triggers = (self.trigger,)
        self.delivery.attach(self.trigger)
        self.delivery.begin()

    def _take(self, event: Any) -> bool:
        verdict = self.trigger.enter(event)
        if verdict == 1:
            self.function.held.append(event)
            if self.inline and len(self.function.held) == 1:
                self.finish(ok=int(event.raw_body) % 5 != 0)
        return verdict != 0

    def _submit(self, number: int, again: bool) -> None:
        event = mqtt_event(self.trigger, 1, 0x3A if again else 0x32, b"t", b"", b"%d" % number, 0)
        if not self.waiting and self.trigger.submit(event):
            return
        self.waiting.append(event)
        if len(self.waiting) == 1:
            self.trigger.on_room(self._push)

    def _push(self) -> None:
        while self.waiting:
            if not self.trigger.submit(self.waiting[0]):
                self.trigger.on_room(self._push)
                return
            self.waiting.pop(0)

    def turn(self, ms: int) -> None:
        end = self.loop.now + ms
        while self.loop.now < end:
            self.loop.turn(max(1, end - self.loop.now))

    @rule(count=st.integers(1, 8), inline=st.booleans())
    def send(self, count: int, inline: bool) -> None:
        self.inline = inline
        for _ in range(count):
            self._submit(self.sent, again=False)
            self.sent += 1
        self.inline = False

    @rule(ok=st.booleans())
    def finish(self, ok: bool) -> None:
        if not self.function.held:  # no precondition: which events have come depends on the disk's pace
            return
        event = self.function.held.pop(0)
        number = int(event.raw_body)
        if ok:
            self.handled.append((number, event.duplicate))
        else:
            self.buried.add(number)
        conclude(self.trigger, event, None, None if ok else ValueError("no"), 0)

    @rule(ms=st.integers(1, 12))
    def time_passes(self, ms: int) -> None:
        self.turn(ms)

    @rule()
    def crash(self) -> None:
        self.lives += 1
        folder = self.root / str(self.lives)
        while self.delivery.spool.in_hand is not None:  # no copy of a file that is being made
            self.turn(1)
        shutil.copytree(self.folder, folder)
        self.source.acknowledged = set()  # what the dead process's writer still does is heard by nobody
        unacknowledged = sorted(set(range(self.sent)) - self.acknowledged)
        self._let_go()
        self.begin(folder)
        for number in unacknowledged:
            self._submit(number, again=True)

    @rule()
    def stop(self) -> None:
        running = self.function.held[:1]
        del self.function.held[:1]  # a worker has it
        self.trigger.box = Box(self.function.held)
        self.delivery.stop()
        for event in running:
            self.handled.append((int(event.raw_body), event.duplicate))
            conclude(self.trigger, event, None, None, 0)
        for _ in range(1000):
            if not self.delivery.busy():
                break
            self.turn(1)
        assert not self.function.held
        self.delivery.close()
        unacknowledged = sorted(set(range(self.sent)) - self.acknowledged)
        self.loop.close()
        self.waiting = []
        self.begin(self.folder)
        for number in unacknowledged:
            self._submit(number, again=True)

    @invariant()
    def the_ledger_adds_up(self) -> None:
        t = self.trigger
        pending = t.pending + t.source.alone
        assert t.admitted == t.handled + t.failed + t.dead_lettered + sum(t.shed.values()) + pending
        assert not t.shed
        assert self.delivery.spool.differences() == []

    @invariant()
    def what_is_acknowledged_is_somewhere(self) -> None:
        t = self.trigger
        done = {number for number, _ in self.handled} | self.buried
        left = self.acknowledged - done
        assert len(left) <= t.pending + t.source.alone

    def teardown(self) -> None:
        try:
            for _ in range(20_000):
                if not (self.function.held or self.waiting or self.trigger.pending or self.trigger.source.alone):
                    break
                while self.function.held:
                    self.finish(ok=True)
                self.turn(1)
            done = {number for number, _ in self.handled} | self.buried
            assert done >= set(range(self.sent)), f"lost: {sorted(set(range(self.sent)) - done)}"
            unmarked = [number for number, marked in self.handled if not marked]
            assert len(unmarked) == len(set(unmarked)), "handled twice without a mark"
            assert unmarked == sorted(unmarked), "out of order"
            self.turn(30)
            assert self.acknowledged >= set(range(self.sent))
        finally:
            self._let_go()
            shutil.rmtree(self.root)

    def _let_go(self) -> None:
        self.delivery.spool.close()
        self.loop.close()
        self.waiting = []


@contextmanager
def played() -> Iterator[Durability]:
    """One whose steps the test takes itself."""
    world = Durability()
    try:
        yield world
    finally:
        world._let_go()
        shutil.rmtree(world.root)


def _no_space(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Box:
    """The inbox of a function whose events the test holds."""

    def __init__(self, held: list[Any]) -> None:
        self.held = held

    def popleft(self) -> Any:
        return self.held.pop(0)

    def append(self, event: Any) -> None:
        self.held.append(event)


def test_a_dead_letter_that_the_disk_does_not_take_is_no_affair_of_the_next_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with played() as world:
        world._submit(0, again=False)
        world._submit(1, again=False)
        world.delivery.flush()  # both wait for the writer, and with them …
        monkeypatch.setattr("nuclio_edge.spool.spool.FULL", 1)
        monkeypatch.setattr("nuclio_edge.spool.spool.GROUP", 1)
        conclude(world.trigger, world.function.held.pop(0), None, ValueError("no"), 0)  # … the end of the first
        monkeypatch.undo()
        while world.delivery.busy():
            world.turn(1)
        assert world.acknowledged == {0, 1}
        assert world.delivery.spool.refused == {"ENOBUFS": 1}
        assert world.delivery.differences() == []
        assert world.delivery.spool.totals()["pending"] == 1  # the second, once


@pytest.mark.parametrize("dead_letter", [True, False])
def test_an_event_on_disk_that_has_failed_is_settled_though_its_dead_letter_is_refused(
    monkeypatch: pytest.MonkeyPatch, dead_letter: bool
) -> None:
    with played() as world:
        world.trigger.spec.dead_letter = dead_letter
        world._submit(0, again=False)
        world.delivery.flush()
        spool = world.delivery.spool
        while world.delivery.busy() or spool.in_hand is not None:
            world.turn(1)
        monkeypatch.setattr(spool.disk, "write", _no_space)
        conclude(world.trigger, world.function.held.pop(), None, ValueError("no"), 0)
        while dead_letter and not spool.trouble:
            world.turn(1)
        assert (world.trigger.failed, world.trigger.dead_lettered) == (1, 0)
        assert world.delivery.differences() == []
        assert spool.totals()["pending"] == 0
        monkeypatch.undo()


def test_an_event_on_disk_that_is_over_is_settled_though_the_disk_refuses_its_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with played() as world:
        world._submit(0, again=False)
        world.delivery.flush()
        spool = world.delivery.spool
        while world.delivery.busy() or spool.in_hand is not None:
            world.turn(1)
        outbox = SimpleNamespace(takes=lambda _size: True, send=lambda *_: None)
        keeper = world.delivery.keep("broker", SimpleNamespace(outbox=outbox, _given=()))
        event = world.function.held.pop()
        keeper.send(("t", b"said", 1, False, ()), event)
        monkeypatch.setattr(spool.disk, "write", _no_space)
        conclude(world.trigger, event, None, None, 0)
        world.delivery.flush()
        while not spool.trouble:
            world.turn(1)
        assert world.trigger.handled == 1
        assert world.delivery.differences() == []
        monkeypatch.undo()


def test_what_runs_alone_after_a_crash_begins_when_its_acknowledgement_has_gone_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection writes at the end of the turn; a worker's thread may have killed the process before that."""
    gone: list[int] = []
    gone_before: list[list[int]] = []
    take = Durability._take

    def acknowledge_at_turn_end(_source: Source, event: Any) -> None:
        world.loop.at_turn_end(lambda: gone.append(int(event.raw_body)))
        event._token = None

    def note(self: Durability, event: Any) -> bool:
        gone_before.append([*gone])
        return take(self, event)

    with played() as world:
        world._submit(0, again=False)
        world.sent = 1
        monkeypatch.setattr(Source, "stored", acknowledge_at_turn_end)
        monkeypatch.setattr(Durability, "_take", note)
        world.crash()
        deadline = time.monotonic() + LIMIT
        while not world.function.held:
            world.turn(1)
            assert time.monotonic() < deadline
        assert gone_before == [[0]]


@pytest.mark.parametrize("first", ["outer", "inner"])
def test_an_event_that_a_handler_causes_while_it_runs_is_another_one(
    monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    def take(self: Durability, event: Any) -> bool:
        number = int(event.raw_body)
        self.trigger.enter(event)
        if number == 0:
            self._submit(1, again=False)
        if number == (0 if first == "outer" else 1):
            conclude(self.trigger, event, None, None, 0)
        else:
            self.function.held.append(event)
        return True

    monkeypatch.setattr(Durability, "_take", take)
    with played() as world:
        world._submit(0, again=False)
        done, left = (0, 1) if first == "outer" else (1, 0)
        assert world.acknowledged == {done}
        side: Any = side_of(world.trigger)
        assert side.unsafe() == 1
        while world.delivery.busy():
            world.turn(1)
        assert world.acknowledged == {0, 1}
        assert [int(event.raw_body) for event in world.function.held] == [left]
        assert world.delivery.spool.totals()["pending"] == 1
        world.the_ledger_adds_up()


def test_an_event_whose_conclusion_goes_wrong_while_it_is_taken_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(self: Durability, event: Any) -> bool:
        self.trigger.enter(event)
        raise RuntimeError("an output")

    monkeypatch.setattr(Durability, "_take", take)
    with played() as world:
        with pytest.raises(RuntimeError, match="an output"):
            world._submit(0, again=False)
        while world.delivery.busy():
            world.turn(1)
        assert world.acknowledged == {0}
        assert world.delivery.spool.totals()["pending"] == 1
        world.the_ledger_adds_up()


def test_an_event_is_over_when_what_its_inline_handler_published_is_with_the_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []

    def take(self: Durability, event: Any) -> bool:
        self.trigger.enter(event)
        keeper.send(("t", b"said", 1, False, ()), event)
        conclude(self.trigger, event, None, None, 0)
        return True

    monkeypatch.setattr(Durability, "_take", take)
    with played() as world:
        outbox = SimpleNamespace(takes=lambda _size: True, send=lambda *message: given.append(message))
        keeper = world.delivery.keep("broker", SimpleNamespace(outbox=outbox, _given=()))
        world._submit(0, again=False)
        (_, _, _, _, properties, entry) = given[0]
        assert properties[0][1][0] == "idempotency-key"
        assert world.acknowledged == set()
        entry.end()
        assert world.acknowledged == {0}
        assert not world.delivery.busy()
        world.the_ledger_adds_up()


def test_what_an_event_has_published_is_its_own_though_another_one_came_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    sent: list[Any] = []

    class Giving:
        """A publisher to which a thread has given something: what the handler publishes comes behind that."""

        _given = given
        outbox = SimpleNamespace(takes=lambda _size: True, send=lambda *message: sent.append(message))

        def take(self) -> None:
            while given:
                keeper.send(*given.pop(0))

    def take(self: Durability, event: Any) -> bool:
        self.trigger.enter(event)
        if event.raw_body == b"0":
            given.append((("t", b"of 0", 1, False, ()), event))
            self._submit(1, again=False)  # its end makes the publisher take what it was given
        conclude(self.trigger, event, None, None, 0)
        return True

    monkeypatch.setattr(Durability, "_take", take)
    with played() as world:
        keeper = world.delivery.keep("broker", Giving())
        world._submit(0, again=False)
        (_, _, _, _, properties, entry) = sent[0]
        assert properties[0][1][0] == "idempotency-key"
        assert world.acknowledged == {1}
        entry.end()
        assert world.acknowledged == {0, 1}
        world.the_ledger_adds_up()


def test_what_inline_handlers_publish_uses_up_the_window_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def take(self: Durability, event: Any) -> bool:
        self.trigger.enter(event)
        keeper.send(("t", b"said", 1, False, ()), event)
        conclude(self.trigger, event, None, None, 0)
        return True

    monkeypatch.setattr(Durability, "_take", take)
    with played() as world:
        outbox = SimpleNamespace(takes=lambda _size: True, send=lambda *_: None)
        keeper = world.delivery.keep("broker", SimpleNamespace(outbox=outbox, _given=()))
        side: Any = side_of(world.trigger)
        for number in range(side.stage.limit):
            assert not side.stage.pressed
            world._submit(number, again=False)
        assert side.stage.pressed


def test_what_an_attempt_has_published_goes_its_own_way_when_its_event_waits_on_disk_for_the_next() -> None:
    sent: list[Any] = []
    room = [False]
    with played() as world:
        outbox = SimpleNamespace(
            takes=lambda _size: room[0], send=lambda *message: sent.append(message), room=SimpleNamespace(sizes=())
        )
        publisher = SimpleNamespace(outbox=outbox, _given=(), link=object())
        keeper = world.delivery.keep("broker", publisher)
        world._submit(0, again=False)
        event = world.function.held.pop()
        keeper.send(("t", b"said", 1, False, ()), event)
        world.function.suspended = "it fails"
        world.trigger.drop(event, "suspended")
        assert not world.delivery.outcomes
        while world.delivery.busy() or keeper.unsafe():
            world.turn(1)
        world.function.suspended = None
        room[0] = True
        keeper.look()
        deadline = time.monotonic() + LIMIT
        while not (world.function.held and sent):
            world.turn(1)
            assert time.monotonic() < deadline
        world.finish(ok=True)
        assert (len(sent), world.trigger.handled, world.acknowledged) == (1, 1, {0})
        world.the_ledger_adds_up()


def test_what_the_disk_refuses_waits_in_the_stage_of_the_source_that_there_is_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()

    def refused(*_: Any) -> None:
        gate.wait(LIMIT)
        _no_space()

    world = Durability()
    try:
        old = world.trigger
        spool = world.delivery._begin_to_write()
        monkeypatch.setattr(spool.disk, "write", refused)
        world._submit(0, again=False)
        world.function.suspended = "it fails"
        old.drop(world.function.held.pop(), "suspended")  # on its way to the disk
        world.function.suspended = None
        world.trigger = Trigger(
            world.function, Source(world.acknowledged), world.loop, KEY, size=3, spec=old.spec, budget=old.budget
        )
        world.trigger.submit = world._take
        world.function.triggers = (world.trigger,)
        world.delivery.retire(SimpleNamespace(triggers=(old,)))  # type: ignore[arg-type]
        world.delivery.attach(world.trigger)
        deadline = time.monotonic() + LIMIT
        while not world.function.held:  # read back before it is durable
            world.turn(1)
            assert time.monotonic() < deadline
        gate.set()
        while not spool.trouble:
            world.turn(1)
        world.finish(ok=True)
        monkeypatch.undo()
        while spool.trouble:
            world.turn(10)
        world.delivery.flush()
        while world.delivery.busy():
            world.turn(1)
        side: Any = side_of(world.trigger)
        assert (world.trigger.handled, world.acknowledged, side.ids) == (1, {0}, {})
        assert spool.totals()["pending"] == 0
        assert world.delivery.differences() == []
    finally:
        gate.set()
        world._let_go()
        shutil.rmtree(world.root)


def test_what_waits_in_memory_is_settled_together_however_long_it_has_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[list[int]] = []

    def settle_many(_source: Source, events: list[Any]) -> list[Any]:
        told.append([int(event.raw_body) for event in events])
        return [event for event in events if int(event.raw_body) == 2]

    monkeypatch.setattr(Source, "settle_many", settle_many, raising=False)
    with played() as world:
        side: Any = side_of(world.trigger)
        world._submit(0, again=False)
        while world.delivery.busy():
            world.turn(1)
        world._submit(1, again=False)
        side.stage.press()
        world._submit(2, again=False)
        assert (len(side.stage.aging), len(side.stage.fresh)) == (1, 1)
        left = side.settle_many([*world.function.held])
        assert told == [[1, 2]]
        assert [int(event.raw_body) for event in left] == [0, 2]  # the first is on disk
        assert list(side.stage.fresh) == left[1:]


TestDurability = Durability.TestCase
TestDurability.settings = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # the pace of the disk differs from run to run: nothing to shrink by
)
