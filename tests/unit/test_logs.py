"""Where log records go: text and JSON, the bounded queue, pipes that nobody reads, files that turn, secrets."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge import logs
from nuclio_edge.core.context import Context
from nuclio_edge.core.event import Event
from nuclio_edge.core.log import Logger
from nuclio_edge.core.loop import Loop
from nuclio_edge.logs import Console, File, FunctionLogger, Log, as_json, as_text, make_log
from tests.terminal import open_terminal
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Pipe:
    """A pipe that a console writes to; reading never waits."""

    def __init__(self) -> None:
        self.end, self.fd = os.pipe()
        os.set_blocking(self.end, False)

    def read(self) -> bytes:
        data = b""
        while True:
            try:
                piece = os.read(self.end, 1 << 16)
            except BlockingIOError:
                return data
            if not piece:
                return data
            data += piece

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read().splitlines()]

    def close(self) -> None:
        for fd in (self.end, self.fd):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


def record(
    message: str = "m", *pairs: Any, level: int = 20, function: str | None = None, event: str | None = None
) -> Any:
    return (1_700_000_000_123, level, "name", message, pairs, function, event)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(text: str) -> str:
    return text


def test_a_json_line_is_the_sdks_record_and_says_who() -> None:
    said = json.loads(as_json(record("reading", "value", 20.5, "topic", "a/b", function="door", event="b-1"), same))
    assert said.pop("datetime")[-4:] == ",123"
    assert said == {
        "level": "info",
        "message": "reading",
        "with": {"value": 20.5, "topic": "a/b"},
        "logger": "name",
        "function": "door",
        "event_id": "b-1",
    }


def test_the_processors_own_event_names_stand_at_the_top() -> None:
    assert json.loads(as_json(record("ready: 3 functions", "event", "ready"), same))["event"] == "ready"
    assert json.loads(as_json(record("x", "event", "mine", function="f"), same))["with"] == {"event": "mine"}


def test_a_text_line_has_time_level_who_message_and_pairs() -> None:
    line = as_text(record("reading", "value", 20.5, "name", "two words", "d", {"a": [1]}, level=30, event="b-1"), same)
    assert line[2] == line[5] == ":"
    assert line[8:] == '.123 warning name: reading value=20.5 name="two words" d={"a":[1]} (b-1)'


def test_a_longer_text_stands_indented_below_its_line() -> None:
    line = as_text(record("failed", "error", "Traceback:\n  x\n", "n", 1), same)
    assert line.split("\n")[1:] == ["    error:", "    Traceback:", "      x"] and "n=1" in line.split("\n")[0]


def test_a_terminal_does_not_obey_what_came_with_an_event() -> None:
    line = as_text(record("\x1b[2J\x07\r", "topic", "\x1b]0;title\x07", "b", b"\x1b"), same)
    assert not [c for c in line if not c.isprintable()] and "\\x1b" in line


@given(
    st.text(), st.lists(st.tuples(st.text(), st.recursive(st.none() | st.floats() | st.binary() | st.text(), st.lists)))
)
def test_no_value_breaks_a_line(message: str, pairs: list[tuple[str, Any]]) -> None:
    flat = [part for pair in pairs for part in pair]
    text = as_json(record(message, *flat), same)
    assert "\n" not in text
    json.loads(text.encode("utf-8", "backslashreplace"))
    assert as_text(record(message, *flat), same)


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError

    __repr__ = __str__


def test_a_value_that_cannot_show_itself_is_named() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (Hostile(), cycle, {(1, 2): Hostile()}, [Hostile()]):
        assert as_text(record("m", "v", value), same)
        assert json.loads(as_json(record("m", "v", value), same))["message"] == "m"


def test_records_are_json_lines_in_a_pipe_and_nothing_below_the_sinks_level(pipe: Pipe) -> None:
    log = Log(Console("warn", pipe.fd))
    logger = Logger("debug", "f", log.emit)
    logger.info("no")
    logger.warn_with("yes", k=1)
    assert [(said["message"], said["with"]) for said in pipe.lines()] == [("yes", {"k": 1})]


def test_each_sink_has_its_own_level(pipe: Pipe, tmp_path: Path) -> None:
    log = Log(Console("error", pipe.fd), File(str(tmp_path / "all.log"), "debug"))
    logger = Logger("debug", "f", log.emit)
    logger.debug("low")
    logger.error("high")
    log.close()
    assert [said["message"] for said in pipe.lines()] == ["high"]
    assert [one["message"] for one in read(tmp_path / "all.log")] == ["low", "high"]


def test_a_burst_is_one_write_at_the_end_of_the_turn(pipe: Pipe, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = []
    write = os.write

    def counted(fd: int, data: bytes) -> int:
        if fd == pipe.fd:
            writes.append(len(data))
        return write(fd, data)

    monkeypatch.setattr(os, "write", counted)
    log = Log(Console("info", pipe.fd))
    log.open(loop)
    logger = Logger("info", "f", log.emit)
    loop.call_soon(lambda: [logger.info(str(n)) for n in range(10)])
    loop.turn(0)
    assert len(writes) == 1 and [said["message"] for said in pipe.lines()] == [str(n) for n in range(10)]


def test_threads_records_are_written_by_the_loop(pipe: Pipe, loop: Loop) -> None:
    log = Log(Console("info", pipe.fd))
    log.open(loop)

    def work(name: str) -> None:
        logger = Logger("info", name, log.emit)
        for number in range(100):
            logger.info(str(number))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pipe.read() == b""
    lines: list[dict[str, Any]] = []

    def all_there() -> bool:
        loop.turn(10)
        lines.extend(pipe.lines())
        return len(lines) == 400

    wait_until(all_there, lambda: str(len(lines)))
    for name in "abcd":
        assert [said["message"] for said in lines if said["logger"] == name] == [str(number) for number in range(100)]


def test_a_pipe_that_nobody_reads_holds_nobody_up_and_what_was_dropped_is_counted(pipe: Pipe, loop: Loop) -> None:
    fcntl.fcntl(pipe.fd, fcntl.F_SETPIPE_SZ, 4096)
    console = Console("info", pipe.fd)
    log = Log(console)
    log.open(loop)
    logger = Logger("info", "f", log.emit)
    for number in range(5000):
        logger.info_with("number", n=number)
        if number % 100 == 0:
            loop.turn(0)  # were it to block, this test would end by its time limit
    assert console.dropped > 0
    lines: list[bytes] = []

    def read() -> bool:
        loop.turn(5)
        lines.append(pipe.read())
        return b"records dropped" in b"".join(lines)

    wait_until(read)
    loop.turn(0)
    lines.append(pipe.read())
    said = [json.loads(line) for line in b"".join(lines).splitlines()]
    numbers = [one["with"]["n"] for one in said if one["message"] == "number"]
    dropped = sum(one["with"]["count"] for one in said if one["message"] == "records dropped")
    assert numbers == sorted(numbers) and len(numbers) + dropped == 5000 and dropped == console.dropped
    log.close()


def test_a_reader_that_went_away_is_no_fault(pipe: Pipe, loop: Loop) -> None:
    log = Log(Console("info", pipe.fd))
    log.open(loop)
    os.close(pipe.end)
    logger = Logger("info", "f", log.emit)
    for _ in range(3):
        logger.info("nobody hears")
        loop.turn(0)
        loop.call_soon(lambda: None)
        loop.turn(0)
    assert log.counters()["dropped"] >= 1
    log.close()


def test_closing_writes_the_rest_within_its_limit(pipe: Pipe, loop: Loop) -> None:
    fcntl.fcntl(pipe.fd, fcntl.F_SETPIPE_SZ, 4096)
    log = Log(Console("info", pipe.fd))
    log.open(loop)
    logger = Logger("info", "f", log.emit)
    for _ in range(200):
        logger.info("x" * 100)
    got: list[bytes] = []
    done = threading.Event()

    def reader() -> None:
        while not done.is_set():
            got.append(pipe.read())
        got.append(pipe.read())

    thread = threading.Thread(target=reader)
    thread.start()
    log.close(20_000)
    log.close()
    done.set()
    thread.join()
    assert b"".join(got).count(b"\n") == 200


def test_a_record_longer_than_a_line_may_be_is_cut_and_says_so(pipe: Pipe) -> None:
    fcntl.fcntl(pipe.fd, fcntl.F_SETPIPE_SZ, 1 << 20)
    log = Log(Console("info", pipe.fd, text=True))
    Logger("info", "f", log.emit).info("x" * 100_000)
    line = pipe.read()
    assert len(line) < logs.MAX_LINE + 50 and b"bytes left out" in line and line.count(b"\n") == 1


@pytest.mark.parametrize(
    ("env", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_a_terminal_gets_text_in_colour_unless_told_otherwise(
    env: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for key, value in env.items():
        monkeypatch.setenv(key, value)
    end, fd = open_terminal()
    try:
        Logger("info", "f", Log(Console("info", fd)).emit).error("oh")
        line = os.read(end, 1000)
        assert b"error   f: oh" in line and (b"\x1b[31m" in line) is coloured
    finally:
        os.close(end)
        os.close(fd)


def test_a_secret_shows_as_stars_in_text_and_json(pipe: Pipe, tmp_path: Path) -> None:
    secret = 'hunter2 "\\ é\nsecond line'
    log = Log(Console("info", pipe.fd, text=True), File(str(tmp_path / "x.log")))
    log.mask(secret)
    log.mask(b"\xff\xfebytes")
    log.mask("abc")
    Logger("info", "f", log.emit).info_with(f"login {secret}", "password", secret, "n", {"deep": [secret]}, "s", "abc")
    log.close()
    text = pipe.read().decode() + (tmp_path / "x.log").read_text()
    assert "hunter2" not in text and "second line" not in text and text.count("***") == 6 and "abc" in text


def repr_beside_quotes(text: str) -> str:
    return repr(f'"{text}"')


@pytest.mark.parametrize(
    "secret", ["pa\\ssword1", "pass\tword1", "pass'word1", 'pass"word1', "pass\x7fwörd1", "pässwörd1€"]
)
@pytest.mark.parametrize("written", [repr, ascii, str.encode, json.dumps, repr_beside_quotes, KeyError])
def test_a_secret_shows_as_stars_as_python_and_json_write_it_too(
    pipe: Pipe, tmp_path: Path, secret: str, written: Callable[[str], object]
) -> None:
    log = Log(Console("info", pipe.fd, text=True), File(str(tmp_path / "x.log")))
    log.mask(secret)
    text = str(written(secret))
    Logger("info", "f", log.emit).info_with(text, "password", text, "n", {"deep": [text]})
    assert log.masked(text).replace("***", "").strip("b\\\"'") == ""
    log.close()
    shown = pipe.read().decode() + (tmp_path / "x.log").read_text()
    assert shown.count("***") == 6 and "word1" not in shown and "wörd1" not in shown and "rd1" not in shown


def test_a_plain_secret_is_looked_for_once() -> None:
    log = Log()
    log.mask("plain-secret")
    log.mask("plain-secret")
    assert log._secrets == [("plain-secret", "***")]


def test_a_file_turns_at_its_size_and_keeps_so_many(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "events.log"
    sink = File(str(path), "info", max_size=4096, keep=2)
    logger = Logger("info", "f", Log(sink).emit)
    for number in range(300):
        logger.info_with("number", n=number)
    assert sorted(os.listdir(path.parent)) == ["events.log", "events.log.1", "events.log.2"]
    assert all(os.path.getsize(path.parent / name) <= 4096 for name in os.listdir(path.parent))
    newest = [one["with"]["n"] for name in (".2", ".1", "") for one in read(path.parent / f"events.log{name}")]
    assert newest == list(range(newest[0], 300))
    sink.finish(None, 0)


def test_a_file_that_keeps_nothing_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    sink = File(str(path), max_size=4096, keep=0)
    logger = Logger("info", "f", Log(sink).emit)
    for number in range(200):
        logger.info_with("number", n=number)
    sink.finish(None, 0)
    assert os.listdir(tmp_path) == ["events.log"] and path.stat().st_size <= 4096


def test_a_file_goes_on_where_the_last_run_ended(tmp_path: Path) -> None:
    path = tmp_path / "events.log"
    for _ in range(2):
        log = Log(File(str(path)))
        Logger("info", "f", log.emit).info("once")
        log.close()
    assert len(read(path)) == 2


def test_a_file_that_cannot_be_written_costs_its_records_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    sink = File(str(tmp_path / "file" / "events.log"))
    logger = Logger("info", "f", Log(sink).emit)
    logger.info("lost")
    logger.info("lost")
    assert (sink.dropped, sink.written) == (2, 0)
    (tmp_path / "file").unlink()
    logger.info("kept")
    sink.finish(None, 0)
    said = read(tmp_path / "file" / "events.log")
    assert [one["message"] for one in said] == ["kept", "records dropped"] and said[1]["with"] == {"count": 2}


def test_a_sink_that_raises_does_not_raise_into_the_handler() -> None:
    class Broken:
        level = 0
        dropped = 0
        written = 0

        def put(self, record: Any, mask: Any) -> None:
            raise OSError

    log = Log(Broken())
    Logger("info", "f", log.emit).info("x")
    assert log.counters() == {"written": 0, "dropped": 1}


def test_a_loggers_flush_writes_what_is_queued(pipe: Pipe, loop: Loop) -> None:
    log = Log(Console("info", pipe.fd))
    log.open(loop)
    logger = Logger("info", "f", log.emit)
    logger.info("now")
    assert pipe.read() == b""
    logger.flush()
    assert len(pipe.lines()) == 1


def test_records_of_a_handler_carry_function_and_event(pipe: Pipe) -> None:
    log = Log(Console("info", pipe.fd))
    context = Context()
    context.function_name = "door"
    context.logger = FunctionLogger("info", "door", log.emit, context)
    context._event = Event(_id="b-7")
    context.logger.get_child("lock").info("turned")
    (said,) = pipe.lines()
    assert (said["function"], said["event_id"], said["logger"]) == ("door", "b-7", "door.lock")


def test_the_manifests_log_table_becomes_sinks(tmp_path: Path) -> None:
    class Table:
        level = "warn"
        sinks = (
            {"kind": "console"},
            {"kind": "file", "path": str(tmp_path / "x.log"), "level": "debug", "max_size": 5000, "keep": 0},
        )

    console, file = make_log(Table()).sinks
    assert (type(console), console.level, console.fd) == (Console, 30, 2)
    assert (file.level, file.max_size, file.keep) == (10, 5000, 0)


def test_without_sinks_there_is_the_console() -> None:
    class Table:
        level = "info"
        sinks = ()

    assert [type(sink) for sink in make_log(Table()).sinks] == [Console]
