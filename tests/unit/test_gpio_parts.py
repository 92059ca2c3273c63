"""Parts of the GPIO source by themselves: configurations, places, buttons, counters, levels, PWM."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge import board
from nuclio_edge.core.loop import Loop
from nuclio_edge.sources.gpio_binding import level_of
from nuclio_edge.sources.gpio_count import Counter
from nuclio_edge.sources.gpio_kernel import ATTRIBUTES, KernelChips
from nuclio_edge.sources.gpio_line import (
    ATTR_DEBOUNCE,
    ATTR_FLAGS,
    ATTR_VALUES,
    AwayError,
    LineConfig,
    attributes,
    share,
)
from nuclio_edge.sources.gpio_place import Wanted, place
from nuclio_edge.sources.gpio_press import Presses
from nuclio_edge.sources.gpio_pwm import open_pwm
from nuclio_edge.testing import Clock
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIGS = st.lists(
    st.builds(
        LineConfig, st.just("x"), st.integers(0, 63), direction=st.sampled_from(["in", "out"]),
        edge=st.sampled_from([None, "rising", "both"]), bias=st.sampled_from([None, "pull-up", "disabled"]),
        active_low=st.booleans(), debounce_us=st.integers(0, 3), value=st.integers(0, 1),
    ),
    min_size=1, max_size=64,
)  # fmt: skip


@given(CONFIGS)
def test_attributes_say_of_every_line_what_was_asked(lines: list[LineConfig]) -> None:
    flags, attrs = attributes(lines, 1000)
    for at, line in enumerate(lines):
        mine = {kind: value for kind, value, mask in attrs if mask >> at & 1}
        assert mine.get(ATTR_FLAGS, flags) == line.flags
        assert mine.get(ATTR_DEBOUNCE, 0) == line.debounce_us
        if line.flags & 8:
            assert mine[ATTR_VALUES] >> at & 1 == line.value


@given(CONFIGS, st.integers(2, 10), st.integers(1, 64))
def test_lines_are_shared_out_to_requests_that_the_kernel_takes(lines: list[LineConfig], most: int, limit: int) -> None:
    shares = share(lines, most, limit)
    assert [at for one in shares for at in one] == list(range(len(lines)))
    for one in shares:
        assert len(one) <= limit
        attributes([lines[at] for at in one], max(most, 2))


@pytest.mark.parametrize(
    ("pin", "chip", "expected"),
    [
        ("GPIO17", None, ("header", 17)),
        ("pin 11", None, ("header", 17)),
        ("p1-11", None, ("header", 17)),
        ("GPIO17", "pinctrl-bcm2711", ("header", 17)),
        ("GPIO17", "brcm,bcm2711-gpio", ("header", 17)),
        ("17", "ftdi-cbus", ("ftdi-cbus", 17)),
        ("GPIO17", "ftdi-cbus", ("ftdi-cbus", "GPIO17")),
        ("RS485_DE", None, (None, "RS485_DE")),
    ],
)
def test_a_pin_is_found_by_every_way_to_write_it(pin: str, chip: str | None, expected: Any) -> None:
    assert place(pin, board.load("raspberrypi/4b"), chip).identity() == expected


@pytest.mark.parametrize("pin", ["GPIO99", "pin 1", "BCM 60", "P1-41"])
def test_a_pin_that_the_board_does_not_have_is_refused(pin: str) -> None:
    with pytest.raises(LookupError, match="no pin"):
        place(pin, board.load("raspberrypi/4b"))


@pytest.mark.parametrize(
    ("value", "level"),
    [(True, 1), (0, 0), ("on", 1), ("OFF", 0), (b"1", 1), (b'"low"', 0), (b"true", 1), ("0.25", 0.25), (0.5, 0.5)],
)
def test_levels_are_read_as_people_write_them(value: Any, level: float) -> None:
    assert level_of(value) == level


@given(st.one_of(st.binary(), st.text(), st.floats(), st.integers(), st.just(10**400)))
def test_what_is_no_level_is_a_value_error_and_nothing_else(value: Any) -> None:
    try:
        assert 0 <= level_of(value) <= 1
    except ValueError:
        pass


class Player:
    """A button on a clock that stands still until it is played."""

    def __init__(self, *wanted: str) -> None:
        self.loop = Loop()
        self.clock = Clock().__enter__()
        self.told: list[str] = []
        self.presses = Presses(set(wanted), 800, 300, self.told.append, self.loop.call_later)

    def play(self, *steps: int) -> list[str]:
        """Down, up, down … after so many milliseconds each, then a long rest."""
        for number, ms in enumerate(steps):
            self.clock.advance(ms, self.loop)
            self.presses.edge(number % 2 == 0, self.clock.ticks * 1_000_000)
        self.clock.advance(5000, self.loop)
        return self.told


@pytest.fixture
def player() -> Iterator[Any]:
    made: list[Player] = []

    def make(*wanted: str) -> Player:
        made.append(Player(*wanted))
        return made[-1]

    yield make
    for one in made:
        one.clock.__exit__()
        one.loop.close()


EVERY = ("click", "double-click", "triple-click", "hold")


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ((0, 50), ["click"]),
        ((0, 50, 100, 50), ["double-click"]),
        ((0, 50, 100, 50, 100, 50), ["triple-click"]),
        ((0, 50, 400, 50), ["click", "click"]),
        ((0, 900), ["hold"]),
        ((0, 799), ["click"]),
        ((0, 50, 100, 900), ["click", "hold"]),
        ((0, 50, 100, 50, 100, 50, 100, 50), ["triple-click", "click"]),
    ],
)
def test_what_a_button_does_has_a_name(steps: tuple[int, ...], told: list[str], player: Any) -> None:
    assert player(*EVERY).play(*steps) == told


def test_a_click_is_told_at_once_where_nobody_waits_for_more(player: Any) -> None:
    button = player("click")
    button.presses.edge(True, 0)
    button.presses.edge(False, 50_000_000)
    assert button.told == ["click"]


def test_an_edge_whose_other_half_was_dropped_is_no_click(player: Any) -> None:
    button = player(*EVERY)
    button.presses.edge(False, 0)
    button.clock.advance(5000, button.loop)
    assert button.told == []
    button.presses.edge(True, button.clock.ticks * 1_000_000)
    button.clock.advance(700, button.loop)
    button.presses.edge(True, button.clock.ticks * 1_000_000)  # it is down all the time
    button.clock.advance(700, button.loop)
    assert button.told == ["hold"]


def test_edges_that_come_late_are_judged_by_their_stamps(player: Any) -> None:
    button = player(*EVERY)
    for pressed, ms in ((True, 0), (False, 50), (True, 1000), (False, 2000)):  # all in one read, long afterwards
        button.presses.edge(pressed, ms * 1_000_000)
    assert button.told == ["click", "hold"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2000)), max_size=30))
def test_any_edges_in_any_order_leave_a_button_that_works(edges: list[tuple[bool, int]]) -> None:
    with Clock() as clock:
        loop = Loop()
        told: list[str] = []
        button = Presses(set(EVERY), 800, 300, told.append, loop.call_later)
        for pressed, ms in edges:
            clock.advance(ms, loop)
            button.edge(pressed, clock.ticks * 1_000_000)
        button.edge(False, clock.ticks * 1_000_000)
        clock.advance(5000, loop)
        told.clear()
        button.edge(True, clock.ticks * 1_000_000)
        clock.advance(50, loop)
        button.edge(False, clock.ticks * 1_000_000)
        clock.advance(5000, loop)
        assert told == ["click"]
        assert not [timer for _, _, timer in loop._timers if timer.call is not None]
        loop.close()


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 50)), max_size=30))
def test_a_counter_tells_every_edge_once_and_rests_in_the_end(bursts: list[tuple[int, int]]) -> None:
    with Clock() as clock:
        loop = Loop()
        told: list[int] = []
        totals: list[int] = []

        def tell(count: int, total: int) -> None:
            told.append(count)
            totals.append(total)

        counter = Counter(1000, tell, loop.call_later)
        for ms, edges in bursts:
            clock.advance(ms, loop)
            counter.add(edges)
        clock.advance(5000, loop)
        assert sum(told) == sum(edges for _, edges in bursts)
        assert not bursts or (told[-1] == 0 and totals[-1] == sum(told))
        assert not [timer for _, _, timer in loop._timers if timer.call is not None]
        loop.close()


def test_without_a_chip_the_message_says_what_was_looked_for(tmp_path: Path) -> None:
    chips = KernelChips(str(tmp_path), str(tmp_path))
    with pytest.raises(AwayError, match="there is no chip pinctrl-rp1 or raspberrypi,rp1-gpio"):
        chips.open_chip(Wanted(("pinctrl-rp1",), ("raspberrypi,rp1-gpio",)))
    (tmp_path / "gpiochip0").write_text("no device")
    with pytest.raises(AwayError):
        chips.open_chip(Wanted())
    assert ATTRIBUTES == 10


class Sysfs:
    """A PWM chip's folder that does what the kernel's does: exporting makes the channel."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.chip = root / "pwmchip2"
        (root / "devices" / "fe20c000.pwm").mkdir(parents=True)
        self.chip.mkdir()
        (self.chip / "device").symlink_to(root / "devices" / "fe20c000.pwm")
        for name in ("export", "unexport"):
            (self.chip / name).touch()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._over.wait(0.002):
            if (self.chip / "export").read_text() and not (self.chip / "pwm0").exists():
                (self.chip / "pwm0").mkdir()
                (self.chip / "export").write_text("")

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def read(self, name: str) -> str:
        return (self.chip / "pwm0" / name).read_text()


def test_pwm_is_exported_and_pulses_as_it_is_told(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path)
    try:
        facts = board.load("raspberrypi/4b").pwm["GPIO18"]
        made = open_pwm(facts, str(tmp_path))
        wait_until((sysfs.chip / "pwm0").exists, "the channel")
        made.set(0.25, 1000)
        assert [sysfs.read(name) for name in ("period", "duty_cycle", "enable")] == ["1000000", "250000", "1"]
        made.set(1.0, 50)
        assert [sysfs.read(name) for name in ("period", "duty_cycle")] == ["20000000", "20000000"]
        made.close()
        assert (sysfs.read("enable"), (sysfs.chip / "unexport").read_text()) == ("0", "0")
    finally:
        sysfs.close()


def test_pwm_that_is_not_enabled_says_how_it_is(tmp_path: Path) -> None:
    with pytest.raises(AwayError, match="dtoverlay=pwm,pin=18,func=2"):
        open_pwm(board.load("raspberrypi/4b").pwm["GPIO18"], str(tmp_path))
