"""The serial source on pseudo-terminals: what comes, what goes, and what happens when the adapter is pulled out."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
import termios
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.errors import SourceError
from nuclio_edge.manifest import check
from nuclio_edge.sources import serial_port
from nuclio_edge.sources.serial_params import PARAMS
from nuclio_edge.testing.rig import filled
from tests.rig import Rig
from tests.serial_line import SerialLine
from tests.unit.test_serial_framing import sentence, telegram, with_crc
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ECHO = """
seen = []
def handler(context, event):
    seen.append(event.body)
    context.bindings["port"].write(event.body.upper() + b"\\n")
"""


@pytest.fixture
def line(tmp_path: Path) -> Iterator[SerialLine]:
    (tmp_path / "dev").mkdir()
    made = SerialLine(tmp_path / "dev")
    yield made
    made.unplug()


def manifest(line: SerialLine, source: str = "", trigger: str = "", function: str = "") -> str:
    return (
        f'[source.port]\nkind = "serial"\ndevice = "{line.path}"\n{source}\n[function.echo]\nhandler = "echo.py"\n'
        f'isolation = "inline"\n{function}\n[[function.echo.trigger]]\nsource = "port"\n{trigger}\n'
    )


def opened(rig: Rig) -> Any:
    """The source, once it has the port."""
    source = rig.processor.sources["port"]
    rig.until(lambda: source.state == "open", "the port")
    return source


def hears(rig: Rig, line: SerialLine, expected: bytes) -> None:
    """The other end gets exactly this."""
    got = b""

    def all_there() -> bool:
        nonlocal got
        got += line.heard()
        return len(got) >= len(expected)

    rig.until(all_there, f"{expected!r}, got {got!r}")
    assert got == expected


def test_a_line_runs_the_function_which_answers_by_the_binding(tmp_path: Path, line: SerialLine) -> None:
    with Rig(tmp_path, manifest(line), echo=ECHO) as rig:
        opened(rig)
        line.send(b"hello\r\nworld\n")
        hears(rig, line, b"HELLO\nWORLD\n")
        assert rig.balanced()


def test_an_event_tells_the_device_that_it_came_from(tmp_path: Path, line: SerialLine) -> None:
    echo = ECHO.replace("event.body.upper()", "event.source_address.encode()")
    with Rig(tmp_path, manifest(line), echo=echo) as rig:
        opened(rig)
        line.send(b"x\n")
        hears(rig, line, line.path.encode() + b"\n")


def test_an_output_sends_what_the_function_returns(tmp_path: Path, line: SerialLine) -> None:
    output = '[[function.echo.output]]\nto = "port"\nappend = "\\r\\n"\n'
    with Rig(
        tmp_path, manifest(line, trigger=output), echo="def handler(context, event):\n    return event.body"
    ) as rig:
        opened(rig)
        line.send(b"ping\n")
        hears(rig, line, b"ping\r\n")


def test_only_frames_with_the_prefix_run_the_function(tmp_path: Path, line: SerialLine) -> None:
    text = manifest(line, 'framing = "nmea"', 'prefix = ["$GPRMC", "$GNRMC"]')
    with Rig(tmp_path, text, echo=ECHO) as rig:
        source = opened(rig)
        line.send(sentence("GPGSV,1") + sentence("GNRMC,2") + sentence("GPRMC,3")[:-4] + b"00\r\n")
        rig.until(lambda: source.received == 3, "three frames")
        assert (source.routed, source.unrouted, source.rejected) == (1, 1, {"checksum": 1})
        hears(rig, line, sentence("GNRMC,2").strip().upper() + b"\n")


def test_modbus_frames_are_told_apart_by_silence(tmp_path: Path, line: SerialLine) -> None:
    text = manifest(line, 'framing = "gap"\nchecksum = "modbus"\ngap = "30ms"')
    with Rig(tmp_path, text, echo=ECHO) as rig:
        source = opened(rig)
        request = with_crc(b"\1\3\0\0\0\1")
        received: list[int] = []
        for _ in range(2):
            line.send(request[:4])
            line.send(request[4:])
            received.append(source.received)
            rig.until(lambda: source.received > received[-1], "the silence")
        assert source.routed == 2
        hears(rig, line, (request.upper() + b"\n") * 2)


def test_a_meter_is_read_through_noise(tmp_path: Path, line: SerialLine) -> None:
    text = manifest(
        line,
        'framing = "delimiter"\nstart = "/"\ndelimiter = "!"\ntrailer = 6\nkeep_framing = true\nchecksum = "p1"\n'
        'baud = 115200\nmax_frame = "2KiB"',
    )
    with Rig(tmp_path, text, echo=ECHO) as rig:
        source = opened(rig)
        good = telegram("1-0:1.8.1(123456.789*kWh)")
        line.send(good[20:] + good)
        for _ in range(50):
            line.send(b"\xff" * 1000)
            rig.turn_for(6)
        line.send(good)
        rig.until(lambda: source.routed == 2, "two telegrams")
        assert source.rejected == {"noise": 2}
        assert rig.balanced()


def test_half_a_frame_is_dropped_when_the_rest_does_not_come(tmp_path: Path, line: SerialLine) -> None:
    text = manifest(line, 'framing = "fixed"\nsize = 4\nframe_timeout = "50ms"')
    with Rig(tmp_path, text, echo=ECHO) as rig:
        source = opened(rig)
        line.send(b"abcdef")
        rig.until(lambda: source.rejected, "the half")
        line.send(b"ghij")
        rig.until(lambda: source.routed == 2, "the next")
        assert source.rejected == {"partial": 1}
        hears(rig, line, b"ABCD\nGHIJ\n")


def test_unplugged_and_plugged_in_again_it_goes_on_and_says_each_once(tmp_path: Path, line: SerialLine) -> None:
    with Rig(tmp_path, manifest(line), echo=ECHO) as rig:
        source = opened(rig)
        for outage in (1, 2):
            line.send(b"half a li")
            rig.until(lambda: source._frames.tail, "the half")
            line.unplug()
            rig.until(lambda: source.state == "connecting", "it to be noticed")
            assert source.rejected == {"partial": outage}
            rig.turn_for(700)  # several looks
            line.plug()
            opened(rig)
            line.send(b"back\n")
            hears(rig, line, b"BACK\n")
        said = rig.records.text()
        assert said.count("no port, trying again") == 4  # gone, and not there: both outages
        assert said.count("the port is there") == 2
        assert source.outages == 2


def test_a_port_that_is_not_there_yet_is_waited_for(tmp_path: Path, line: SerialLine) -> None:
    line.unplug()
    with Rig(tmp_path, manifest(line), echo=ECHO) as rig:
        source = rig.processor.sources["port"]
        assert source.state == "connecting"
        line.plug()
        opened(rig)
        assert "no such file or directory" in rig.records.text()


def test_a_file_that_is_no_port_is_said_to_be_none(tmp_path: Path, line: SerialLine) -> None:
    line.unplug()
    (tmp_path / "dev" / "usb-adapter").write_text("text")
    with Rig(tmp_path, manifest(line), echo=ECHO) as rig:
        assert "is not a serial port" in rig.records.text()


def test_a_port_that_another_program_holds_is_refused_with_its_name(tmp_path: Path, line: SerialLine) -> None:
    hold = "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); fcntl.flock(fd, fcntl.LOCK_EX)"
    with subprocess.Popen(
        [sys.executable, "-c", hold + "; print('held', flush=True); sys.stdin.read()", line.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with Rig(tmp_path, manifest(line), echo=ECHO) as rig:
            assert f"(pid {other.pid})" in rig.records.text()
            other.communicate(b"")
            opened(rig)  # it heals
            fd = os.open(line.path, os.O_RDWR | os.O_NOCTTY)
            with pytest.raises(BlockingIOError):  # and now others are refused
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(fd)


def test_a_function_without_room_makes_reading_stop_and_nothing_is_lost(tmp_path: Path, line: SerialLine) -> None:
    inbox = 'inbox = { size = 2, when_full = "block" }\n'
    slow = "import time\nseen = []\ndef handler(context, event):\n    time.sleep(0.002)\n    seen.append(event.body)\n"
    text = manifest(line, trigger=inbox).replace('"inline"', '"thread"')
    with Rig(tmp_path, text, echo=slow) as rig:
        source = opened(rig)
        for first in range(0, 200, 20):
            line.send(b"".join(b"%d\n" % n for n in range(first, first + 20)))
        rig.until(lambda: rig.trigger("echo").handled == 200, "all of them")
        assert source.routed == 200
        assert rig.balanced()


def test_unplugged_while_functions_have_no_room_it_does_not_spin(tmp_path: Path, line: SerialLine) -> None:
    wait = "import threading\nopen_ = threading.Event()\ndef handler(context, event):\n    open_.wait(30)\n"
    text = manifest(line, trigger='inbox = { size = 1, when_full = "block" }').replace('"inline"', '"thread"')
    with Rig(tmp_path, text, echo=wait) as rig:
        source = opened(rig)
        line.send(b"1\n2\n3\n4\n")
        rig.until(lambda: source._kept, "the inbox to be full")
        line.unplug()
        before = rig.processor.loop.wakeups
        rig.turn_for(200)
        assert rig.processor.loop.wakeups - before < 100
        module = rig.processor.functions["echo"].handler.__globals__
        module["open_"].set()
        rig.until(lambda: source.state == "connecting" and rig.trigger("echo").handled == 4, "the rest, and the end")
        assert rig.balanced()


def test_what_cannot_be_sent_now_waits_in_order_up_to_the_limit(tmp_path: Path, line: SerialLine) -> None:
    flood = """
