"""The GPIO source over simulated pins: what manifests promise of edges, counts, buttons and outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge import sim
from nuclio_edge.sources.gpio_intake import DROPPED
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nuclio_edge.sim.pins import SimBoard

NOTE = """
def handler(context, event):
    got.append(event)
    return context.bindings.get("act") and None
got = []
"""
FUNCTION = """
[function.f]
handler = "note.py"
isolation = "inline"
"""


SETS_AND_GETS = """
def handler(context, event):
    context.bindings["pins"].set("pin 13", 1)
    return context.bindings["pins"].get("GPIO27")
"""
TOGGLES = """
def handler(context, event):
    got.append(event)
    context.bindings["pins"].toggle("GPIO27")
got = []
"""
SAYS_LEVELS = """
def handler(context, event):
    return ["off", "on"][event.value] if event.seqno < 3 else "purple"
"""
PULSES = """
def handler(context, event):
    context.bindings["pins"].pulse("GPIO27", 30 if event.seqno == 1 else 1000000)
"""


class Pins(Rig):
    """A processor on a simulated board, whose function `f` keeps its events."""

    def __init__(self, folder: Path, manifest: str, handler: str = NOTE, **files: str) -> None:
        self.board: SimBoard = sim.board(f"{folder}/state")
        super().__init__(folder, 'board = "sim"\n' + manifest + (FUNCTION if "[function.f]" not in manifest else ""),
                         note=handler, **files)  # fmt: skip

    def __enter__(self) -> Pins:
        return self

    @property
    def source(self) -> Any:
        return self.processor.sources["pins"]

    @property
    def got(self) -> list[Any]:
        found: list[Any] = self.processor.functions["f"].handler.__globals__["got"]
        return found

    def pulse(self, pin: str, count: int = 1) -> None:
        for _ in range(count):
            self.board.pin(pin).drive_high()
            self.board.pin(pin).drive_low()

    def warned(self, text: str) -> int:
        return self.records.text().count(text)


def trigger(**keys: Any) -> str:
    lines = [f"{key} = {value!r}".replace("'", '"').replace("True", "true") for key, value in keys.items()]
    return FUNCTION + "[[function.f.trigger]]\n" + "\n".join(lines) + "\n"


@pytest.fixture
def pins(tmp_path: Path) -> Any:
    opened: list[Pins] = []

    def make(manifest: str, **more: str) -> Pins:
        opened.append(Pins(tmp_path, manifest, **more))
        return opened[-1]

    yield make
    for one in opened:
        assert one.balanced()
        one.__exit__()


def test_a_pin_alone_needs_no_source_table(pins: Callable[..., Pins]) -> None:
    rig = pins(trigger(pin="GPIO17"))
    rig.pulse("GPIO17")
    rig.until(lambda: len(rig.got) == 2)
    up, down = rig.got
    assert (up.value, up.body, up.edge, up.path, up.pin) == (1, 1, "rising", "GPIO17", "GPIO17")
    assert up.source_address == "GPIO17"
    assert (down.value, down.body, down.edge) == (0, 0, "falling")
    assert (up.seqno, up.line_seqno, down.seqno) == (1, 1, 2)
    assert up.timestamp_ns <= down.timestamp_ns
    assert abs(up.timestamp_ms - rig.processor.loop.wall) < 60_000
    assert up.fields == {"line": "GPIO17", "pin": "GPIO17", "value": 1, "edge": "rising"}
    assert (rig.source.received, rig.source.routed) == (2, 2)


def test_a_trigger_gets_only_the_edge_that_it_names(pins: Callable[..., Pins]) -> None:
    rig = pins(trigger(pin="GPIO17", edge="falling"))
    rig.pulse("GPIO17", 3)
    rig.until(lambda: len(rig.got) == 3)
    assert {event.edge for event in rig.got} == {"falling"}
    assert rig.source.received == 3  # the kernel was not asked for the others


def test_active_low_turns_levels_and_edges_over(pins: Callable[..., Pins]) -> None:
    rig = pins(trigger(pin="GPIO17", active_low=True, bias="pull-up"))
    assert rig.board.pin("GPIO17").level == 1
    rig.board.pin("GPIO17").drive_low()
    rig.until(lambda: rig.got)
    assert (rig.got[0].edge, rig.got[0].value) == ("rising", 1)


def test_a_level_that_does_not_hold_is_debounced_away(pins: Callable[..., Pins]) -> None:
    rig = pins(trigger(pin="GPIO17", debounce="40ms"))
    rig.pulse("GPIO17", 5)
    rig.board.pin("GPIO17").drive_high()
    rig.until(lambda: rig.got)
    rig.turn_for(80)
    assert [event.edge for event in rig.got] == ["rising"]


def test_lines_of_a_table_come_in_one_order_and_by_their_names(pins: Callable[..., Pins]) -> None:
    rig = pins(
        '[source.pins]\nkind = "gpio"\n[source.pins.lines]\na = { pin = "GPIO5" }\nb = { pin = "pin 31" }\n'
        + trigger(line="a")
        + '[[function.f.trigger]]\nline = "b"\n'
    )
    for pin in ("GPIO6", "GPIO5", "GPIO5", "GPIO6"):
        rig.board.pin(pin).drive(not rig.board.pin(pin).level)
    rig.until(lambda: len(rig.got) == 4)
    assert [event.line for event in rig.got] == ["b", "a", "a", "b"]
    assert [event.seqno for event in rig.got] == [1, 2, 3, 4]
    assert [event.line_seqno for event in rig.got] == [1, 1, 2, 2]


def test_edges_that_the_kernel_dropped_are_counted_and_said_once(pins: Callable[..., Pins]) -> None:
    rig = pins(trigger(pin="GPIO17", edge="rising"))
    rig.pulse("GPIO17", 3000)
    rig.until(lambda: rig.source.received == 3000)
    assert len(rig.got) == rig.source.routed == 1024
    assert rig.source.rejected == {DROPPED: 1976}
    rig.pulse("GPIO17", 2000)
    rig.until(lambda: rig.source.received == 5000)
    assert rig.got[-1].seqno == 5000
    assert rig.warned("the kernel dropped edges") == 1


def test_edges_that_nobody_reads_any_more_are_in_the_books(tmp_path: Path) -> None:
    with Pins(tmp_path, trigger(pin="GPIO17", edge="rising")) as rig:
        rig.pulse("GPIO17", 2)
        rig.until(lambda: len(rig.got) == 2)
        rig.pulse("GPIO17", 1500)
        source = rig.source
    assert source.received == 1502
    assert source.rejected == {"closed": 1024, DROPPED: 476}


def test_a_counter_misses_no_edge_though_the_kernel_drops_some(pins: Callable[..., Pins]) -> None:
    rig = pins(trigger(pin="GPIO17", count="50ms"))
    rig.pulse("GPIO17", 3000)
    rig.until(lambda: rig.got and rig.got[-1].value == 0)
    assert sum(event.value for event in rig.got) == 3000
    assert (rig.got[-1].total, rig.got[0].what, rig.got[0].interval_ms) == (3000, "count", 50)
    assert rig.got[0].fields["rate"] == rig.got[0].value * 20
    assert (rig.source.received, rig.source.routed) == (3000, 3000)
    assert not any(rig.source.rejected.values())
    told = len(rig.got)
    rig.turn_for(150)
    assert len(rig.got) == told, "a counter that rests wakes nobody"


def test_a_button_is_told_by_what_it_does(pins: Callable[..., Pins]) -> None:
    rig = pins(
        trigger(
            pin="GPIO22", press=["click", "double-click", "hold"], bias="pull-up", debounce="1ms",
            hold_after="120ms", click_gap="80ms",
        )
    )  # fmt: skip
    button = rig.board.pin("GPIO22")

    def click() -> None:
        for act in (button.press, button.release):
            act()
            before = rig.source.received
            rig.until(lambda: rig.source.received > before)  # noqa: B023 - asked at once

    click()
    rig.until(lambda: len(rig.got) == 1)
    click()
    click()
    rig.until(lambda: len(rig.got) == 2)
    button.press()
    rig.until(lambda: len(rig.got) == 3)
    button.release()
    rig.turn_for(150)
    assert [event.press for event in rig.got] == ["click", "double-click", "hold"]
    assert [event.body for event in rig.got] == ["click", "double-click", "hold"]
    assert rig.source.routed == rig.source.received == 8


def test_a_handler_drives_outputs_without_a_source_table(pins: Callable[..., Pins]) -> None:
    rig = pins(
        trigger(pin="GPIO17"),
        handler='def handler(context, event):\n    context.bindings["pins"].set("GPIO27", event.value)\n',
    )
    out = rig.board.pin("GPIO27")
    rig.pulse("GPIO17")
    rig.until(lambda: rig.source.routed == 2)
    out.assert_states([0, 1, 0])
    assert out.consumer == "nuclio-edge pins"


@pytest.mark.parametrize("isolation", ["inline", "thread", "process"])
def test_pins_are_there_for_a_handler_that_no_pin_triggers(isolation: str, pins: Callable[..., Pins]) -> None:
    rig = pins(
        '[source.mem]\nkind = "memory"\n'
        f'[function.f]\nhandler = "note.py"\nisolation = "{isolation}"\n[[function.f.trigger]]\npath = "/f"\n',
        handler=SETS_AND_GETS,
    )
    assert "pins" not in rig.processor.sources
    assert rig.ask("/f") == (200, b"1")
    assert rig.board.pin("GPIO27").level == 1
    assert rig.board.pin("GPIO27").is_output


def test_outputs_begin_and_end_with_their_levels(tmp_path: Path) -> None:
    lines = (
        'a = { pin = "GPIO5", direction = "out", initial = 1, shutdown = 0 }\n'
        'b = { pin = "GPIO6", direction = "out", initial = 1 }\n'
        'c = { pin = "GPIO7", direction = "out", initial = 1, active_low = true }\n'
    )
    with Pins(tmp_path, f'[source.pins]\nkind = "gpio"\n[source.pins.lines]\n{lines}') as rig:
        a, b, c = (rig.board.pin(name) for name in ("GPIO5", "GPIO6", "GPIO7"))
        assert (a.level, b.level, c.level) == (1, 1, 0)
    assert (a.level, b.level) == (0, 1)
    assert not a.consumer


def test_a_returned_value_drives_an_output(pins: Callable[..., Pins]) -> None:
    rig = pins(
        trigger(pin="GPIO17") + '[[function.f.output]]\npin = "GPIO27"\n',
        handler=SAYS_LEVELS,
    )
    rig.pulse("GPIO17", 2)
    rig.until(lambda: rig.source.routed == 4)
    rig.board.pin("GPIO27").assert_states([0, 1, 0])
    assert rig.source.unsendable == 2
    assert rig.warned("an output could not be driven") == 1


def test_a_pulse_ends_by_itself_and_with_its_source(tmp_path: Path) -> None:
    with Pins(tmp_path, trigger(pin="GPIO17", edge="rising"), handler=PULSES) as rig:
        out = rig.board.pin("GPIO27")
        rig.pulse("GPIO17")
        rig.until(lambda: out.states == [0, 1, 0])
        rig.pulse("GPIO17")
        rig.until(lambda: out.states == [0, 1, 0, 1])
    out.assert_states([0, 1, 0, 1, 0])


def test_pwm_takes_what_is_between(pins: Callable[..., Pins]) -> None:
    rig = pins(
        '[source.pins]\nkind = "gpio"\n[source.pins.lines]\n'
        'fan = { pin = "GPIO18", direction = "pwm", initial = 0.25, frequency = 100 }\n'
    )
    fan = rig.board.pin("GPIO18")
    assert (fan.duty, fan.frequency) == (0.25, 100)
    rig.source.set("fan", 0.5)
    assert (fan.duty, rig.source.get("fan")) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "value", "error", "text"),
    [
        ("door", 1, ValueError, "door is an input"),
        ("relay", 0.5, ValueError, "0.5 is no level of relay"),
        ("relay", "purple", ValueError, "'purple' is no level"),
        ("relay", 7, ValueError, "7 is no level"),
        ("GPIO99", 1, KeyError, "no pin"),
        ("GPIO9", 1, OSError, "is used by somebody"),
    ],
)
def test_what_cannot_be_set_is_told_to_the_handler(
    name: str, value: Any, error: type[Exception], text: str, pins: Callable[..., Pins]
) -> None:
    rig = pins(
        '[source.pins]\nkind = "gpio"\n[source.pins.lines]\ndoor = { pin = "GPIO17" }\n'
        'relay = { pin = "GPIO27", direction = "out" }\n'
    )
    from nuclio_edge.sources.gpio_line import LineConfig

    other = rig.board.request([LineConfig("GPIO9", 9)], "somebody")
    with pytest.raises(error, match=text):
        rig.source.set(name, value)
    other.close()


def test_a_busy_line_names_its_holder_and_is_taken_when_it_is_free(tmp_path: Path) -> None:
    from nuclio_edge.sources.gpio_line import LineConfig

    board = sim.board(f"{tmp_path}/state")
    holder = board.request([LineConfig("x", 17)], "gpiomon")
    with Pins(tmp_path, trigger(pin="GPIO17", edge="rising")) as rig:
        assert rig.source.state == "connecting"
        assert rig.warned("is not to be had") == 1
        assert "GPIO17 (line 17 of sim) is used by gpiomon" in str(rig.records.records)
        rig.until(lambda: rig.source.attempts >= 3)
        holder.close()
        rig.until(lambda: rig.source.state == "open")
        assert rig.warned("is not to be had") == 1
        rig.pulse("GPIO17")
        rig.until(lambda: rig.got)


def test_outputs_come_back_with_the_level_that_they_had(pins: Callable[..., Pins]) -> None:
    rig = pins('[source.pins]\nkind = "gpio"\n[source.pins.lines]\nrelay = { pin = "GPIO27", direction = "out" }\n')
    rig.source.set("relay", 1)
    rig.board.unplug()
    rig.until(lambda: rig.source.state == "connecting")
    with pytest.raises(OSError, match="relay: "):
        rig.source.set("relay", 0)
    rig.source._lines["relay"].value = 1
    rig.board.pin("GPIO27").drive_low()
    rig.board.plug()
    rig.until(lambda: rig.source.state == "open")
    assert rig.board.pin("GPIO27").level == 1


HOLDS = """
import threading
go = threading.Event()
got = []
def handler(context, event):
    got.append(event)
    go.wait(20)
