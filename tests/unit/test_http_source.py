"""The HTTP source in a processor, by clients that send what they like."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., Rig]

MANIFEST = """
[source.api]
kind = "http"
listen = "127.0.0.1:0"
{params}

[function.f]
handler = "f.py"
isolation = "{isolation}"
{function}

[[function.f.trigger]]
path = "/*"
{trigger}
"""
ECHO = """
def handler(context, event):
    return event.raw_body or event.path
"""
GET = b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n"


class Wire:
    """A client by the bytes."""

    def __init__(self, rig: Rig, address: str = "") -> None:
        self.rig = rig
        address = address or rig.processor.sources["api"].addresses()[0]
        if address.startswith("/"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(address)
        else:
            host, _, port = address.rpartition(":")
            self.socket = socket.create_connection((host.strip("[]"), int(port)))
        self.socket.setblocking(False)
        self.came = b""
        self.ended = False

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> Wire:
        self.socket.setblocking(True)
        self.socket.sendall(data)
        self.socket.setblocking(False)
        return self

    def read(self) -> bytes:
        try:
            while not self.ended:
                data = self.socket.recv(1 << 20)
                self.came += data
                self.ended = not data
        except BlockingIOError:
            pass
        except ConnectionError:
            self.ended = True
        return self.came

    def until(self, condition: Callable[[bytes], Any]) -> bytes:
        self.rig.until(lambda: condition(self.read()) or self.ended, f"an answer, there is {self.came[:300]!r}")
        assert condition(self.came), self.came
        return self.came

    def answers(self, count: int) -> list[tuple[int, bytes]]:
        """Wait for that many whole answers: (status, body) each."""
        self.until(lambda came: len(parsed(came)) >= count)
        return [(status, body) for status, _, body in parsed(self.came)]

    def closed(self) -> bytes:
        self.rig.until(lambda: self.read() is not None and self.ended, "the connection to end")
        return self.came


def parsed(came: bytes) -> list[tuple[int, dict[str, str], bytes]]:
    """The whole answers at the beginning of some bytes."""
    found: list[tuple[int, dict[str, str], bytes]] = []
    while b"\r\n\r\n" in came:
        head, _, rest = came.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        status = int(lines[0].split()[1])
        if status == 100:
            came = rest
            continue
        if fields.get("transfer-encoding") == "chunked":
            body = b""
            while True:
                size, separator, rest = rest.partition(b"\r\n")
                if not separator or len(rest) < int(size, 16) + 2:
                    return found
                body += rest[: int(size, 16)]
                rest = rest[int(size, 16) + 2 :]
                if size == b"0":
                    break
        else:
            length = int(fields.get("content-length", "0"))
            if len(rest) < length:
                return found
            body, rest = rest[:length], rest[length:]
        found.append((status, fields, body))
        came = rest
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def make(code: str = ECHO, isolation: str = "inline", **parts: str) -> Rig:
        filled = MANIFEST.format(isolation=isolation, **{"params": "", "function": "", "trigger": "", **parts})
        rigs.append(Rig(tmp_path, filled, f=code))
        rigs[-1].until(lambda: rigs[-1].processor.sources["api"].state == "open")
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.__exit__()
        assert not rig.processor.tally().wrong


def source(rig: Rig) -> Any:
    return rig.processor.sources["api"]


@pytest.mark.parametrize("isolation", ["inline", "thread", "process"])
def test_requests_that_come_together_are_answered_in_their_order(start: Start, isolation: str) -> None:
    rig = start(isolation=isolation)
    with Wire(rig) as wire:
        wire.send(b"".join(GET % b"/%d" % number for number in range(100)))
        assert wire.answers(100) == [(200, b"/%d" % number) for number in range(100)]
    assert source(rig).received == 100


def test_answers_of_several_workers_keep_the_order_of_the_requests(start: Start) -> None:
    code = """
import time
def handler(context, event):
    if event.path == "/slow":
        time.sleep(0.1)
    return event.path
"""
    rig = start(code, "thread", function="workers = 4")
    with Wire(rig) as wire:
        wire.send(b"".join(GET % path for path in (b"/slow", b"/a", b"/b", b"/c")))
        assert [body for _, body in wire.answers(4)] == [b"/slow", b"/a", b"/b", b"/c"]


def test_no_more_than_sixteen_requests_of_a_connection_are_in_flight(start: Start) -> None:
    code = """
