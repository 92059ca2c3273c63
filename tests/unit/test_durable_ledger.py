"""The counters of durable triggers: each event that was on disk is counted once, however often the process dies."""

from __future__ import annotations

import io
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nuclio_edge.cli.ledger import Pages
from nuclio_edge.delivery.ledger import COUNTS, REASONS, slot_of
from nuclio_edge.ledger_sheet import Sheet
from tests.rig import MEMORY, Rig, Settled

if TYPE_CHECKING:
    from pathlib import Path

KEY = "function.f.trigger[0]"
CODE = """
import threading
turns = threading.Semaphore(0)
def handler(context, event):
    turns.acquire()
    if event.raw_body == b"fail":
        raise ValueError("asked for")
    return "done"  # a worker hands None back together with what it handles next
"""


def manifest(more: str = "") -> str:
    return f"""{MEMORY}
[function.f]
handler = "f.py"
[[function.f.trigger]]
path = "/in"
durable = true
{more}
"""


class World:
    """A processor that dies and comes back, and how many events it was given for good."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.base = folder
        self.lives = 0
        self.given = 0
        self.more = more
        self.rig = self._begin(folder / "0")

    def _begin(self, folder: Path) -> Rig:
        folder.mkdir(exist_ok=True)
        return Rig(folder, manifest(self.more), f=CODE)

    @property
    def delivery(self) -> Any:
        delivery: Any = self.rig.processor.delivery
        delivery._begin_to_write()  # the tests look into it
        return delivery

    def row(self) -> Any:
        """What the trigger has counted in all its life."""
        return self.delivery.ledger.row(KEY)

    def concluded(self) -> int:
        row = self.row()
        return int(row.handled + row.failed + row.dead_lettered + sum(row.shed.values()))

    def give(self, body: bytes) -> None:
        """An event that is on disk afterwards."""
        before = self.delivery.spool.log.lanes.by_key.get((1, KEY))
        appended = before.appended if before is not None else 0
        self.rig.deliver("/in", body)

        def stored() -> bool:
            self.delivery.flush()
            lane = self.delivery.spool.log.lanes.by_key.get((1, KEY))
            return lane is not None and lane.appended > appended and self.quiet()

        self.rig.until(stored)
        self.given += 1

    def quiet(self) -> bool:
        spool = self.delivery.spool
        return spool._flying is None and not spool._group.live

    def run_one(self) -> None:
        """Let one handler go on, if there is an event."""
        if self.row().pending:
            self.rig.until(lambda: self.rig.trigger("f").pending)  # after a death they come one at a time
            before = self.concluded()
            self.turn()
            self.rig.until(lambda: self.concluded() > before)

    def turn(self, count: int = 1) -> None:
        self.rig.processor.functions["f"].handler.__globals__["turns"].release(count)

    def commit(self) -> None:
        """Have what is settled written."""
        self.delivery.spool.commit_soon()
        self.rig.until(lambda: self.quiet() and not self.delivery.spool._settling.has_work())

    def die(self) -> None:
        """End as by SIGKILL, whatever is in work, and start again."""
        self.rig.until(lambda: self.delivery.spool._flying is None)
        self.lives += 1
        folder = self.base / str(self.lives)
        folder.mkdir()
        shutil.copytree(self.rig.folder / "state", folder / "state", ignore=shutil.ignore_patterns("*.new"))
        self.end()
        self.rig = self._begin(folder)

    def restart(self) -> None:
        """End in good order and start again."""
        self.end()
        self.rig = self._begin(self.rig.folder)

    def end(self) -> None:
        self.turn(1000)
        self.rig.__exit__()


@pytest.fixture
def world(tmp_path: Path) -> Any:
    made = World(tmp_path)
    yield made
    made.end()


def test_counters_of_a_durable_trigger_go_on_after_a_restart(world: World) -> None:
    for body in (b"ok", b"ok", b"fail"):
        world.give(body)
        world.run_one()
    world.restart()
    row = world.row()
    assert (row.handled, row.failed, row.pending, row.admitted) == (2, 1, 0, 3)
    assert world.rig.trigger("f").handled == 0, "those of the process itself begin anew"
    world.give(b"ok")
    world.run_one()
    assert world.row().handled == 3


def test_what_is_settled_on_disk_is_counted_there_and_the_other_way_round(world: World) -> None:
    world.give(b"ok")
    world.give(b"ok")
    world.run_one()
    world.die()  # before the settlement was written
    assert (world.concluded(), world.row().pending) == (0, 2)
    world.run_one()
    world.commit()
    world.die()
    row = world.row()
    assert row.handled == 1
    assert world.concluded() + row.pending == 2


def test_events_that_an_earlier_process_left_on_disk_are_told_apart(world: World) -> None:
    world.give(b"ok")
    world.give(b"ok")
    assert "recovered" not in world.rig.processor.tally().line()
    world.die()
    world.run_one()
    world.give(b"ok")
    processor = world.rig.processor
    old = processor.functions["f"]
    processor.replace(old.spec, lambda: None)  # the new version takes over what is there
    world.rig.until(lambda: processor.functions["f"] is not old)
    old.handler.__globals__["turns"].release(10)
    world.rig.until(lambda: not processor.retired)
    assert processor.tally().line().startswith("received 1, recovered 2, handled ")
    found = json.loads("".join(Sheet(world.rig.processor).lines()))
    assert found["triggers"][KEY]["recovered"] == 2
    out = io.StringIO()
    Pages(out).show(found)
    shown = out.getvalue().splitlines()
    assert "   (recovered 2" in shown[shown.index(KEY) + 1]


def test_of_what_is_counted_over_restarts_the_first_is_shown_and_what_is_not_0(world: World) -> None:
    def shown() -> str:
        out = io.StringIO()
        Pages(out).show(json.loads("".join(Sheet(world.rig.processor).lines())))
        lines = out.getvalue().splitlines()
        return lines[lines.index(f"{KEY}, over restarts") + 1]

    assert shown() == "  handled 0"
    world.give(b"fail")
    world.run_one()
    assert shown() == "  handled 0, failed 1"
    world.give(b"ok")
    assert shown() == "  handled 0, failed 1, pending 1"


def test_a_function_that_is_replaced_counts_on(world: World) -> None:
    world.give(b"ok")
    world.run_one()
    spec = world.rig.processor.functions["f"].spec
    done: list[bool] = []
    world.rig.processor.replace(spec, lambda: done.append(True))
    world.rig.until(lambda: done and not world.rig.processor.retired)
    world.give(b"ok")
    world.run_one()
    assert world.row().handled == 2
    world.restart()
    assert world.row().handled == 2


def test_shed_events_are_counted_by_their_reason_over_restarts(tmp_path: Path) -> None:
    world = World(tmp_path, 'inbox = { size = 2, when_full = "drop-newest" }')
    world.give(b"ok")
    settled = Settled()
    for _ in range(10):
        world.rig.deliver("/in", b"ok", settled)
    world.rig.until(lambda: world.rig.trigger("f").shed.get("drop-newest", 0) > 0)
    shed = world.rig.trigger("f").shed["drop-newest"]
    world.restart()
    assert world.row().shed["drop-newest"] == shed
    world.end()


def test_every_count_and_every_reason_has_a_slot_of_its_own() -> None:
    slots = [slot_of(reason) for reason in ("drop-oldest", "drop-newest", "thin", "suspended", "spool-full")]
    assert len(set(slots)) == 5
    assert min(slots) > REASONS > len(COUNTS)
    assert slot_of("something new") == REASONS


def test_the_sheet_has_what_is_on_disk_with_its_equation(world: World) -> None:
    world.give(b"ok")
    world.give(b"ok")
    world.run_one()
    found = json.loads("".join(Sheet(world.rig.processor).lines()))
    assert found["balanced"]
    (row,) = [one for one in found["spool"]["records"] if one["kind"] == "events"]
    assert row["of"] == KEY
    assert (row["appended"], row["settled"], row["gap"], row["pending"], row["difference"]) == (2, 1, 0, 1, 0)
    assert found["durable"][KEY]["handled"] == 1
    assert found["durable"][KEY]["pending"] == 1


@pytest.mark.parametrize("what", ["spool", "backlog", "trigger", "source"])
def test_a_difference_is_named_wherever_it_is(world: World, what: str) -> None:
    world.give(b"ok")
    processor = world.rig.processor
    assert not processor.differences()
    if what == "spool":
        world.delivery.spool.log.lanes.by_key[1, KEY].settled += 1
        wanted = f"spool: kind 1, {KEY}: appended 1, settled 1, gap 0, pending 1"
    elif what == "backlog":
        world.delivery.backlog(1, KEY).held.clear()
        wanted = f"spool: events of {KEY}: 1 pending on disk, 0 known of"
    elif what == "trigger":
        world.rig.trigger("f").admitted += 2
        wanted = f"{KEY}: admitted 3, handled 0, failed 0, dead-lettered 0, pending 1, shed 0: 2 missing"
    else:
        processor.sources["mem"].routed += 1
        wanted = "source mem: received 1, routed 2, unrouted 0, rejected 0: 1 too many"
    assert processor.differences() == [wanted]
    assert Sheet(processor).differences == [wanted]
    if what == "spool":
        world.delivery.spool.log.lanes.by_key[1, KEY].settled -= 1
    elif what == "backlog":
        world.delivery.backlog(1, KEY).held.update(world.rig.trigger("f").source.durable_side.ids.values())
    elif what == "trigger":
        world.rig.trigger("f").admitted -= 2
    else:
        processor.sources["mem"].routed -= 1


STEPS = st.lists(
    st.sampled_from(["give", "give", "give-bad", "run", "run", "commit", "turn", "die", "restart"]),
    min_size=1,
    max_size=14,
)


@pytest.mark.parametrize("more", ["", "dead_letter = true"])
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_each_event_on_disk_is_pending_or_counted_once_over_any_number_of_deaths(
    tmp_path_factory: Any, more: str, steps: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("world")
    world = World(folder, more)
    try:
        for step in steps:
            if step.startswith("give"):
                world.give(b"ok" if step == "give" else b"fail")
            elif step == "run":
                world.run_one()
            elif step == "commit":
                world.commit()
            elif step == "turn":
                world.rig.turn_for(5)
            elif step == "die":
                world.die()
            else:
                world.restart()
            assert world.concluded() + world.row().pending == world.given
            assert not world.rig.processor.differences()
        world.turn(1000)
        world.rig.until(lambda: not world.row().pending)
        world.restart()
        assert world.concluded() == world.given
    finally:
        world.end()
        shutil.rmtree(folder)
