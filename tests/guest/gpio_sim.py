"""The GPIO source against a real kernel: its character device, and gpio-sim as the world."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any

import gpiod
from gpiod.line import Direction, Edge

from nuclio_edge.sources.gpio import GpioSource
from nuclio_edge.sources.gpio_intake import DROPPED
from nuclio_edge.sources.gpio_kernel import EVENT, KernelChip, KernelChips
from nuclio_edge.sources.gpio_line import AwayError, BusyError, LineConfig
from nuclio_edge.sources.gpio_params import LINE
from nuclio_edge.sources.gpio_place import Wanted
from nuclio_edge.testing import SourceRig, check_source
from nuclio_edge.testing.rig import Bench, filled
from tests.guest import sentences
from tests.guest.simulator import Chip, world_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nuclio_edge.sources.gpio_request import Request

LABEL = "pinctrl-bcm2835"  # as on a Raspberry Pi
NAMES = {2: "SDA1", 17: "GPIO17", 27: "P9_22 [spi0_sclk]"}


def pi() -> Chip:
    return Chip(LABEL, 54, NAMES)


def records(fd: int, wait_s: float = 5.0) -> list[tuple[int, ...]]:
    """What a request's descriptor brings within a moment."""
    poll = select.epoll()
    poll.register(fd, select.EPOLLIN)
    found: list[tuple[int, ...]] = []
    while poll.poll(wait_s):
        found += EVENT.iter_unpack(os.read(fd, EVENT.size * 64))
        wait_s = 0.05
    poll.close()
    return found


def a_chip_is_found_by_its_label_and_a_line_by_the_kernels_name() -> None:
    with pi(), Chip("other", 8):
        chips = KernelChips()
        found = chips.open_chip(Wanted((LABEL,)))
        assert (found.label, found.lines) == (LABEL, 54)
        assert [found.find(name) for name in ("GPIO17", "P9_22", "SDA1", "nothing")] == [17, 27, 2, None]
        found.close()
        by_line = chips.open_chip(Wanted(), "SDA1")
        assert by_line.label == LABEL
        by_line.close()
        for wanted, text in ((Wanted(("absent",)), "there is no chip absent"), (Wanted(), "2 chips have chip")):
            try:
                chips.open_chip(wanted)
            except AwayError as error:
                assert str(error).startswith(text), error
            else:
                raise AssertionError(f"{wanted} was found")


def the_official_binding_sees_what_we_see() -> None:
    with pi() as world:
        ours = KernelChip(world.path)
        theirs = gpiod.Chip(world.path)
        info = theirs.get_info()
        assert (ours.name, ours.label, ours.lines) == (info.name, info.label, info.num_lines)
        lines = ours.request(
            [
                LineConfig("a", 17, edge="rising", bias="pull-up", debounce_us=5000, active_low=True),
                LineConfig("b", 27, direction="out", value=1, drive="open-drain"),
                LineConfig("c", 4, edge="both", realtime=True),
            ],
            "nuclio-edge pins",
        )
        a, b, c = (theirs.get_line_info(offset) for offset in (17, 27, 4))
        assert (a.consumer, a.used, a.active_low) == ("nuclio-edge pins", True, True)
        assert (a.bias.name, a.edge_detection.name, a.direction.name) == ("PULL_UP", "RISING", "INPUT")
        assert (a.debounced, a.debounce_period.microseconds) == (True, 5000)
        assert (b.direction.name, b.drive.name, b.active_low) == ("OUTPUT", "OPEN_DRAIN", False)
        assert (c.edge_detection.name, c.event_clock.name) == ("BOTH", "REALTIME")
        for offset in (2, 4, 17, 27):
            their = theirs.get_line_info(offset)
            name, consumer, _ = ours.info(offset)
            assert (name, consumer) == (their.name or "", their.consumer or "")
        theirs.close()
        lines.close()
        ours.close()