import threading
go = threading.Event()
def handler(context, event):
    go.wait(30)
    return event.path
"""
    rig = start(code, "thread")
    with Wire(rig) as wire:
        wire.send(b"".join(GET % b"/%d" % number for number in range(50)))
        rig.until(lambda: source(rig).received >= 16)
        rig.turn_for(50)
        assert source(rig).received == 16
        rig.processor.functions["f"].handler.__globals__["go"].set()
        assert len(wire.answers(50)) == 50


def test_a_client_that_does_not_read_stops_being_read_and_is_cut_off_in_the_end(start: Start) -> None:
    code = "def handler(context, event): return bytes(1 << 20)"
    rig = start(code, params='write_timeout = "100ms"')
    with Wire(rig) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.send(GET % b"/" * 200)
        rig.until(lambda: source(rig).server.counters.get("stalled"), "the connection to be given up")
        assert source(rig).received < 200
        assert not source(rig).server.connections


def test_bodies_come_whole_in_both_codings_and_may_be_asked_for(start: Start) -> None:
    rig = start()
    with Wire(rig) as wire:
        for piece in (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Le", b"ngth: 6\r\n\r\nabc", b"def"):
            wire.send(piece)
            rig.turn_for(5)
        assert wire.answers(1)[-1] == (200, b"abcdef")
        wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        rig.turn_for(5)
        wire.send(b"2\r\nde\r\n0\r\n\r\n")
        assert wire.answers(2)[-1] == (200, b"abcde")
        wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        wire.until(lambda came: came.endswith(b"HTTP/1.1 100 Continue\r\n\r\n"))
        wire.send(b"xyz")
        assert wire.answers(3)[-1] == (200, b"xyz")


def test_a_body_that_would_be_refused_is_not_asked_for(start: Start) -> None:
    rig = start(params='max_body = "1KiB"', trigger='method = "PUT"')
    for head, status in (
        (b"PUT / HTTP/1.1\r\nContent-Length: 2000\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\n", 405),
    ):
        with Wire(rig) as wire:
            wire.send(head + b"Host: h\r\nExpect: 100-continue\r\n\r\n")
            assert b"100 Continue" not in wire.closed()
            assert wire.answers(1)[0][0] == status
    assert (source(rig).rejected, source(rig).unrouted) == ({"too-big": 1}, 1)


def test_a_refusal_reaches_a_client_that_is_still_sending(start: Start) -> None:
    rig = start(params='max_body = "1KiB"')
    with Wire(rig) as wire:
        wire.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000))
        assert wire.answers(1)[0][0] == 413
        for _ in range(3):
            rig.turn_for(20)
            wire.send(bytes(10_000))  # raises if the connection was reset
        rig.until(lambda: wire.read() and wire.ended)
        wire.socket.close()
        rig.until(lambda: not source(rig).server.connections)


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        (b"", "header_timeout"),
        (b"GET / HTTP/1.1\r\nHo", "header_timeout"),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nab", "body_timeout"),
    ],
)
def test_a_request_that_does_not_come_is_not_waited_for(start: Start, sent: bytes, limit: str) -> None:
    rig = start(params=f'{limit} = "100ms"')
    with Wire(rig) as wire:
        wire.send(sent)
        assert wire.closed().startswith(b"HTTP/1.1 408 ")
    assert source(rig).rejected == {"too-slow": 1}


def test_an_idle_connection_is_closed_and_one_timer_serves_all(start: Start) -> None:
    rig = start(params='idle_timeout = "100ms"')
    with Wire(rig) as one, Wire(rig) as two:
        for wire in (one, two):
            wire.send(GET % b"/")
            wire.answers(1)
        timers = [timer for _, _, timer in rig.processor.loop._timers if timer.call is not None]
        assert len(timers) == 1
        assert len(parsed(one.closed())) == 1
        assert len(parsed(two.closed())) == 1


def test_idle_connections_make_room_for_new_ones_and_busy_ones_do_not(start: Start) -> None:
    code = """
