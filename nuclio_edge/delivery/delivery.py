"""Durable delivery of one processor: the spool, and what stands between it and the triggers and publishers.

It is made when something of the manifest may need it. Nothing is written before an event or a message has waited for
its moment (staging.py): a gateway whose handlers are quick, at a broker that answers, has a spool of no bytes.
"""

from __future__ import annotations

import os

from nuclio_edge.durable import replace_file
from nuclio_edge.spool.disk import Disk
from nuclio_edge.spool.unwritten import Unwritten

from .backlog import DEAD, EVENT, MARK, NAMES, OUTBOX, Backlog, pending
from .ledger import DEAD_LETTERED, DurableLedger
from .staging import Stage
from .trigger import Durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response
    from nuclio_edge.functions.function import Function
    from nuclio_edge.processor import Processor
    from nuclio_edge.spool.spool import Spool

    from .one_at_a_time import OneAtATime

NO_WINDOW = 1 << 30
STAGE = "outbox"  # the stage of what publishers send
SPOOL = "spool"  # the folder in the state directory
MARKER = "delivery"  # a file beside the spool; no name that clock.py or supervision/ (slots.py, supervise.py) has there


class Delivery:
    """Loop thread only. `sides` has the durable triggers by ledger id, `keepers` the outboxes by source."""

    def __init__(self, processor: Processor) -> None:
        self.loop = processor.loop
        self.logger = processor.logger.get_child("spool")
        self.sides: dict[str, Durable] = {}
        self.keepers: dict[str, Any] = {}
        self.publishers: tuple[Any, ...] = ()
        self.outcomes: dict[Event, Any] = {}
        self.stopping = False
        self._begun = False
        self._unsaid: dict[tuple[int, str], int] = {}  # what was lost since that was last said
        self.unclean = False  # the last process died
        self.spool: Any = None
        self.ledger: DurableLedger
        self._table = processor.manifest.spool
        self._state_dir: str = processor.manifest.device.state_dir
        self._stages: dict[Any, Stage] = {}
        self._backlogs: dict[tuple[int, str], Backlog] = {}
        self._ids: dict[str, dict[Any, int]] = {}
        self._suspects: dict[str, OneAtATime] = {}  # by the function's name
        self._acquitted: set[str] = set()  # functions that were suspects
        self._marker = os.path.join(self._state_dir, MARKER)
        self.recovered: dict[str, int] = {}  # ledger id -> events that an earlier process left for it on disk
        self._repeated = 0  # up to this record an event may have been handled by a process that died

    # -- opening and closing ------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Read what the last process left."""
        if self._is_new():
            self.spool = Unwritten(self.loop, self._table.max_size, self._begin_to_write, self._trouble)
        else:
            self.spool = self._load()
        self.ledger = DurableLedger(self.spool)
        self._read_marker()

    def _is_new(self) -> bool:
        """Whether there is a folder for the spool, made now perhaps, and nothing in it."""
        folder = os.path.join(self._state_dir, SPOOL)
        try:
            Disk().make_folder(folder)
            return not os.listdir(folder)
        except OSError:
            return False  # the spool says what it is

    def _load(self) -> Spool:
        from nuclio_edge.spool.spool import Spool

        spool = Spool(
            self.loop,
            os.path.join(self._state_dir, SPOOL),
            size=self._table.max_size,
            flush_ms=self._table.flush,
            writes_per_day=self._table.writes_per_day,
            on_gap=self._gap,
            on_trouble=self._trouble,
            on_notice=self.logger.warn,
        )
        spool.open()
        return spool

    def _begin_to_write(self) -> Spool:
        """The first record is there: have a spool from now on."""
        if not isinstance(self.spool, Unwritten):  # asked by who has kept what was in its place
            return self.spool  # type: ignore[no-any-return]  # a Spool
        spool = self.spool = self._load()
        for stage in self._stages.values():
            stage.spool = spool
        for backlog in self._backlogs.values():
            backlog.spool = spool
        self.ledger.follow(spool)
        return spool

    def _read_marker(self) -> None:
        """The file that is there while a process runs, and longer while what an earlier one may have handled waits."""
        repeated = 0
        try:
            with open(self._marker, "rb") as file:
                running, _, text = file.read(64).partition(b" ")
            self.unclean = running == b"running"
            repeated = int(text)
        except (OSError, ValueError):
            pass
        self._repeated = self.spool.recovery.next - 1 if self.unclean else repeated
        self._write_marker(b"running")

    def _write_marker(self, word: bytes) -> None:
        try:
            os.makedirs(self._state_dir, exist_ok=True)
            replace_file(self._marker, word + b" %d" % self._repeated)
        except OSError:
            pass  # the spool says that the disk cannot be used

    def begin(self) -> None:
        """Every trigger has its place: run again what is to be run again, and name what nobody takes.

        Whose trigger comes later begins with what it has on disk at once.
        """
        self._begun = True
        for side in list(self.sides.values()):
            side.overflow.resume()
        self.tell_orphans()

    def tell_orphans(self) -> None:
        """Name the records on disk that no trigger and no source of the manifest takes."""
        for kind, key, count in self.orphans():
            text = f"{NAMES.get(kind, 'records')} of what is no longer in the manifest are kept on disk"
            self.logger.warn_with(text, "of", key, "count", count)

    def orphans(self) -> list[tuple[int, str, int]]:
        """(kind, key, how many) of what waits on disk for a trigger or source that is not there."""
        found = []
        for lane in self.spool.log.lanes:
            owners: Any = self.sides if lane.kind == EVENT else self.keepers if lane.kind == OUTBOX else None
            if owners is not None and lane.pending and lane.key not in owners:
                found.append((lane.kind, str(lane.key), lane.pending))
        return found

    def stop(self) -> None:
        """Nothing more comes in: what no worker has claimed stays on disk for the next start."""
        self.stopping = True
        for side in self.sides.values():
            side.overflow.withdraw()
        self.flush()

    def flush(self) -> None:
        """Store all that waits for its moment."""
        for stage in self._stages.values():
            stage.flush()

    def unsafe(self, function: Function) -> int:
        """How many events of a function would be lost if the process ended now."""
        count = 0
        for trigger in function.triggers:
            side = side_of(trigger)
            count += side.unsafe() if side is not None else trigger.pending
        return count

    def busy(self) -> bool:
        """Whether something is still on its way to the disk; what waits is sent there."""
        if any(side.unsafe() for side in self.sides.values()) or any(k.unsafe() for k in self.keepers.values()):
            self.flush()
            return not self.spool.trouble
        return False

    def finish(self) -> None:
        """Write what there is: what is not on disk when this returns is in memory only, and lost with the process."""
        self.flush()
        self.spool.finish()

    def close(self) -> None:
        """Write what is still to be written; the process may end then."""
        for stage in self._stages.values():
            stage.close()
        for suspects in self._suspects.values():
            suspects.close()
        left = self._repeated and self.spool.numbers(0, self._repeated, EVENT)
        self.spool.close()
        try:
            if left:
                self._write_marker(b"stopped")
            else:
                os.unlink(self._marker)
        except OSError:
            pass

    # -- triggers -----------------------------------------------------------------------------------------------------

    def attach(self, trigger: Trigger) -> None:
        """Make a trigger durable, or only have its dead letters kept."""
        if not trigger.spec.durable:
            from .dead_letters import Mourner

            Mourner(self, trigger)
            return
        key = trigger.ledger_id
        before = self.sides.get(key)
        backlog = self.backlog(EVENT, key)
        side = Durable(self, trigger, self._stage(trigger.source), backlog, self._ids.setdefault(key, {}))
        self.sides[key] = side
        self.ledger.take(trigger)
        trigger.admitted += backlog.size
        self.recovered.setdefault(key, backlog.size)
        if before is not None:
            before.trigger.admitted -= backlog.size
        if self._begun:
            side.overflow.resume()

    def retire(self, function: Function) -> None:
        """A function was removed or replaced: it reads nothing more from the disk."""
        for trigger in function.triggers:
            side = side_of(trigger)
            if side is not None and self.sides.get(side.backlog.key) is side:
                del self.sides[side.backlog.key]
                trigger.admitted -= side.backlog.size
                trigger.loop.call_soon(side.overflow.refill)

    def backlog(self, kind: int, key: str) -> Backlog:
        """What is on disk of a kind and key."""
        found = self._backlogs.get((kind, key))
        if found is None:
            found = self._backlogs[kind, key] = Backlog(self.spool, kind, key)
        return found

    def suspects(self, function: Function) -> OneAtATime | None:
        """Who runs a function's events one at a time, after a crash."""
        if not self.unclean or function.name in self._acquitted:
            return None
        found = self._suspects.get(function.name)
        if found is None or found.function is not function:
            from .one_at_a_time import OneAtATime

            found = self._suspects[function.name] = OneAtATime(self, function, found)
        return found

    def acquit(self, suspects: OneAtATime) -> None:
        """Nothing of a function is suspected any more, whatever versions of it follow."""
        name = suspects.function.name
        if self._suspects.get(name) is suspects:
            del self._suspects[name]
            self._acquitted.add(name)

    def is_repeated(self, number: int) -> bool:
        """Whether an event may have been handled by a process before this one."""
        return number <= self._repeated

    def _stage(self, source: Any) -> Stage:
        stage = self._stages.get(source)
        if stage is None:
            window = getattr(source, "window", 0)
            limit = max(1, window * 3 // 4) if window else NO_WINDOW
            stage = self._stages[source] = Stage(self.loop, self.spool, max(1, self._table.flush // 2), limit)
        return stage

    # -- publishers ---------------------------------------------------------------------------------------------------

    def keep(self, name: str, publisher: Any) -> Any:
        """The outbox on disk of a source's publisher; the next one of that name takes it over."""
        from .outbox import Keeper

        keeper = Keeper(self, publisher, self.backlog(OUTBOX, name), self._stage((STAGE, name)))
        before = self.keepers.get(name)
        if before is not None:
            self.publishers = tuple(p for p in self.publishers if p is not before.publisher)
        self.keepers[name] = keeper
        self.publishers += (publisher,)
        return keeper

    # -- what cannot go on --------------------------------------------------------------------------------------------

    def bury(
        self, side: Any, event: Event, response: Response, error: BaseException | None, reason: str = "failed"
    ) -> None:
        """Keep an event that has failed for good as a dead letter, and settle it with that."""
        from .dead_letters import pack_dead

        payload = pack_dead(side.trigger, event, response, error, reason, self.loop.wall)
        outcome = self.outcomes.pop(event, None)
        if outcome is not None and outcome.left:
            outcome.apart()
        number = side.let_go(event)

        def done(failed: OSError | None) -> None:
            if failed is not None:
                self.spool.settle(number)  # it is pending again, and has failed all the same
                side.trigger.dead_lettered -= 1
                side.trigger.failed += 1
                side._failed = side.trigger.failed
                self.logger.error_with("a dead letter could not be kept", "event_id", event.id, "error", str(failed))
            side.tell(event, response, error)

        key = side.trigger.ledger_id
        settles = (number,) if number else ()
        self.spool.append(DEAD, key, payload, done, settles=settles, tallies=self.ledger.own(key, DEAD_LETTERED))
        self.spool.commit_soon()

    def bury_record(self, side: Durable, number: int, payload: bytes, reason: str, then: Callable[[], Any]) -> None:
        """Keep what is on disk, and is not to run (again), as a dead letter; `then()` when that is durable."""
        from .dead_letters import pack_raw

        raw = pack_raw(side.trigger, payload, reason, self.loop.wall)
        side.backlog.held.discard(number)
        key = side.backlog.key
        tallies = self.ledger.own(key, DEAD_LETTERED)

        def done(failed: OSError | None) -> None:
            if failed is not None:  # it is pending again: for the next start
                side.backlog.held.add(number)
                side.trigger.dead_lettered -= 1
                side.trigger.admitted -= 1
                self.logger.error_with("a dead letter could not be kept", "trigger", key, "error", str(failed))
            then()

        self.spool.append(DEAD, key, raw, done, settles=(number,), tallies=tallies)
        self.spool.commit_soon()
        self.logger.error_with("an event is kept as a dead letter", "trigger", key, "reason", reason)

    def differences(self) -> list[str]:
        """What does not add up on disk, or between the disk and what is known of it here; a sentence each."""
        found: list[str] = self.spool.differences()
        for (kind, key), backlog in self._backlogs.items():
            here, there = backlog.alone + len(backlog.held), pending(self.spool, kind, key)
            if here != there:
                found.append(f"spool: {NAMES[kind]} of {key}: {there} pending on disk, {here} known of")
        return found

    def damaged(self, record: Any) -> None:
        """A record that is whole and makes no sense: of another version, most likely."""
        self.logger.error_with("a record of the spool cannot be read", "kind", record.kind, "of", record.key)

    def mark(self, key: str, number: int, attempt: int, then: Callable[[Any], Any]) -> int:
        """Note on disk that an event is about to run alone, the how manyth time; `then(error)` when that is durable."""
        payload = number.to_bytes(8, "little") + attempt.to_bytes(2, "little")
        mark: int = self.spool.append(MARK, key, payload, then, urgent=True)
        return mark

    def marks(self, key: str) -> list[tuple[int, int, int]]:
        """(mark, event's record, attempt) of what was running alone when the last process ended; none of ours."""
        records = self.spool.records(0, 1 << 20, MARK, key) if pending(self.spool, MARK, key) else []
        return [
            (one.id, int.from_bytes(one.payload[:8], "little"), int.from_bytes(one.payload[8:10], "little"))
            for one in records
            if one.id < self.spool.recovery.next
        ]

    # -- what the spool says ------------------------------------------------------------------------------------------

    def _gap(self, kind: int, key: int | str, count: int, first: int, last: int) -> None:
        """Records were given up: the spool has reached its limit."""
        backlog = self._backlogs.get((kind, str(key)))
        lost = backlog.dropped(count, first, last) if backlog is not None else count
        if kind == EVENT and str(key) in self.sides and lost:
            shed = self.sides[str(key)].trigger.shed
            shed["spool-full"] = shed.get("spool-full", 0) + lost
            self.ledger.write()  # with the very group that says of the gap
        elif kind == OUTBOX and str(key) in self.keepers:
            shed = self.keepers[str(key)].publisher.shed
            shed["outbox-full"] = shed.get("outbox-full", 0) + lost
        if lost:
            self._say_lost(kind, str(key), lost)

    def _say_lost(self, kind: int, key: str, lost: int) -> None:
        """The first loss at once, what comes within the next minute in one line."""
        text = f"the spool is full: the oldest {NAMES.get(kind, 'records')} were given up"
        if (kind, key) in self._unsaid:
            self._unsaid[kind, key] += lost
            return

        def rest() -> None:
            more = self._unsaid.pop((kind, key))
            if more:
                self.logger.warn_with(text, "of", key, "count", more)

        self.logger.warn_with(text, "of", key, "count", lost)
        self._unsaid[kind, key] = 0
        self.loop.call_later(60_000, rest)

    def _trouble(self, text: str) -> None:
        if text:
            self.logger.error_with(
                "the spool cannot be used; events are acknowledged after their handler", "error", text
            )
            return
        self.logger.info_with("the spool can be used again")
        for side in list(self.sides.values()):
            side.trigger.loop.call_soon(side.overflow.refill)
            side.trigger._room()


def side_of(trigger: Trigger) -> Durable | None:
    """What makes a trigger durable, or None."""
    found: Durable | None = getattr(trigger.source, "durable_side", None)
    return found
