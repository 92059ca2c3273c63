"""The CoAP source, message by message: what a peer that chooses every byte gets to see (RFC 7252)."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_codec import ACK, CON, EMPTY, NON, RST
from nuclio_edge.core.coap_compose import compose, uint
from nuclio_edge.sources import coap_peer
from nuclio_edge.sources.coap_formats import DELETE, FETCH, GET, IPATCH, PATCH, POST, PUT
from tests.coap_peer import MANIFEST, CoapPeer, function, number, said
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTS = """
seen = []
def handler(context, event):
    seen.append(event.body)
    return f"{event.method} {len(seen)}"
"""
TELLS = """
def handler(context, event):
    return {
        "method": event.method, "path": event.path, "fields": event.fields, "type": event.content_type,
        "headers": event.headers, "url": event.url, "host": event.url.host, "from": event.source_address,
        "body": str(event.body),
    }
"""
RETURNS = """
import json
def handler(context, event):
    how = event.get_field("how")
    if how == "raise": raise ValueError("as it was told")
    if how == "none": return None
    if how == "bytes": return b"raw"
    if how == "list": return [1, 2]
    return context.Response(**json.loads(how))
"""
WAITS = """
import threading
gate = threading.Event()
def handler(context, event):
    gate.wait(30)
    return "late"