from nuclio_edge.errors import SourceError
def handler(context, event):
    port = context.bindings["port"]
    try:
        for number in range(1 << 20):
            port.write(b"%06d\\n" % number)
    except SourceError as error:
        context.logger.info(str(error))
"""
    with Rig(tmp_path, manifest(line, 'write_buffer = "64KiB"'), echo=flood) as rig:
        source = opened(rig)
        line.send(b"go\n")
        rig.until(lambda: "write_buffer is 65536" in rig.records.text(), "the limit")
        count = 65536 // 7  # the handler is inline: nothing goes out before it ends
        hears(rig, line, b"".join(b"%06d\n" % n for n in range(count)))
        assert source._writer.dropped == {"full": 1}
        rig.until(source.sent, "everything to be sent")


def test_a_write_to_a_port_that_is_away_raises(tmp_path: Path, line: SerialLine) -> None:
    text = manifest(line) + '[source.mem]\nkind = "memory"\n[[function.echo.trigger]]\nsource = "mem"\npath = "/"\n'
    with Rig(tmp_path, text, echo=ECHO) as rig:
        source = opened(rig)
        line.unplug()
        rig.until(lambda: source.state == "connecting", "it to be noticed")
        assert rig.ask("/", b"x")[0] == 500
        assert source._writer.dropped == {"away": 1}
        assert "the port of source port is not open" in rig.records.text()


def test_the_port_is_raw_and_has_the_rate_and_the_bits_that_were_asked_for(line: SerialLine) -> None:
    params = filled(PARAMS, {"device": line.path, "baud": 115200, "stop_bits": 2, "flow": "rtscts"})
    fd, ignored = serial_port.open_port(line.path, params)
    try:
        iflag, oflag, cflag, lflag, _, speed, _ = termios.tcgetattr(fd)
        assert (iflag, oflag, lflag, speed) == (0, 0, 0, termios.B115200)
        assert cflag & termios.CSTOPB and cflag & termios.CRTSCTS and not cflag & termios.HUPCL
        assert ignored == []
    finally:
        serial_port.close_port(fd)


def test_what_a_driver_does_not_do_is_named(line: SerialLine) -> None:
    fd, ignored = serial_port.open_port(
        line.path, filled(PARAMS, {"device": line.path, "parity": "even", "data_bits": 7})
    )
    serial_port.close_port(fd)
    assert ignored == ["data_bits", "parity"]  # a pseudo-terminal has eight bits and no parity


@pytest.mark.parametrize("baud", [74_880, 250_000, 1_234_567])
def test_a_rate_without_a_constant_is_set_too(line: SerialLine, baud: int) -> None:
    fd, _ = serial_port.open_port(line.path, filled(PARAMS, {"device": line.path, "baud": baud}))
    try:
        state = struct.unpack("=IIIIB19sII", fcntl.ioctl(fd, 0x802C542A, bytes(44)))
        assert state[6:] == (baud, baud)
    finally:
        serial_port.close_port(fd)


def test_a_driver_without_rs485_is_said_to_have_none(line: SerialLine) -> None:
    with pytest.raises(SourceError, match="no RS-485 mode"):
        serial_port.open_port(line.path, filled(PARAMS, {"device": line.path, "rs485": True}))


def test_rs485_is_asked_for_as_the_kernel_wants_it(line: SerialLine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bytes] = []

    def driver(fd: int, request: int, argument: Any = 0) -> Any:
        if request == 0x542F:
            asked.append(argument)
            return argument
        return fcntl.ioctl(fd, request, argument)

    monkeypatch.setattr(serial_port, "ioctl", driver)
    from nuclio_edge.sources.serial_params import RS485

    table = filled(RS485, {"rts_after_send": True, "rts_on_send": False, "delay_before": 3, "receive_own": True})
    for rs485 in (True, table):
        fd, _ = serial_port.open_port(line.path, filled(PARAMS, {"device": line.path, "rs485": rs485}))
        serial_port.close_port(fd)
    # struct serial_rs485: flags, delay before, delay after in ms, 20 bytes of other things
    assert asked == [struct.pack("=III", 1 | 2, 0, 0) + bytes(20), struct.pack("=III", 1 | 4 | 16, 3, 0) + bytes(20)]


def test_what_the_driver_dropped_is_counted(tmp_path: Path, line: SerialLine, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = [100]
    monkeypatch.setattr(serial_port, "overruns", lambda fd: dropped[0])
    with Rig(tmp_path, manifest(line, 'framing = "nmea"'), echo=ECHO) as rig:
        source = opened(rig)
        dropped[0] = 107
        line.send(b"$GPRMC,torn*00\r\n")
        rig.until(lambda: source.rejected, "the torn sentence")
        assert source.overruns == 7


def test_a_port_of_the_board_has_the_boards_name(
    tmp_path: Path, line: SerialLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nuclio_edge import board

    real = board.load("raspberrypi/4b", board.folder())  # one of our own, to be changed
    port = board.Port(name="header", note="", paths=("/dev/not-there", line.path), pins=())
    real.serial = {"header": port}
    monkeypatch.setattr(board, "load", lambda board_id, where=None: real)
    with Rig(tmp_path, manifest(line).replace(line.path, "header"), echo=ECHO) as rig:
        opened(rig)
        line.send(b"a\n")
        hears(rig, line, b"A\n")


def test_a_port_that_the_board_does_not_have_is_told_with_those_that_it_has(tmp_path: Path, line: SerialLine) -> None:
    text = manifest(line).replace(line.path, "haeder")
    with Rig(tmp_path, text, echo=ECHO) as rig:
        assert "has no serial port haeder" in rig.records.text()


@pytest.mark.parametrize(
    ("source", "key", "said"),
    [
        ('framing = "fixed"', "size", "is missing"),
        ('framing = "delimiter"', "delimiter", "is missing"),
        ('framing = "slip"\ndelimiter = "x"', "delimiter", "no effect"),
        ('delimiter = "€"\nframing = "delimiter"', "delimiter", "no byte"),
        ('framing = "delimiter"\ndelimiter = "!"\ntrailer = 2', "start", "needs it"),
        ('framing = "nmea"\nchecksum = "modbus"', "checksum", "not a checksum of sentences"),
        ('framing = "fixed"\nsize = 100\nmax_frame = "50B"', "size", "more than max_frame"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(
    tmp_path: Path, line: SerialLine, source: str, key: str, said: str
) -> None:
    (tmp_path / "edge.toml").write_text(manifest(line, source))
    (tmp_path / "echo.py").write_text(ECHO)
    problems = check(str(tmp_path / "edge.toml"))[1]
    assert [(p.key_path, said in p.message) for p in problems] == [(f"source.port.{key}", True)], problems


def test_one_port_has_one_owner_by_whichever_name(tmp_path: Path, line: SerialLine) -> None:
    other = f'[source.second]\nkind = "serial"\ndevice = "{os.path.realpath(line.path)}"\n'
    (tmp_path / "edge.toml").write_text(manifest(line) + other)
    (tmp_path / "echo.py").write_text(ECHO)
    problems = check(str(tmp_path / "edge.toml"))[1]
    assert [p.code for p in problems] == ["E204"]
    assert "already used by source.port" in problems[0].message


def test_eio_means_unplugged_as_an_empty_read_does(
    tmp_path: Path, line: SerialLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Rig(tmp_path, manifest(line), echo=ECHO) as rig:
        source = opened(rig)
        real = os.read
        broken = [True]

        def read(fd: int, size: int) -> bytes:
            if fd == source._fd and broken:
                broken.clear()
                raise OSError(errno.EIO, "I/O error")
            return real(fd, size)

        monkeypatch.setattr(os, "read", read)
        line.send(b"x\n")
        rig.until(lambda: source.outages == 1, "the outage")
        opened(rig)
        line.send(b"y\n")
        rig.until(lambda: source.routed, "it to go on")


def test_a_stop_waits_for_what_was_written(tmp_path: Path, line: SerialLine) -> None:
    with Rig(tmp_path, manifest(line), echo=ECHO) as rig:
        source = opened(rig)
        line.send(b"last\n")
        rig.until(lambda: source.routed, "the event")
        rig.processor.stop()
        rig.until(lambda: not rig.processor.sources, "the end")
        wait_until(lambda: line.heard() == b"LAST\n", "what was written last")


def test_an_open_port_on_which_nothing_comes_wakes_nobody(tmp_path: Path, line: SerialLine) -> None:
    with Rig(tmp_path, manifest(line), echo=ECHO) as rig:
        opened(rig)
        line.send(b"once\nhalf")
        hears(rig, line, b"ONCE\n")
        rig.turn_for(50)
        source = rig.processor.sources["port"]
        assert (source._retry, source._quiet, source._resting) == (None, None, None)
        assert [timer.call for _, _, timer in rig.processor.loop._timers if timer.call is not None] == []