def the_official_binding_gets_the_same_edges() -> None:
    with pi() as world:
        chip = KernelChip(world.path)
        lines = chip.request([LineConfig("a", 5, edge="both"), LineConfig("b", 6, edge="rising")], "ours")
        settings = gpiod.LineSettings(direction=Direction.INPUT, edge_detection=Edge.BOTH)
        with gpiod.request_lines(world.path, consumer="theirs", config={7: settings}) as theirs:
            for offset in (5, 6, 7):
                world.pulses(offset, 3)
            their = theirs.read_edge_events(64)
            ours = records(lines.fd)
        assert [event.event_type.name for event in their] == ["RISING_EDGE", "FALLING_EDGE"] * 3
        assert [(kind, offset, seqno, line) for _, kind, offset, seqno, line in ours] == [
            (1, 5, 1, 1), (2, 5, 2, 2), (1, 5, 3, 3), (2, 5, 4, 4), (1, 5, 5, 5), (2, 5, 6, 6),
            (1, 6, 7, 1), (1, 6, 8, 2), (1, 6, 9, 3),
        ]  # fmt: skip
        assert ours[0][0] <= ours[-1][0] <= their[-1].timestamp_ns <= time.monotonic_ns()
        lines.close()
        chip.close()


def an_output_has_its_level_from_the_request_on() -> None:
    with pi() as world:
        chip = KernelChip(world.path)
        lines = chip.request(
            [LineConfig(str(at), at, direction="out", value=at & 1, active_low=at > 2) for at in range(4)], "outputs"
        )
        assert [world.value(at) for at in range(4)] == [0, 1, 0, 0]
        lines.set(0b1111, 0b0101)
        assert [world.value(at) for at in range(4)] == [1, 0, 1, 1]
        assert lines.get(0b1111) == 0b0101
        lines.set(0b0010, 0b0010)
        assert [world.value(at) for at in range(4)] == [1, 1, 1, 1]
        lines.close()
        chip.close()


def a_busy_line_names_its_holder() -> None:
    with pi() as world:
        chip = KernelChip(world.path)
        with gpiod.request_lines(world.path, consumer="heating", config={17: None}):
            try:
                chip.request([LineConfig("GPIO4", 4), LineConfig("GPIO17", 17)], "ours")
            except BusyError as error:
                assert str(error) == f"GPIO17 (line 17 of {LABEL}) is used by heating"
            else:
                raise AssertionError("two hold one line")
        chip.close()


def a_level_that_does_not_hold_is_debounced_away() -> None:
    with pi() as world:
        chip = KernelChip(world.path)
        lines = chip.request([LineConfig("a", 17, edge="both", debounce_us=20_000)], "ours")
        world.pulses(17, 5)
        world.pull(17, 1)
        assert [record[1] for record in records(lines.fd)] == [1]
        lines.close()
        chip.close()


def active_low_and_bias_are_the_kernels() -> None:
    with pi() as world:
        chip = KernelChip(world.path)
        lines = chip.request([LineConfig("a", 17, edge="both", bias="pull-up", active_low=True)], "ours")
        assert world.value(17) == 1
        assert lines.get(1) == 0
        world.pull(17, 0)
        assert [record[1] for record in records(lines.fd)] == [1]
        lines.close()
        chip.close()


class KernelRig(SourceRig):
    """A line of gpio-sim, which can be taken away and given back."""

    source = GpioSource
    trigger: Mapping[str, Any] = {"line": "door", "edge": "rising"}
    path = "door"
    body = b"1"
    pushes_back = True

    def begin(self) -> None:
        self.world = pi()
        lines: dict[str, dict[str, Any]] = {
            "door": {"pin": "17", "edge": "rising"},
            "spare": {"pin": "GPIO4" if self.named else "4"},
            "relay": {"pin": "22", "direction": "out", "initial": 1, "shutdown": 0},
        }
        self.params = {"chip": LABEL, "lines": {name: filled(LINE, line) for name, line in lines.items()}}

    named = False

    def end(self) -> None:
        self.world.__exit__()

    def emit(self, body: bytes) -> None:
        self.world.pulses(17, 1)

    def emit_unrouted(self) -> None:
        self.world.pull(4, 1)

    def lose(self) -> None:
        self.world.unplug()

    def restore(self) -> None:
        self.world.plug()


def the_source_keeps_its_contract() -> dict[str, int]:
    return {"sentences": len(check_source(KernelRig()))}


