"""check_source finds what is wrong: each of these sources breaks one promise, and the sentence that says so is told."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.sources.memory import MemorySource
from nuclio_edge.testing import check_source
from tests.contract.test_every_source import MemoryRig

if TYPE_CHECKING:
    from collections.abc import Callable

    from nuclio_edge.manifest.schema import Values


class SettlesEarly(MemorySource):
    def _push(self) -> None:
        handed = list(self._backlog)
        super()._push()
        for one in handed:
            if one.settled is not None and one.routed:
                one.settled(one.event(next(iter(self._triggers.values()))[0]), None, None)


class SettlesTwice(MemorySource):
    def settle(self, event: Any, response: Any, error: Any) -> None:
        super().settle(event, response, error)
        super().settle(event, response, error)


class ForgetsFailures(MemorySource):
    def settle(self, event: Any, response: Any, error: Any) -> None:
        if error is None:
            super().settle(event, response, error)


class DropsWhatIsRefused(MemorySource):
    def _wait(self, trigger: Any) -> None:
        self._backlog.popleft()
        self.received += 1
        self.routed += 1


class LosesTheOrder(MemorySource):
    def _wait(self, trigger: Any) -> None:
        self._backlog.rotate(1)
        super()._wait(trigger)


class InsistsOnRoom(MemorySource):
    def _wait(self, trigger: Any) -> None:
        self._loop.call_soon(self._push)
        trigger.size = 1 << 20


class SharesEvents(MemorySource):
    def _receive(self, handed: Any) -> None:
        made: list[Any] = []

        def event(trigger: Any) -> Any:
            made.append(made[0] if made else type(handed).event(handed, trigger))
            return made[-1]

        super()._receive(_With(handed, event))  # type: ignore[arg-type]  # it looks like one


class _With:
    def __init__(self, handed: Any, event: Callable[[Any], Any]) -> None:
        self.__dict__.update({name: getattr(handed, name) for name in type(handed).__slots__}, event=event)


class TellsOncePerTrigger(MemorySource):
    def routes(self, triggers: list[Any]) -> None:
        super().routes(triggers)
        for trigger in triggers:
            if trigger not in self._triggers[trigger.address.path]:
                self._triggers[trigger.address.path].append(trigger)


class ForgetsToCount(MemorySource):
    def _answer(self, handed: Any, status: int, why: str) -> None:
        self.unrouted -= status == 404
        super()._answer(handed, status, why)


class IgnoresRoutesOnceOpen(MemorySource):
    def routes(self, triggers: list[Any]) -> None:
        if self.state != "open":
            super().routes(triggers)


class ForgetsWhoWaits(MemorySource):
    def routes(self, triggers: list[Any]) -> None:
        left = self._backlog.copy()
        self._backlog.clear()
        super().routes(triggers)
        self.received += len(left)
        self.routed += len(left)


class TakesAfterTheStop(MemorySource):
    def stop_receiving(self) -> None:
        self.host.state_changed(self)


class ClosesOnce(MemorySource):
    def close(self) -> None:
        assert not hasattr(self, "closed"), "closed already"
        self.closed = True
        super().close()


class IsSilent(MemorySource):
    def _set_state(self, state: str) -> None:
        self.state = state


class OpensTooEarly(MemorySource):
    def __init__(self, name: str, params: Values, host: Any) -> None:
        super().__init__(name, params, host)
        self.pipe = os.pipe()

    def close(self) -> None:
        super().close()
        pipe, self.pipe = self.pipe, ()  # type: ignore[assignment]
        for end in pipe:
            os.close(end)


class LeavesATimer(MemorySource):
    def open(self) -> None:
        super().open()
        self._loop.call_later(3_600_000, lambda: None)


class LeavesAThread(MemorySource):
    end = threading.Event()

    def open(self) -> None:
        super().open()
        threading.Thread(target=self.end.wait, name="left", daemon=True).start()


class LeavesADescriptor(MemorySource):
    left: list[int] = []  # noqa: RUF012 - closed by the test

    def open(self) -> None:
        super().open()
        self.left += os.pipe()


class RaisesOnTheLoop(MemorySource):
    def open(self) -> None:
        super().open()
        self._loop.call_soon(lambda: 1 // 0)


FAULTS: list[tuple[type[MemorySource], str]] = [
    (SettlesEarly, "an event is acknowledged once and not before its handler is done: an event is acknowledged before"),
    (
        SettlesTwice,
        "an event is acknowledged once and not before its handler is done: more is acknowledged than is done",
    ),
    (ForgetsFailures, "an event is acknowledged once and not before its handler is done: waited"),
    (DropsWhatIsRefused, "a full inbox loses nothing: waited"),
    (LosesTheOrder, "what is refused is kept and comes in order when there is room: "),
    (
        InsistsOnRoom,
        "what is refused is kept and comes in order when there is room: what was refused is submitted before",
    ),
    (SharesEvents, "every function has its own event once: two functions share one Event"),
    (TellsOncePerTrigger, "every function has its own event once: 2 events came, 1 were to come"),
    (ForgetsToCount, "what no trigger wants is counted: the source's books do not balance"),
    (IgnoresRoutesOnceOpen, "routes are added removed and replaced while it is open: waited"),
    (ForgetsWhoWaits, "what waits for room is not lost when its function is replaced: "),
    (TakesAfterTheStop, "a stopped source takes nothing more and finishes what it has: an event arrives after"),
    (ClosesOnce, "it can be closed twice and before it was opened: closed already"),
    (IsSilent, "opening ends in open and says each change of state: host.state_changed"),
    (OpensTooEarly, "the class says what it is: nothing is held before open()"),
    (LeavesATimer, "an event arrives with its trigger path and body: timers are still set"),
    (LeavesAThread, "an event arrives with its trigger path and body: left behind: thread left"),
    (LeavesADescriptor, "an event arrives with its trigger path and body: left behind: descriptor"),
    (RaisesOnTheLoop, "an event arrives with its trigger path and body: "),
]


@pytest.mark.parametrize(("broken", "sentence"), FAULTS, ids=[broken.__name__ for broken, _ in FAULTS])
def test_a_broken_promise_is_found(broken: type[MemorySource], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclio_edge.testing.rig.LIMIT_S", 0.3)  # these wait in vain, and that is the point
    monkeypatch.setattr("nuclio_edge.testing.rig.QUIET_MS", 20)

    class BrokenRig(MemoryRig):
        source = broken

        def make(self, name: str, params: Values, host: Any) -> MemorySource:
            self.made = broken(name, params, host)
            return self.made

    try:
        with pytest.raises(AssertionError) as told:
            check_source(BrokenRig())
    finally:
        LeavesAThread.end.set()
        LeavesAThread.end = threading.Event()
        while LeavesADescriptor.left:
            os.close(LeavesADescriptor.left.pop())
    assert "\n  " + sentence in str(told.value)