import threading
go = threading.Event()
def handler(context, event):
    if event.path == "/wait":
        go.wait(30)
    return event.path
"""
    rig = start(code, "thread", params="max_connections = 2", function="workers = 4")
    with Wire(rig) as one, Wire(rig) as two, Wire(rig) as three, Wire(rig) as four:
        one.send(GET % b"/a").answers(1)
        two.send(GET % b"/wait")
        rig.until(lambda: source(rig).received == 2)
        three.send(GET % b"/wait")
        rig.until(lambda: source(rig).server.counters.get("turned away"), "one to be turned away")
        rig.processor.functions["f"].handler.__globals__["go"].set()
        four.closed()
    assert "too many connections" in rig.records.text()


def test_connections_that_never_say_anything_make_room_for_new_ones(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.sources.http_connection.SILENT_MS", 20)
    rig = start(params="max_connections = 2")
    with Wire(rig), Wire(rig):
        rig.until(lambda: len(source(rig).server.connections) == 2)
        rig.turn_for(50)
        with Wire(rig) as asks:
            asks.send(GET % b"/a").answers(1)
        assert source(rig).server.counters["evicted"] >= 1


def test_a_full_inbox_answers_503_with_retry_after(start: Start) -> None:
    code = """
import threading
go = threading.Event()
def handler(context, event):
    go.wait(30)
"""
    rig = start(code, "thread", trigger="inbox = { size = 1 }")
    with Wire(rig) as wire:
        wire.send(GET % b"/" * 2)
        rig.until(lambda: rig.trigger("f").shed.get("reject"))
        rig.processor.functions["f"].handler.__globals__["go"].set()
        assert [status for status, _ in wire.answers(2)] == [200, 503]
        assert parsed(wire.came)[1][1]["retry-after"] == "1"


def test_statuses_and_values_are_those_of_the_table(start: Start) -> None:
    code = """
import time, nuclio_sdk
def handler(context, event):
    if event.path == "/teapot": raise nuclio_sdk.ExceptionWithResponse(418, "short and stout")
    if event.path == "/slow": time.sleep(5)
    return {
        "/none": None, "/dict": {"a": 1}, "/list": [1, 2], "/tuple": (201, "made"), "/bytes": b"raw", "/int": 7,
        "/headers": context.Response(headers={"X-A": 1, "x-b": True, "Content-Length": 9, "Connection": "x"}, body="b"),
        "/bad": context.Response(headers={"X A": "1"}), "/type": context.Response(content_type="a\\r\\nb: c"),
        "/early": context.Response(status_code=103), "/gone": context.Response(status_code=204, body="no"),
        "/unready": (503, "not yet"),
    }[event.path]
"""
    rig = start(code, "thread", function='timeout = "300ms"')
    wanted = {
        b"/none": (200, b""), b"/dict": (200, b'{"a":1}'), b"/list": (200, b"[1,2]"), b"/tuple": (201, b"made"),
        b"/bytes": (200, b"raw"), b"/int": (200, b"7"), b"/headers": (200, b"b"), b"/teapot": (418, b"short and stout"),
        b"/gone": (204, b""), b"/unready": (503, b"not yet"),
    }  # fmt: skip
    with Wire(rig) as wire:
        for number, (path, (status, body)) in enumerate(wanted.items()):
            assert wire.send(GET % path).answers(number + 1)[-1] == (status, body), path
        kinds = [fields.get("content-type") for _, fields, _ in parsed(wire.came)]
        assert kinds[:4] == [None, "application/json", "application/json", "text/plain"]
        headers = parsed(wire.came)[6][1]
        assert (headers["x-a"], headers["x-b"], headers["content-length"]) == ("1", "true", "1")
        assert "connection" not in headers
        for path in (b"/bad", b"/type", b"/early", b"/key"):
            with Wire(rig) as other:
                assert other.send(GET % path).answers(1)[0][0] == 500, path
        with Wire(rig) as other:
            assert other.send(GET % b"/slow").answers(1)[0][0] == 408


def test_head_and_options_and_health_are_answered(start: Start) -> None:
    rig = start(trigger='method = ["GET", "POST"]')
    ask = {
        b"HEAD /x": (200, {"content-length": "2", "content-type": "text/plain"}),
        b"OPTIONS /x": (204, {"allow": "GET, HEAD, POST, OPTIONS"}),
        b"OPTIONS *": (204, {"allow": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"}),
        b"DELETE /x": (405, {"allow": "GET, HEAD, POST, OPTIONS"}),
        b"GET /__internal/health": (200, {"content-length": "0"}),
    }
    for line, (status, fields) in ask.items():
        with Wire(rig) as wire:
            wire.send(line + b" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            found = re.match(rb"HTTP/1.1 (\d+)", wire.closed())
            assert found is not None
            assert int(found[1]) == status
            head = wire.came.decode().lower()
            assert all(f"{name}: {value.lower()}\r\n" in head for name, value in fields.items()), (line, wire.came)
            assert line[:4] != b"HEAD" or wire.came.endswith(b"\r\n\r\n")
    assert (source(rig).received, source(rig).unrouted) == (2, 1)


def test_an_old_client_is_answered_in_its_own_way(start: Start) -> None:
    code = """