"""


def test_a_chip_that_goes_while_edges_wait_for_room_leaves_the_books_right(pins: Callable[..., Pins]) -> None:
    blocks = 'inbox = { size = 2, when_full = "block" }\n'
    function = trigger(pin="GPIO17", edge="rising").replace('"inline"', '"thread"') + blocks
    rig = pins(function, handler=HOLDS)
    rig.pulse("GPIO17", 100)
    rig.until(lambda: rig.got)
    rig.turn_for(30)
    rig.board.unplug()
    go = rig.processor.functions["f"].handler.__globals__["go"]
    go.set()
    rig.until(lambda: rig.source.state == "connecting")
    rig.board.plug()
    rig.until(lambda: rig.source.state == "open")
    assert rig.source.received == 100
    before = len(rig.got)
    rig.pulse("GPIO17")
    rig.until(lambda: len(rig.got) > before)
    assert rig.source.received == 101
    assert DROPPED not in rig.source.rejected


def test_a_button_whose_chip_went_is_up_when_it_comes_back(pins: Callable[..., Pins]) -> None:
    rig = pins(trigger(pin="GPIO22", press=["click", "hold"], debounce="0ms", hold_after="60ms"))
    button = rig.board.pin("GPIO22")
    button.drive_high()
    rig.until(lambda: rig.source.received == 1)
    rig.board.unplug()
    rig.until(lambda: rig.source.state == "connecting")
    button.drive_low()
    rig.board.plug()
    rig.until(lambda: rig.source.state == "open")
    rig.pulse("GPIO22")
    rig.until(lambda: rig.got)
    rig.turn_for(100)
    assert [event.press for event in rig.got] == ["click"]


def test_a_reload_leaves_the_pins_of_other_triggers_alone(pins: Callable[..., Pins]) -> None:
    from nuclio_edge.manifest import load

    rig = pins(trigger(pin="GPIO17", edge="rising") + '[[function.f.trigger]]\npin = "GPIO4"\n')
    before = rig.board.pin("GPIO17")._taken
    text = rig.path.read_text().replace('pin = "GPIO4"', 'pin = "GPIO5"')
    rig.path.write_text(text)
    done: list[Any] = []
    rig.processor.reload(load(str(rig.path)), (), done.append)
    rig.until(lambda: done)
    assert rig.board.pin("GPIO17")._taken is before
    assert not rig.board.pin("GPIO4").consumer
    rig.pulse("GPIO17")
    rig.pulse("GPIO5")
    rig.until(lambda: len(rig.got) == 3)


def test_a_wire_from_an_output_to_an_input_closes_the_loop(pins: Callable[..., Pins]) -> None:
    rig = pins(
        trigger(pin="GPIO17", edge="rising"),
        handler=TOGGLES,
    )
    rig.board.pin("GPIO27").connect(rig.board.pin("GPIO4"))
    rig.pulse("GPIO17")
    rig.until(lambda: rig.got)
    assert rig.board.pin("GPIO4").level == 1


def test_a_pin_that_was_looked_at_may_become_an_output(pins: Callable[..., Pins]) -> None:
    rig = pins(trigger(pin="GPIO17"))
    rig.board.pin("GPIO27").drive_high()
    assert rig.source.get("GPIO27") == 1
    rig.source.set("GPIO27", 0)
    assert rig.board.pin("GPIO27").is_output
    assert rig.board.pin("GPIO27").level == 0
    with pytest.raises(ValueError, match="GPIO17 is an input"):
        rig.source.set("GPIO17", 1)