"""


@pytest.fixture
def counting(tmp_path: Path) -> Iterator[CoapPeer]:
    with Rig(tmp_path, MANIFEST + function("f", "/f"), f=COUNTS) as rig, CoapPeer(rig) as peer:
        yield peer


def open_gate(rig: Rig, name: str = "slow") -> None:
    """Let the handlers that wait go on."""
    handler = rig.processor.functions[name].handler
    assert handler is not None
    handler.__globals__["gate"].set()


def test_a_con_is_answered_in_its_acknowledgement(counting: CoapPeer) -> None:
    request = coap.Message(counting.send(POST, "/f", b"x"))
    answer = counting.receive()
    assert said(answer) == ("ACK", "2.04", b"POST 1")
    assert (answer.message_id, answer.token) == (request.message_id, request.token)


def test_a_non_is_answered_by_a_non_with_an_id_of_its_own(counting: CoapPeer) -> None:
    one = counting.ask(GET, "/f", kind=NON, token=b"same")
    two = counting.ask(GET, "/f", kind=NON, token=b"same")
    assert [said(one), said(two)] == [("NON", "2.05", b"GET 1"), ("NON", "2.05", b"GET 2")]
    assert one.token == two.token == b"same"
    assert one.message_id != two.message_id


@pytest.mark.parametrize(
    ("method", "name", "code"),
    [(GET, "GET", "2.05"), (POST, "POST", "2.04"), (PUT, "PUT", "2.04"), (DELETE, "DELETE", "2.02"),
     (FETCH, "FETCH", "2.05"), (PATCH, "PATCH", "2.04"), (IPATCH, "iPATCH", "2.04")],
)  # fmt: skip
def test_every_method_reaches_the_handler_and_has_its_code(
    counting: CoapPeer, method: int, name: str, code: str
) -> None:
    assert said(counting.ask(method, "/f")) == ("ACK", code, f"{name} 1".encode())


def test_a_repeated_con_is_handled_once_and_answered_the_same(counting: CoapPeer) -> None:
    datagram = counting.send(POST, "/f", b"x")
    first = counting.receive()
    for _ in range(3):
        counting.raw(datagram)
        assert counting.receive().data == first.data
    assert counting.source.counts()["duplicates"] == 3
    assert counting.source.received == counting.source.routed == 1


def test_a_repeated_non_is_ignored(counting: CoapPeer) -> None:
    datagram = counting.send(POST, "/f", b"x", kind=NON)
    counting.receive()
    counting.raw(datagram)
    counting.nothing_comes()
    assert counting.source.received == 1


def test_the_same_id_of_another_peer_is_another_request(counting: CoapPeer) -> None:
    assert said(counting.ask(POST, "/f"))[2] == b"POST 1"
    with CoapPeer(counting.rig) as other:
        assert said(other.ask(POST, "/f"))[2] == b"POST 2"


def test_a_flood_of_one_peer_makes_only_its_own_exchanges_forgotten(counting: CoapPeer) -> None:
    with CoapPeer(counting.rig) as quiet:
        kept = quiet.send(POST, "/f", b"quiet")
        answer = quiet.receive()
        first = counting.send(POST, "/f")
        counting.receive()
        for _ in range(2 * coap_peer.EACH):
            counting.ask(POST, "/f")
        before = counting.source.received
        counting.raw(first)
        counting.receive("the answer to a request that was forgotten")
        assert counting.source.received == before + 1
        assert counting.source.counts()["exchanges_forgotten"] > 0
        quiet.raw(kept)
        assert quiet.receive().data == answer.data
        assert counting.source.received == before + 1


def test_all_peers_together_are_bounded(counting: CoapPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_peer.PEERS", 8)
    for _ in range(40):
        with CoapPeer(counting.rig) as peer:
            peer.ask(POST, "/f")
    peers = counting.source.intake.endpoints[0].peers
    assert len(peers) <= 16
    assert peers.forgotten >= 24
    assert peers.exchanges <= 16


def test_a_slow_handler_is_acknowledged_first_and_answers_by_a_con_until_that_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_answer.ACK_DELAY_MS", 10)
    monkeypatch.setattr("nuclio_edge.sources.coap_send.ACK_TIMEOUT_MS", 20)
    tables = MANIFEST + function("slow", "/slow", isolation="thread")
    with Rig(tmp_path, tables, slow=WAITS) as rig, CoapPeer(rig) as peer:
        request = peer.send(GET, "/slow", token=b"tok")
        ack = peer.receive()
        assert (said(ack), ack.data[2:4]) == (("ACK", "0.00", b""), request[2:4])
        peer.raw(request)  # the ACK was lost
        assert peer.receive().data == ack.data
        open_gate(rig)
        first, again = peer.receive(), peer.receive()
        assert said(first) == ("CON", "2.05", b"late")
        assert first.data == again.data
        assert first.token == b"tok"
        assert not peer.source.sent()
        peer.answer(first, ACK)
        rig.until(peer.source.sent)
        peer.nothing_comes()
        assert peer.source.counts()["retransmitted"] >= 1
        assert rig.balanced()


def test_a_repetition_is_acknowledged_at_once_while_the_handler_is_busy(tmp_path: Path) -> None:
    tables = MANIFEST + function("slow", "/slow", isolation="thread")
    with Rig(tmp_path, tables, slow=WAITS) as rig, CoapPeer(rig) as peer:
        request = peer.send(GET, "/slow")
        rig.until(lambda: peer.source.received == 1)
        peer.raw(request)
        assert said(peer.receive()) == ("ACK", "0.00", b"")
        open_gate(rig)
        answer = peer.receive()
        assert said(answer) == ("CON", "2.05", b"late")
        peer.answer(answer, RST)
        rig.until(peer.source.sent)
        assert peer.source.received == 1


def test_a_separate_response_that_nobody_acknowledges_is_given_up_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_answer.ACK_DELAY_MS", 1)
    monkeypatch.setattr("nuclio_edge.sources.coap_send.ACK_TIMEOUT_MS", 2)
    tables = MANIFEST + function("slow", "/slow", isolation="thread")
    with Rig(tmp_path, tables, slow=WAITS) as rig, CoapPeer(rig) as peer:
        peer.ask(GET, "/slow")
        open_gate(rig)
        rig.until(lambda: peer.source.counts()["unacknowledged"] == 1)
        assert len({peer.receive().data for _ in range(5)}) == 1  # once, and MAX_RETRANSMIT times
        assert peer.source.sent()


def test_an_event_tells_what_the_request_said(tmp_path: Path) -> None:
    with Rig(tmp_path, MANIFEST + function("f", "/a/*"), f=TELLS) as rig, CoapPeer(rig) as peer:
        options = [
            (coap.URI_HOST, b"door.local"), (coap.CONTENT_FORMAT, uint(50)), (coap.ACCEPT, uint(50)),
            (coap.URI_QUERY, b"t=query"), (coap.URI_QUERY, b"flag"), (coap.IF_MATCH, b"\x01\x02"), (65000, b"\xff"),
        ]  # fmt: skip
        answer = peer.ask(PUT, "/a/b c/d", b'{"t":"body","u":2}', options=options)
        assert said(answer)[:2] == ("ACK", "2.04")
        assert number(answer, coap.CONTENT_FORMAT) == 50
        import json

        told = json.loads(answer.payload)
        assert told["method"] == "PUT"
        assert told["path"] == "/a/b c/d"
        assert told["fields"] == {"t": "query", "u": 2, "flag": ""}
        assert told["type"] == "application/json"
        assert told["headers"] == {
            "Uri-Host": "door.local", "Content-Format": 50, "Content-Type": "application/json",
            "Accept": "application/json", "If-Match": "0102", "65000": "ff",
        }  # fmt: skip
        assert told["url"] == "coap://door.local/a/b%20c/d?t=query&flag"
        assert told["host"] == "door.local"
        assert told["from"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("how", "answer", "content_format"),
    [
        ("none", ("ACK", "2.04", b""), None),
        ("bytes", ("ACK", "2.04", b"raw"), 0),
        ("list", ("ACK", "2.04", b"[1,2]"), 50),
        ('{"status_code": 201, "headers": {"Location": "/new/1"}}', ("ACK", "2.01", b""), None),
        ('{"status_code": 404, "body": "no such door"}', ("ACK", "4.04", b"no such door"), None),
        ('{"status_code": 409, "body": {"a": 1}}', ("ACK", "4.09", b'{"a":1}'), 50),
        ('{"status_code": 418}', ("ACK", "4.00", b""), None),
        ('{"body": "x", "content_type": "application/senml+cbor"}', ("ACK", "2.04", b"x"), 112),
        ('{"body": "x", "content_type": "Text/Plain; charset=utf-8"}', ("ACK", "2.04", b"x"), 0),
        ('{"body": "x", "content_type": "video/mp4"}', ("ACK", "2.04", b"x"), None),
        ("raise", ("ACK", "5.00", b"Exception caught in handler - ValueError: as it was told"), None),
    ],
)
def test_what_a_handler_returns_is_the_response(
    tmp_path: Path, how: str, answer: tuple[str, str, bytes], content_format: int | None
) -> None:
    with Rig(tmp_path, MANIFEST + function("f", "/f"), f=RETURNS) as rig, CoapPeer(rig) as peer:
        for _ in range(2):  # the second from the cache of heads
            got = peer.ask(POST, "/f", options=[(coap.URI_QUERY, b"how=" + how.encode())])
            assert said(got) == answer
            assert number(got, coap.CONTENT_FORMAT) == content_format
        if "Location" in how:
            assert [v for n, v in got.options if n == coap.LOCATION_PATH] == [b"new", b"1"]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ((GET, "/nowhere"), "4.04"),
        ((DELETE, "/only"), "4.05"),
        ((9, "/f"), "4.05"),
        ((GET, "/f", b"", (9, b"")), "4.02"),  # OSCORE is critical
        ((GET, "/f", b"", (coap.ACCEPT, b"\x00\x00\x32")), "4.02"),  # of a length that it cannot have
        ((GET, "/f", b"", (coap.PROXY_URI, b"coap://elsewhere/")), "5.05"),
        ((GET, "/f", b"", (coap.PROXY_SCHEME, b"http")), "5.05"),
        ((POST, "/f", b"", (coap.CONTENT_FORMAT, uint(9999))), "4.15"),
        ((GET, "/f", b"", (coap.ACCEPT, uint(9999))), "4.06"),
        ((GET, "/f", b"", (coap.ACCEPT, uint(50))), "4.06"),  # the handler answers text
        ((GET, "/f", b"", (coap.URI_PATH, b"\xff\xfe")), "4.00"),
        ((GET, "/f", b"", (coap.URI_PATH, b"..")), "4.00"),
        ((GET, "/f", b"", (coap.BLOCK2, b"\x07")), "4.00"),
    ],
)
def test_what_cannot_be_answered_has_its_code(tmp_path: Path, request_: tuple[object, ...], code: str) -> None:
    tables = MANIFEST + function("f", "/f") + function("only", "/only", trigger='method = ["GET", "PUT"]')
    with Rig(tmp_path, tables, f=COUNTS, only=COUNTS) as rig, CoapPeer(rig) as peer:
        answer = peer.ask(*request_[:3], options=request_[3:])
        assert said(answer)[:2] == ("ACK", code)
        assert answer.payload, "a text for people"
        assert rig.balanced()
        source = peer.source
        assert source.received == source.routed + source.unrouted + sum(source.rejected.values()) == 1


def test_an_unknown_elective_option_is_ignored(counting: CoapPeer) -> None:
    assert said(counting.ask(GET, "/f", options=[(65000, b"x")])) == ("ACK", "2.05", b"GET 1")


def test_a_non_with_an_unknown_critical_option_gets_no_answer(counting: CoapPeer) -> None:
    counting.send(GET, "/f", kind=NON, options=[(9, b"")])
    counting.nothing_comes()
    assert counting.source.rejected == {"bad-option": 1}


def test_a_ping_is_reset(counting: CoapPeer) -> None:
    counting.raw(compose(CON, EMPTY, 77))
    answer = counting.receive()
    assert (said(answer), answer.message_id) == (("RST", "0.00", b""), 77)


@pytest.mark.parametrize("rest", [b"\xf0", b"\xb5ab", b"\xff", b"\xb1f\xff"])
def test_a_broken_con_is_reset_and_a_broken_non_ignored(counting: CoapPeer, rest: bytes) -> None:
    counting.raw(b"\x50\x01\x00\x08" + rest)
    counting.raw(b"\x40\x01\x00\x07" + rest)
    answer = counting.receive()
    assert (said(answer)[0], answer.message_id) == ("RST", 7)
    counting.nothing_comes()
    assert counting.source.rejected == {"malformed": 2}


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x40",
        b"\x00\x01\x00\x01",
        b"\xc0\x01\x00\x01",
        b"\x60\x45\x00\x01",
        b"\x70\x00\x00\x01",
        b"\x50\x45\x00\x01",
    ],
)
def test_what_is_no_request_gets_no_answer(counting: CoapPeer, datagram: bytes) -> None:
    counting.raw(datagram)
    counting.nothing_comes()
    assert counting.source.received == 0
    assert counting.source.counts()["ignored"] == 1


def test_a_datagram_that_is_too_long_is_refused_with_the_advice_to_use_blocks(counting: CoapPeer) -> None:
    answer = counting.ask(POST, "/f", b"x" * 4096)
    assert said(answer)[:2] == ("ACK", "4.13")
    assert counting.source.rejected == {"too-big": 1}


def test_the_most_specific_path_alone_counts(tmp_path: Path) -> None:
    tables = (
        MANIFEST
        + function("all", "/*")
        + function("below", "/a/*")
        + function("exact", "/a/b", trigger='method = "GET"')
    )
    handlers = {name: f"def handler(context, event): return {name!r}" for name in ("all", "below", "exact")}
    with Rig(tmp_path, tables, **handlers) as rig, CoapPeer(rig) as peer:
        for path, name in (("/a/b", b"exact"), ("/a/c", b"below"), ("/a/c/d", b"below"), ("/a", b"all"), ("", b"all")):
            assert said(peer.ask(GET, path)) == ("ACK", "2.05", name), path
        assert said(peer.ask(PUT, "/a/b"))[1] == "4.05"


def test_a_full_inbox_answers_5_03_with_max_age(tmp_path: Path) -> None:
    tables = MANIFEST + function("slow", "/slow", trigger="inbox = { size = 1 }", isolation="thread")
    with Rig(tmp_path, tables, slow=WAITS) as rig, CoapPeer(rig) as peer:
        peer.send(GET, "/slow")
        rig.until(lambda: peer.source.received == 1)
        answer = peer.ask(GET, "/slow")
        assert said(answer)[:2] == ("ACK", "5.03")
        assert (number(answer, coap.MAX_AGE) or 0) >= 1
        open_gate(rig)
        assert said(peer.receive())[2] == b"late"
        assert rig.trigger("slow").shed == {"reject": 1}
        assert rig.balanced()


def test_a_handler_past_its_timeout_answers_5_04(tmp_path: Path) -> None:
    tables = MANIFEST + function("slow", "/slow", 'timeout = "50ms"', isolation="thread")
    with Rig(tmp_path, tables, slow=WAITS) as rig, CoapPeer(rig) as peer:
        assert said(peer.ask(GET, "/slow"))[:2] == ("ACK", "5.04")
        open_gate(rig)


def test_who_wants_no_response_gets_none(counting: CoapPeer) -> None:
    no_success = [(coap.NO_RESPONSE, b"\x02")]
    assert said(counting.ask(POST, "/f", options=no_success)) == ("ACK", "0.00", b"")
    counting.send(POST, "/f", kind=NON, options=no_success)
    counting.nothing_comes()
    assert counting.source.routed == 2
    assert said(counting.ask(GET, "/nowhere", options=no_success))[1] == "4.04"


def test_a_reply_comes_from_the_address_that_was_asked(tmp_path: Path) -> None:
    for listen, hosts in (("0.0.0.0", ("127.0.0.1", "127.0.0.2")), ("[::]", ("::1", "127.0.0.2", "127.0.0.1"))):
        tables = MANIFEST.replace("127.0.0.1", listen) + function("f", "/f")
        with Rig(tmp_path, tables, f=COUNTS) as rig:
            for host in hosts:
                with CoapPeer(rig, host) as peer:  # connected: it hears nobody else
                    assert said(peer.ask(GET, "/f"))[1] == "2.05", host


def test_several_addresses_are_one_source(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        probe.bind(("::1", 0))
        port = probe.getsockname()[1]
    tables = MANIFEST.replace('"127.0.0.1:0"', f'["127.0.0.1:{port}", "[::1]:{port}"]') + function("f", "/f")
    with Rig(tmp_path, tables, f=COUNTS) as rig, CoapPeer(rig) as four, CoapPeer(rig, "::1") as six:
        assert said(four.ask(GET, "/f"))[2] == b"GET 1"
        assert said(six.ask(GET, "/f"))[2] == b"GET 2"


def test_a_port_that_somebody_has_is_tried_again_and_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap.FIRST_PAUSE_MS", 5)
    monkeypatch.setattr("nuclio_edge.sources.coap.LONGEST_PAUSE_MS", 10)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        rig = Rig(tmp_path, MANIFEST.replace(":0", f":{port}") + function("f", "/f"), f=COUNTS)
        source = rig.processor.sources["lan"]
        rig.until(lambda: source.attempts >= 3)
        assert source.state == "connecting"
    with rig:
        rig.until(lambda: source.state == "open")
        assert rig.records.text().count("cannot listen") == 1
        with CoapPeer(rig) as peer:
            assert said(peer.ask(GET, "/f"))[1] == "2.05"


def test_requests_after_the_stop_are_told_so_and_replies_still_go_out(tmp_path: Path) -> None:
    tables = MANIFEST + function("slow", "/slow", isolation="thread")
    with Rig(tmp_path, tables, slow=WAITS) as rig, CoapPeer(rig) as peer:
        peer.send(GET, "/slow")
        rig.until(lambda: peer.source.received == 1)
        peer.source.stop_receiving()
        assert said(peer.ask(GET, "/slow"))[1] == "5.03"
        open_gate(rig)
        assert said(peer.receive())[2] == b"late"
        assert peer.source.rejected == {"stopping": 1}


def test_a_multicast_request_is_answered_with_content_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_answer.LEISURE_MS", 5)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tables = MANIFEST.replace(":0", f":{port}") + 'multicast = ["224.0.1.187%127.0.0.1"]\n' + function("f", "/f")
    with Rig(tmp_path, tables, f=COUNTS) as rig, CoapPeer(rig) as peer:
        if peer.source.state != "open":
            pytest.skip("the loopback of this machine takes part in no multicast group")
        world = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        world.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        world.setblocking(False)
        peer._socket.close()
        peer._socket = world
        came = peer.source.intake

        def send(kind: int, *path: bytes, code: int = GET) -> None:
            datagram = compose(kind, code, len(path) + code, b"t", [(coap.URI_PATH, part) for part in path])
            world.sendto(datagram, ("224.0.1.187", port))

        send(NON, b".well-known", b"core")
        assert said(peer.receive()) == ("NON", "2.05", b'</f>;rt="f";obs')
        send(NON, b"nowhere")  # an error is kept to oneself
        send(CON, b"f", b"x", b"y")  # a multicast request is never a CON
        rig.until(lambda: came.unrouted == 1 and came.ignored == 1)
        peer.nothing_comes()


def test_nothing_wakes_the_loop_when_nobody_asks(counting: CoapPeer) -> None:
    counting.ask(GET, "/f")
    loop = counting.rig.processor.loop
    assert not [timer for _, _, timer in loop._timers if timer.call is not None]


def test_the_new_version_of_a_function_takes_over(counting: CoapPeer) -> None:
    rig = counting.rig
    assert said(counting.ask(GET, "/f"))[2] == b"GET 1"
    (rig.folder / "f.py").write_text("def handler(context, event): return 'new'")
    done: list[object] = []
    rig.processor.replace(rig.processor.manifest.functions["f"], lambda: done.append(1))
    rig.until(lambda: done)
    assert said(counting.ask(GET, "/f"))[2] == b"new"