class Opened:
    """A source on a loop of its own thread's turning, with one function that is done at once."""

    def __init__(self, rig: SourceRig, **trigger: Any) -> None:
        rig.trigger = trigger or rig.trigger
        self.bench = Bench(rig)

    def __enter__(self) -> tuple[Bench, Any, Any]:
        bench = self.bench.__enter__()
        function = bench.function()
        bench.open()
        return bench, bench.source, function

    def __exit__(self, *error: object) -> None:
        self.bench.__exit__(*error)  # type: ignore[arg-type]  # as it got them


def what_the_kernel_drops_is_counted_by_its_own_numbers() -> dict[str, int]:
    rig = KernelRig()
    with Opened(rig) as (bench, source, function):
        rig.world.pulses(17, 3000)
        bench.until(lambda: source.received == 3000, "all edges")
        assert len(function.arrived) == 1024  # the kernel keeps 16 for each of 64 lines
        assert [event.line_seqno for event in (function.arrived[0], function.arrived[-1])] == [1977, 3000]
        assert source.rejected == {DROPPED: 1976}
        assert source.routed == 1024
    return {"edges": 3000, "dropped": 1976}


def a_counter_misses_none_of_them() -> None:
    rig = KernelRig()
    with Opened(rig, line="door", count=100) as (bench, source, function):
        rig.world.pulses(17, 3000)
        bench.until(lambda: function.arrived and function.arrived[-1].raw_body == b"0", "the end of the count")
        assert sum(int(event.raw_body) for event in function.arrived) == 3000
        assert not any(source.rejected.values())


def no_edge_is_lost_at_5000_a_second() -> dict[str, float]:
    rig = KernelRig()
    seconds, rate = 3, 5000
    with Opened(rig) as (bench, source, function):
        request: Request = source._lines["door"].request
        with world_at(rig.world, 17, rate, seconds * rate) as finished:
            bench.until(lambda: source.received == seconds * rate, "all edges")
            took = finished()
        assert not source.rejected, source.rejected
        assert request.seqno == source.received == source.routed == len(function.arrived) == seconds * rate
    return {"edges": seconds * rate, "edges/s": round(seconds * rate / took)}


def outputs_end_with_their_shutdown_level_and_come_back_with_their_last() -> None:
    rig = KernelRig()
    with Opened(rig) as (bench, source, _):
        assert rig.world.value(22) == 1
        rig.world.unplug()
        bench.until(lambda: source.state == "connecting", "the loss to be seen")
        try:
            source.set("relay", 1)
        except OSError:
            pass
        else:
            raise AssertionError("an output without a chip was driven")
        rig.world.plug()
        bench.until(lambda: source.state == "open", "the return")
        assert rig.world.value(22) == 1
        source.close()
        assert rig.world.value(22) == 0


def more_settings_than_one_request_takes_are_shared_out() -> None:
    rig = KernelRig()
    lines = {f"l{at}": filled(LINE, {"pin": str(at), "debounce": at + 1}) for at in range(14)}
    rig.begin()
    world = rig.world
    rig.begin = lambda: None  # type: ignore[method-assign]
    rig.params = {"chip": LABEL, "lines": lines}
    rig.world = world
    with Opened(rig, line="l13") as (bench, source, function):
        assert len(source._declared) == 2
        world.pull(13, 1)
        bench.until(lambda: len(function.arrived) == 1, "an edge of the last line")


SENTENCES = (
    a_chip_is_found_by_its_label_and_a_line_by_the_kernels_name,
    the_official_binding_sees_what_we_see,
    the_official_binding_gets_the_same_edges,
    an_output_has_its_level_from_the_request_on,
    a_busy_line_names_its_holder,
    a_level_that_does_not_hold_is_debounced_away,
    active_low_and_bias_are_the_kernels,
    what_the_kernel_drops_is_counted_by_its_own_numbers,
    a_counter_misses_none_of_them,
    outputs_end_with_their_shutdown_level_and_come_back_with_their_last,
    more_settings_than_one_request_takes_are_shared_out,
    no_edge_is_lost_at_5000_a_second,
    the_source_keeps_its_contract,
)

if __name__ == "__main__":
    sentences.main(__name__)
