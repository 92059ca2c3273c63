"""The sensor source: what files say, when a reading is an event, and that no sensor stops another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.manifest import check
from nuclio_edge.sources.sensor_file import ReadingError, find, read_number, sensor_name
from nuclio_edge.testing import Clock
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEEP = """
seen = []
def handler(context, event):
    seen.append((event.topic, event.get_field("value"), event.path))
"""


def manifest(source: str, trigger: str = "", function: str = 'isolation = "inline"') -> str:
    return (
        f'[source.climate]\nkind = "sensor"\n{source}\n[function.keep]\nhandler = "keep.py"\n{function}\n'
        f'[[function.keep.trigger]]\nsource = "climate"\n{trigger}\n'
    )


def seen(rig: Rig) -> list[Any]:
    """What the function got."""
    handler: Any = rig.processor.functions["keep"].handler
    found: list[Any] = handler.__globals__["seen"]
    return found


@pytest.fixture
def clock() -> Iterator[Clock]:
    with Clock() as made:
        yield made


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def reading(rig: Rig, clock: Clock, ms: int = 1000) -> Any:
    """One more round."""
    source: Any = rig.processor.sources["climate"]
    rig.until(lambda: not source._rounds.busy, "the round before")
    clock.skip(ms)
    rig.processor.loop.turn(0)
    rig.until(lambda: not source._rounds.busy, "the round")
    return source


# --- what a file says ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "value"),
    [
        ("temp1_input", "45678\n", 45678),
        ("status", "Voltage: -3.30 V (of 5)\n", -3.3),
        ("x", "1e3", 1000),
        ("x", ".5", 0.5),
        ("w1_slave", "72 01 4b 46 7f ff 0e 10 57 : crc=57 YES\n72 01 4b 46 7f ff 0e 10 57 t=23125\n", 23125),
        ("w1_slave", "ff ff : crc=57 YES\nff ff t=-1250\n", -1250),
    ],
)
def test_the_first_number_of_a_file_is_its_value(tmp_path: Path, file: str, text: str, value: float) -> None:
    (tmp_path / file).write_text(text)
    assert read_number(str(tmp_path / file), None) == value


@pytest.mark.parametrize(
    ("file", "text", "match", "reason"),
    [
        ("w1_slave", "72 01 : crc=57 NO\n72 01 t=23125\n", None, "crc"),
        ("w1_slave", "72 01 : crc=57 YES\n", None, "crc"),
        ("w1_slave", "", None, "crc"),
        ("x", "no number here", None, "unparsable"),
        ("x", "", None, "unparsable"),
        ("x", "9" * 400, None, "unparsable"),
        ("x", "a=1", r"b=(\d+)", "unparsable"),
        ("x", "a=b", r"a=(\w)", "unparsable"),
    ],
)
def test_what_is_no_reading_is_told_by_its_reason(
    tmp_path: Path, file: str, text: str, match: str | None, reason: str
) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ReadingError) as caught:
        read_number(str(tmp_path / file), match)
    assert caught.value.reason == reason
    with pytest.raises(ReadingError) as caught:
        read_number(str(tmp_path / "gone"), match)
    assert caught.value.reason == "unreadable"


def test_match_finds_the_number_that_is_meant(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu0 1\ntemp=21.5C\n")
    assert read_number(str(tmp_path / "stat"), r"temp=([\d.]+)") == 21.5
    assert read_number(str(tmp_path / "stat"), r"\d+\.\d+") == 21.5


def test_a_raw_value_of_iio_is_scaled_as_the_kernel_says(tmp_path: Path) -> None:
    put(tmp_path, {"in_temp_raw": "100", "in_temp_scale": "62.5", "in_temp_offset": "20", "in_voltage1_raw": "10"})
    assert read_number(str(tmp_path / "in_temp_raw"), None) == 7500
    assert read_number(str(tmp_path / "in_voltage1_raw"), None) == 10
    put(tmp_path, {"in_voltage_scale": "0.5"})  # that all channels share
    assert read_number(str(tmp_path / "in_voltage1_raw"), None) == 5


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix="w1_slave", encoding="utf-8", errors="replace") as file:
        file.write(text)
        file.flush()
        try:
            assert isinstance(read_number(file.name, None), float)
        except ReadingError:
            pass


def test_a_sensor_is_called_by_what_the_wildcards_stand_for(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "w1/28-01/temperature": "1",
            "w1/28-02/temperature": "2",
            "hwmon/hwmon3/name": "cpu_thermal\n",
            "hwmon/hwmon3/temp1_input": "3",
            "hwmon/hwmon4/temp2_input": "4",
            "thermal/thermal_zone0/type": "soc\n",
            "thermal/thermal_zone0/temp": "5",
        },
    )

    def names(pattern: str) -> list[str]:
        return [sensor_name(f"{tmp_path}/{pattern}", path) for path in find(f"{tmp_path}/{pattern}")]

    assert names("w1/28-*/temperature") == ["28-01", "28-02"]
    assert names("hwmon/hwmon*/temp*_input") == ["cpu_thermal/temp1_input", "hwmon4/temp2_input"]
    assert names("thermal/*/temp") == ["soc"]
    assert names("w1/28-01/temperature") == [""]


# --- when a reading is an event --------------------------------------------------------------------------------------


def test_every_sensor_of_a_path_is_an_event_which_says_whose(tmp_path: Path) -> None:
    put(tmp_path, {"w1/28-01/temperature": "21562\n", "w1/28-02/temperature": "-1000\n"})
    source = f'path = "{tmp_path}/w1/28-*/temperature"\nscale = 0.001\nunit = "°C"\nevery = "1h"'
    with Rig(tmp_path, manifest(source), keep=KEEP) as rig:
        rig.until(lambda: len(seen(rig)) == 2, "two readings")
        first, second = (f"{tmp_path}/w1/28-0{n}/temperature" for n in (1, 2))
        assert seen(rig) == [("28-01", 21.562, first), ("28-02", -1.0, second)]


def test_the_event_is_json_with_value_unit_and_sensor(tmp_path: Path) -> None:
    put(tmp_path, {"t": "21562"})
    keep = "seen = []\ndef handler(context, event):\n    seen.append((event.body, event.content_type))\n"
    source = f'path = "{tmp_path}/t"\nscale = 0.001\noffset = -1.0\nunit = "°C"'
    with Rig(tmp_path, manifest(source), keep=keep) as rig:
        rig.until(lambda: seen(rig), "a reading")
        assert seen(rig)[0] == ({"value": 20.562, "unit": "°C", "sensor": "climate"}, "application/json")


def test_a_path_is_relative_to_the_manifest(tmp_path: Path) -> None:
    put(tmp_path, {"t": "1"})
    with Rig(tmp_path, manifest('path = "t"'), keep=KEEP) as rig:
        rig.until(lambda: seen(rig), "a reading")


def test_a_change_within_the_dead_band_is_no_event(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, {"t": "20.0"})
    source = f'path = "{tmp_path}/t"\nevery = "1s"\nmin_change = 0.5\nmax_silence = "10s"'
    with Rig(tmp_path, manifest(source), keep=KEEP) as rig:
        rig.until(lambda: seen(rig), "the first reading")
        for value in ("20.2", "20.4", "20.5", "20.1", "20.0"):  # 0.4 + 0.1 adds up; then from 20.5 on
            put(tmp_path, {"t": value})
            reading(rig, clock)
        assert [value for _, value, _ in seen(rig)] == [20.0, 20.5, 20.0]
        assert rig.processor.sources["climate"].unchanged == 3
        for _ in range(10):
            reading(rig, clock)
        assert [value for _, value, _ in seen(rig)] == [20.0, 20.5, 20.0, 20.0]  # after 10 s without


def test_a_trigger_may_take_some_sensors_only(tmp_path: Path) -> None:
    put(tmp_path, {"w1/28-01/t": "1", "w1/10-02/t": "2"})
    with Rig(tmp_path, manifest(f'path = "{tmp_path}/w1/*/t"', 'sensor = "28-*"'), keep=KEEP) as rig:
        source = rig.processor.sources["climate"]
        rig.until(lambda: source.received == 2, "two readings")
        assert (source.routed, source.unrouted) == (1, 1)
        assert [name for name, _, _ in seen(rig)] == ["28-01"]


def test_the_first_reading_comes_at_once_and_the_next_keep_the_phase(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, {"t": "1"})
    with Rig(tmp_path, manifest(f'path = "{tmp_path}/t"\nevery = "10s"'), keep=KEEP) as rig:
        rig.until(lambda: seen(rig), "the first reading")
        reading(rig, clock, 9_999)
        assert len(seen(rig)) == 1
        reading(rig, clock, 1)
        assert len(seen(rig)) == 2
        reading(rig, clock, 25_000)  # two are late: one reading
        assert len(seen(rig)) == 3
        reading(rig, clock, 4_999)
        assert len(seen(rig)) == 3
        reading(rig, clock, 1)
        assert len(seen(rig)) == 4


def test_of_readings_without_room_the_newest_waits(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, {"t": "1"})
    held = "import threading\ngo = threading.Event()\nseen = []\ndef handler(context, event):\n    go.wait(30)\n"
    held += "    seen.append(event.get_field('value'))\n"
    trigger = 'inbox = { size = 1, when_full = "block" }'
    with Rig(tmp_path, manifest(f'path = "{tmp_path}/t"\nevery = "1s"', trigger, ""), keep=held) as rig:
        rig.until(lambda: rig.trigger("keep").admitted == 1, "the first reading")
        for value in ("2", "3", "4"):
            put(tmp_path, {"t": value})
            reading(rig, clock)
        rig.processor.functions["keep"].handler.__globals__["go"].set()
        rig.until(lambda: len(seen(rig)) == 2, "the newest")
        assert seen(rig) == [1, 4]
        assert rig.trigger("keep").shed == {"collapsed": 2}
        assert rig.balanced()


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_sensor_that_vanishes_is_said_once_and_stops_no_other(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, {"w1/28-01/t": "1", "w1/28-02/t": "2"})
    with Rig(tmp_path, manifest(f'path = "{tmp_path}/w1/*/t"\nevery = "1s"'), keep=KEEP) as rig:
        rig.until(lambda: len(seen(rig)) == 2, "the first round")
        (tmp_path / "w1/28-01/t").unlink()
        (tmp_path / "w1/28-01").rmdir()
        for _ in range(3):
            source = reading(rig, clock)
        assert [name for name, _, _ in seen(rig)[2:]] == ["28-02"] * 3
        assert rig.records.text().count("it is gone") == 1
        assert source.state == "open"
        put(tmp_path, {"w1/28-01/t": "7"})
        reading(rig, clock)
        assert seen(rig)[-2][:2] == ("28-01", 7)
        assert rig.records.text().count("reads again") == 1


def test_a_sensor_that_fails_is_counted_each_time_and_said_once(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, {"28-01/w1_slave": "00 : crc=00 NO\n00 t=85000\n"})
    with Rig(tmp_path, manifest(f'path = "{tmp_path}/*/w1_slave"\nevery = "1s"'), keep=KEEP) as rig:
        for _ in range(3):
            source = reading(rig, clock)
        assert source.rejected["crc"] >= 3 and source.state == "connecting"
        assert rig.records.text().count("no reading") == 1
        put(tmp_path, {"28-01/w1_slave": "00 : crc=00 YES\n00 t=21000\n"})
        assert reading(rig, clock).state == "open"
        assert seen(rig)[0][1] == 21000
        assert rig.balanced()


def test_nothing_that_fits_is_waited_for(tmp_path: Path, clock: Clock) -> None:
    with Rig(tmp_path, manifest(f'path = "{tmp_path}/w1/*/t"\nevery = "1s"'), keep=KEEP) as rig:
        source = reading(rig, clock)
        assert source.state == "connecting"
        assert rig.records.text().count("no file fits the path") == 1
        put(tmp_path, {"w1/28-01/t": "1"})
        assert reading(rig, clock).state == "open"
        assert seen(rig)


def test_a_sensor_that_blocks_for_ever_stops_no_other_and_heals(tmp_path: Path, clock: Clock) -> None:
    put(tmp_path, {"a/t": "1", "c/t": "3"})
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b/t")  # to open it blocks until somebody writes
    source_text = f'path = "{tmp_path}/*/t"\nevery = "1s"\ntimeout = "300ms"'
    with Rig(tmp_path, manifest(source_text), keep=KEEP) as rig:
        source: Any = rig.processor.sources["climate"]
        rig.until(
            lambda: source._rounds._run is not None and source._rounds._run.current == f"{tmp_path}/b/t", "the block"
        )
        assert [name for name, _, _ in seen(rig)] == ["a"]
        clock.skip(300)
        rig.until(lambda: len(seen(rig)) == 2, "the rest")
        assert [name for name, _, _ in seen(rig)] == ["a", "c"]
        assert source.rejected == {"blocked": 1}
        for _ in range(3):
            reading(rig, clock)
        assert [name for name, _, _ in seen(rig)[2:]] == ["a", "c"] * 3
        assert source.rejected == {"blocked": 1}
        assert rig.records.text().count("takes longer than 300 ms") == 1
        with open(tmp_path / "b/t", "w") as fifo:  # it answers, too late
            fifo.write("2")
        rig.until(lambda: not source._rounds.stuck, "the read to return")
        (tmp_path / "b/t").unlink()
        put(tmp_path, {"b/t": "2"})
        reading(rig, clock)
        assert [name for name, _, _ in seen(rig)[-3:]] == ["a", "b", "c"]
        assert rig.balanced()


def test_a_slow_round_takes_the_place_of_the_next(tmp_path: Path, clock: Clock) -> None:
    os.mkfifo(tmp_path / "t")
    with Rig(tmp_path, manifest(f'path = "{tmp_path}/t"\nevery = "1s"\ntimeout = "1h"'), keep=KEEP) as rig:
        source: Any = rig.processor.sources["climate"]
        rig.until(lambda: source._rounds._run.current, "the read")
        for _ in range(3):
            clock.skip(1000)
            rig.processor.loop.turn(0)
        assert source.skipped == 3
        with open(tmp_path / "t", "w") as fifo:
            fifo.write("5")
        rig.until(lambda: seen(rig), "the reading")


def test_not_more_threads_hang_than_a_few(tmp_path: Path, clock: Clock) -> None:
    for n in range(12):
        (tmp_path / f"{n:02}").mkdir()
        os.mkfifo(tmp_path / f"{n:02}/t")
    with Rig(tmp_path, manifest(f'path = "{tmp_path}/*/t"\nevery = "1s"\ntimeout = "300ms"'), keep=KEEP) as rig:
        source: Any = rig.processor.sources["climate"]
        for n in range(8):
            rig.until(
                lambda: source._rounds._run is not None and source._rounds._run.current not in ("", None), "a block"
            )
            clock.skip(300)
            rig.until(lambda n=n: len(source._rounds.stuck) == n + 1, "it to be left behind")  # type: ignore[misc]
        clock.skip(5000)
        rig.turn_for(50)
        assert not source._rounds.busy
        assert source.rejected == {"blocked": 8}
        for n in range(8):
            with open(tmp_path / f"{n:02}/t", "w") as fifo:
                fifo.write("1")
        rig.until(lambda: not source._rounds.stuck, "them to return")


# --- readers ---------------------------------------------------------------------------------------------------------


def test_a_reader_returns_a_number_or_fields(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "bme.py").write_text(
        "count = 0\ndef read():\n    global count\n    count += 1\n"
        "    return count if count < 3 else {'temperature': 21.5, 'humidity': 40}\n"
    )
    keep = "seen = []\ndef handler(context, event):\n    seen.append(event.body)\n"
    with Rig(tmp_path, manifest('reader = "bme.py"\nevery = "1s"\nscale = 10.0'), keep=keep) as rig:
        rig.until(lambda: seen(rig), "the first")
        reading(rig, clock)
        reading(rig, clock)
        assert seen(rig) == [
            {"value": 10.0, "sensor": "climate"},
            {"value": 20.0, "sensor": "climate"},
            {"temperature": 21.5, "humidity": 40},
        ]


@pytest.mark.parametrize(
    ("body", "reason", "said"),
    [
        ("return 'hot'", "unparsable", "a reader returns a number or a dict, not str"),
        ("return None", "unparsable", "not NoneType"),
        ("return float('nan')", "unparsable", "nan is no reading"),
        ("raise ZeroDivisionError('broken')", "reader", "broken"),
        ("raise SystemExit(3)", "reader", "3"),
        ("raise OSError(121, 'Remote I/O error')", "unreadable", "Remote I/O error"),
    ],
)
def test_a_reader_that_fails_is_counted_and_said_once(
    tmp_path: Path, clock: Clock, body: str, reason: str, said: str
) -> None:
    (tmp_path / "bme.py").write_text(f"def read():\n    {body}\n")
    with Rig(tmp_path, manifest('reader = "bme.py:read"\nevery = "1s"'), keep=KEEP) as rig:
        for _ in range(3):
            source = reading(rig, clock)
        assert set(source.rejected) == {reason} and source.rejected[reason] >= 3
        assert rig.records.text().count("no reading (") == 1
        assert said in rig.records.text()
        assert source.state == "connecting"


@pytest.mark.parametrize(
    ("source", "key", "said"),
    [
        ("", "reader", "either path or reader"),
        ('path = "t"\nreader = "bme.py"', "path", "either path or reader"),
        ('reader = "gone.py"', "reader", "no such file"),
        ('reader = "bme.py:rade"', "reader", 'no function "rade"'),
        ('reader = "broken.py"', "reader", "is not Python"),
        ('reader = "bme.py"\ni2c = "/dev/i2c-1"', "address", "is missing"),
        ('reader = "bme.py"\naddress = 0x76', "address", "is for i2c"),
        ('reader = "bme.py"\ni2c = "a"\naddress = 0x76\nspi = "b"', "spi", "one bus"),
        ('path = "t"\ni2c = "/dev/i2c-1"', "i2c", "for a reader"),
        ('path = "t"\nmatch = "("', "match", "not a regular expression"),
        ('path = "t"\nmax_silence = "1h"', "max_silence", "no effect"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(tmp_path: Path, source: str, key: str, said: str) -> None:
    (tmp_path / "bme.py").write_text("def read(bus=None):\n    return 1\n")
    (tmp_path / "broken.py").write_text("def read(:\n")
    (tmp_path / "keep.py").write_text(KEEP)
    (tmp_path / "edge.toml").write_text(manifest(source))
    problems = check(str(tmp_path / "edge.toml"))[1]
    assert [(p.key_path, said in p.message) for p in problems] == [(f"source.climate.{key}", True)], problems


def test_an_address_on_a_bus_has_one_owner(tmp_path: Path) -> None:
    (tmp_path / "bme.py").write_text("def read(bus):\n    return 1\n")
    (tmp_path / "keep.py").write_text(KEEP)
    one = 'reader = "bme.py"\ni2c = "/dev/i2c-1"\naddress = 0x76'
    (tmp_path / "edge.toml").write_text(manifest(one) + f'[source.b]\nkind = "sensor"\n{one}\n')
    problems = check(str(tmp_path / "edge.toml"))[1]
    assert [(p.code, "already used by source.climate" in p.message) for p in problems] == [("E204", True)]