def handler(context, event):
    return (part for part in ("a", "b")) if event.path == "/parts" else "whole"
"""
    rig = start(code, "thread")
    with Wire(rig) as wire:
        wire.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert wire.answers(1) == [(200, b"whole")]
        assert parsed(wire.came)[0][1]["connection"] == "keep-alive"
        wire.send(b"GET /parts HTTP/1.0\r\n\r\n")
        assert wire.closed().endswith(b"Connection: close\r\n\r\nab")


def test_a_client_that_ends_its_side_still_gets_its_answers(start: Start) -> None:
    rig = start(isolation="thread")
    with Wire(rig) as wire:
        wire.send(GET % b"/a" + GET % b"/b")
        wire.socket.shutdown(socket.SHUT_WR)
        assert [body for _, _, body in parsed(wire.closed())] == [b"/a", b"/b"]


def test_an_event_tells_all_of_its_request(start: Start) -> None:
    code = """
def handler(context, event):
    event.trigger
    url = event.url
    return {
        "method": event.method, "path": event.path, "url": url,
        "parts": [url.scheme, url.host, url.port, url.path, url.query],
        "fields": event.fields, "header": event.get_header("x-one"), "cookie": event.headers["Cookie"],
        "many": event.headers["Accept"], "from": event.source_address, "kind": event.trigger.kind, "size": event.size,
        "type": event.content_type, "body": event.body, "topic": event.topic, "identity": event.source_identity,
    }
"""
    for isolation in ("thread", "process"):
        rig = start(code, isolation)
        body = b'{"a": 1, "b": 2}'
        with Wire(rig) as wire:
            wire.send(
                b"POST /r%%C3%%A4ume/1?b=3&c=x%%20y+z HTTP/1.1\r\nHost: [::1]:80\r\nX-One: 1\r\nCookie: a=b\r\n"
                b"Cookie: c=d\r\nAccept: a\r\naccept: b\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            said = json.loads(wire.answers(1)[0][1])
            name = "{}:{}".format(*wire.socket.getsockname())
        assert said == {
            "method": "POST", "path": "/räume/1", "url": "http://[::1]:80/r%C3%A4ume/1?b=3&c=x%20y+z",
            "parts": ["http", "::1", 80, "/r%C3%A4ume/1", "b=3&c=x%20y+z"], "fields": {"a": 1, "b": "3", "c": "x y z"},
            "header": "1", "cookie": "a=b; c=d", "many": "a, b", "from": name, "kind": "http", "size": 16,
            "type": "application/json", "body": {"a": 1, "b": 2}, "topic": "", "identity": "",
        }  # fmt: skip
        rig.processor.stop()
        rig.until(rig.stopped)


@pytest.mark.parametrize("isolation", ["inline", "thread", "async"])
def test_an_answer_in_parts_is_sent_as_they_come(start: Start, isolation: str) -> None:
    code = """
import threading
go = threading.Event()
{kind} handler(context, event):
    {kind} parts():
        yield context.Response(status_code=201, body="first ", headers={{"X-A": "b"}}, content_type="text/css")
        while not go.is_set() and event.path == "/wait":
            {pause}
        yield b"second "
        yield {{"third": 3}}
        if event.path == "/break":
            raise ValueError("broken off")
    return parts()
