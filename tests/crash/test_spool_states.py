"""Whatever is done to a spool in whatever order, killed and cut off in between: it holds what a simple ledger holds."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.crash.model import Cut, ModelDisk
from tests.crash.spool_trial import KIND, Promise, Trial

KEYS = st.sampled_from(["a", "b", 7])
BODIES = st.binary(max_size=60) | st.sampled_from([bytes(300), bytes(700)])


class SpoolStates(RuleBasedStateMachine):
    """`kept`: pending in this process; a crash makes it what the disk must and may hold."""

    @initialize()
    def begin(self) -> None:
        self.trial = Trial(ModelDisk())
        self.kept: dict[int, tuple[Any, ...]] = {}

    @rule(key=KEYS, body=BODIES)
    def append(self, key: Any, body: bytes) -> None:
        number = self.trial.append(key, body)
        self.kept[number] = (KIND, key, body)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.kept)))
        assert self.trial.settle(number)
        assert not self.trial.settle(number)
        del self.kept[number]

    @precondition(lambda self: self.kept)
    @rule(data=st.data(), body=BODIES)
    def replace(self, data: st.DataObject, body: bytes) -> None:
        those = data.draw(st.lists(st.sampled_from(sorted(self.kept)), unique=True, min_size=1, max_size=3))
        number = self.trial.append("outbox", body, settles=those)
        for one in those:
            del self.kept[one]
        self.kept[number] = (KIND, "outbox", body)

    @rule()
    def commit(self) -> None:
        self.trial.commit()
        self._forget_gaps()

    @rule()
    def land(self) -> None:
        self.trial.land()
        self._forget_gaps()

    @rule(data=st.data())
    def power_cut(self, data: st.DataObject) -> None:
        trial = self.trial
        cut, promise = Cut(trial.disk), Promise(trial)
        after = data.draw(st.integers(0, 20))
        for operation in trial.disk.operations[: max(0, len(trial.disk.operations) - after)]:
            (promise.feed if operation[0] == "note" else cut.feed)(operation)
        images = list(cut.images())
        image = images[data.draw(st.integers(0, len(images) - 1))]
        assert promise.broken_by(image) == ""
        self._go_on_with(image)

    @rule()
    def kill(self) -> None:
        """What was written is there, synced or not."""
        self._go_on_with(self.trial.disk.image())

    def _go_on_with(self, image: dict[str, bytes]) -> None:
        self.trial.close()
        self.trial = Trial(ModelDisk(image))
        self.kept = {record.id: (record.kind, record.key, record.payload) for record in self.trial.pending()}

    def _forget_gaps(self) -> None:
        for operation in self.trial.disk.operations:
            if operation[:2] == ("note", "gap"):
                gone = [number for number in self.kept if operation[2] <= number <= operation[3]]
                for number in gone:
                    if self.trial.spool.read(number) is None:
                        del self.kept[number]

    @invariant()
    def holds_what_the_ledger_holds(self) -> None:
        if hasattr(self, "trial"):
            found = {record.id: (record.kind, record.key, record.payload) for record in self.trial.pending()}
            assert found == self.kept
            assert list(found) == sorted(found)
            assert self.trial.spool.differences() == []
            assert sum(lane.pending for lane in self.trial.spool.log.lanes) == len(found)

    def teardown(self) -> None:
        if hasattr(self, "trial"):
            self.trial.close()


SpoolStates.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSpoolStates = SpoolStates.TestCase