"""
    pause = {"async": "await asyncio.sleep(0.01)", "thread": "go.wait(0.01)", "inline": 'yield ""'}[isolation]
    text = code.format(kind="async def" if isolation == "async" else "def", pause=pause)
    rig = start("import asyncio\n" + text, "thread" if isolation == "async" else isolation)
    with Wire(rig) as wire:
        wire.send(GET % b"/wait")
        wire.until(lambda came: came.endswith(b"6\r\nfirst \r\n"))
        rig.processor.functions["f"].handler.__globals__["go"].set()
        assert wire.answers(1) == [(201, b'first second {"third":3}')]
        assert parsed(wire.came)[0][1]["content-type"] == "text/css"
        assert parsed(wire.came)[0][1]["x-a"] == "b"
        wire.send(GET % b"/again" + b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" + GET % b"/last")
        wire.until(lambda came: came.count(b'{"third":3}') == 3)
        assert wire.came.count(b"HTTP/1.1 201 Created") == 4
        wire.send(GET % b"/break")
        assert not wire.closed().endswith(b"0\r\n\r\n")
    rig.until(lambda: "broken off" in rig.records.text())
    if isolation != "inline":
        rig.until(lambda: rig.trigger("f").failed == 1)


def test_a_generator_waits_for_a_slow_client_and_ends_with_it(start: Start) -> None:
    code = """
sent = []
def handler(context, event):
    def parts():
        try:
            while True:
                sent.append(1)
                yield bytes(10_000)
        finally:
            sent.append("ended")
    return context.Response(body=parts())
"""
    rig = start(code, "thread")
    with Wire(rig) as wire:
        wire.send(GET % b"/")
        sent: list[Any] = []
        rig.until(lambda: rig.processor.functions["f"].handler is not None)
        sent = rig.processor.functions["f"].handler.__globals__["sent"]
        rig.until(lambda: len(sent) > 10)
        count = 0
        while count != len(sent):
            count = len(sent)
            rig.turn_for(100)
        assert count < 2000, "it does not wait for the client"
        wire.until(lambda came: len(came) > 1_000_000)
        rig.until(lambda: len(sent) > count, "it to go on")
    rig.until(lambda: sent[-1] == "ended", "the generator to be closed when the client has gone")
    rig.until(lambda: rig.trigger("f").pending == 0)


def test_the_timeout_of_a_function_ends_an_answer_in_parts(start: Start) -> None:
    code = """
import time
def handler(context, event):
    yield "first"
    for _ in range(1000):
        time.sleep(0.01)
    yield "never"
"""
    rig = start(code, "thread", function='timeout = "200ms"')
    with Wire(rig) as wire:
        wire.send(GET % b"/")
        assert b"never" not in wire.closed()
        assert wire.came.endswith(b"first\r\n")
    assert rig.trigger("f").failed == 1
    rig.until(lambda: not rig.processor.functions["f"].runner.lost, "its thread to end")


def test_the_records_of_a_request_come_back_when_it_asks(start: Start) -> None:
    code = """
def handler(context, event):
    context.logger.debug_with("seen", "value", 1)
    context.logger.info("%s", "x" * 500 if event.path == "/long" else "plain")
    if event.path == "/long":
        for number in range(100):
            context.logger.warn_with("more", "text", "y" * 100)
    print("printed")
"""
    rig = start(code, "thread")
    ask = b"GET %b HTTP/1.1\r\nHost: h\r\nX-Nuclio-Log-Level: %b\r\n\r\n"
    with Wire(rig) as wire:
        wire.send(ask % (b"/", b"debug") + ask % (b"/", b"info") + GET % b"/" + ask % (b"/long", b"debug"))
        wire.answers(4)
        logs = [fields.get("x-nuclio-logs") for _, fields, _ in parsed(wire.came)]
    first = json.loads(logs[0] or "")
    assert [(one["level"], one["message"]) for one in first] == [
        ("debug", "seen"),
        ("info", "plain"),
        ("info", "printed"),
    ]
    assert first[0]["value"] == 1
    assert [one["message"] for one in json.loads(logs[1] or "")] == ["plain", "printed"]
    assert logs[2] is None
    assert len(logs[3] or "") <= 4096
    assert re.fullmatch(r"\d+ more records left out", json.loads(logs[3] or "")[-1]["message"])
    assert "seen" not in [record[3] for record in rig.records.records], "the processor's own level is info"


def test_an_address_in_use_is_tried_again_and_said_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = MANIFEST.format(params="", isolation="inline", function="", trigger="").replace(":0", f":{port}")
        rig = Rig(tmp_path, text, f=ECHO)
        rig.until(lambda: source(rig).attempts >= 2)
        assert source(rig).state == "connecting"
        assert rig.records.text().count("cannot listen") == 1
    with rig:
        rig.until(lambda: source(rig).state == "open")
        with Wire(rig) as wire:
            assert wire.send(GET % b"/x").answers(1) == [(200, b"/x")]


def test_an_address_that_comes_late_takes_none_of_the_earlier_ones_away_from_the_stop(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        late = taken.getsockname()[1]
        text = MANIFEST.format(params="", isolation="inline", function="", trigger="")
        text = text.replace('"127.0.0.1:0"', f'["127.0.0.1:0", "127.0.0.1:{late}"]')
        with Rig(tmp_path, text, f=ECHO) as rig:
            assert len(source(rig).addresses()) == 1
            taken.close()
            rig.until(lambda: len(source(rig).addresses()) == 2)
            first = int(source(rig).addresses()[0].rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", first), timeout=5)


def test_a_unix_socket_has_its_mode_replaces_a_stale_one_and_is_gone_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # closed without unlink: as a killed process leaves it
    text = MANIFEST.format(params='socket_mode = "0600"', isolation="inline", function="", trigger="")
    code = "def handler(context, event): return event.source_address"
    with Rig(tmp_path, text.replace("127.0.0.1:0", f"unix:{path}"), f=code) as rig:
        rig.until(lambda: source(rig).state == "open")
        assert path.stat().st_mode & 0o777 == 0o600
        with Wire(rig, str(path)) as wire:
            assert wire.send(GET % b"/").answers(1) == [(200, f"pid={os.getpid()},uid={os.getuid()}".encode())]
    assert not path.exists()


def test_a_unix_socket_in_use_and_a_file_that_is_none_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    text = MANIFEST.format(params="", isolation="inline", function="", trigger="").replace(
        "127.0.0.1:0", f"unix:{path}"
    )
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with Rig(tmp_path, text, f=ECHO) as rig:
            assert source(rig).state == "connecting"
        assert path.is_socket()
    path.unlink()
    path.write_text("precious")
    with Rig(tmp_path, text, f=ECHO) as rig:
        assert source(rig).state == "connecting"
    assert path.read_text() == "precious"


def test_both_families_are_served_by_one_wildcard(start: Start) -> None:
    rig = start()
    rig.processor.stop()
    rig.until(lambda: not rig.processor.sources)
    text = MANIFEST.format(params="", isolation="inline", function="", trigger="").replace("127.0.0.1:0", "[::]:0")
    with Rig(rig.folder, text, f="def handler(context, event): return event.source_address") as both:
        both.until(lambda: source(both).state == "open")
        port = source(both).addresses()[0].rpartition(":")[2]
        for host, shown in (("127.0.0.1", b"127.0.0.1:"), ("[::1]", b"[::1]:")):
            with Wire(both, f"{host}:{port}") as wire:
                assert wire.send(GET % b"/").answers(1)[0][1].startswith(shown)


def test_a_stop_answers_what_is_in_flight_and_says_that_it_was_the_last(start: Start) -> None:
    code = """
import threading
go = threading.Event()
def handler(context, event):
    go.wait(30)
    return "done"
"""
    rig = start(code, "thread")
    with Wire(rig) as idle, Wire(rig) as busy:
        busy.send(GET % b"/")
        rig.until(lambda: source(rig).received == 1 and len(source(rig).server.connections) == 2)
        go = rig.processor.functions["f"].handler.__globals__["go"]
        rig.processor.stop()
        idle.closed()
        threading.Timer(0.05, go.set).start()
        rig.until(lambda: not rig.processor.sources)
        assert parsed(busy.closed())[0][1]["connection"] == "close"
        assert rig.processor.exit_code == 0
