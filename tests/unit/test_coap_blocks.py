"""Bodies in blocks (RFC 7959), both ways, block by block; and their bounds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_codec import NON
from nuclio_edge.core.coap_compose import pack_block
from nuclio_edge.sources.coap_blocks import LIFETIME_MS, UPLOADS, Blocks
from nuclio_edge.sources.coap_formats import FETCH, GET, POST, PUT
from tests.coap_peer import MANIFEST, CoapPeer, function, number, said
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nuclio_edge.core.coap_codec import Message

MIRRORS = """
calls = []
def handler(context, event):
    calls.append(event.method)
    if event.method == "GET":
        return bytes(number % 251 for number in range(3000))
    return event.raw_body
"""
WHOLE = bytes(number % 251 for number in range(3000))


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[CoapPeer]:
    manifest = MANIFEST + 'max_body = "8KiB"\n' + function("f", "/f")
    with Rig(tmp_path, manifest, f=MIRRORS) as rig, CoapPeer(rig) as made:
        yield made
        assert rig.balanced()


def calls(peer: CoapPeer) -> int:
    handler = peer.rig.processor.functions["f"].handler
    return len(handler.__globals__["calls"]) if handler is not None else 0


def block1(peer: CoapPeer, at: int, more: bool, body: bytes, size: int = 1024, kind: int = 0) -> Message:
    return peer.ask(PUT, "/f", body, options=[(coap.BLOCK1, pack_block(at, more, size))], kind=kind)


def block_of(message: Message, option: int) -> tuple[int, bool, int] | None:
    value = message.option(option)
    return None if value is None else coap.block(value)


def test_a_request_in_blocks_is_one_event(peer: CoapPeer) -> None:
    for at in range(3):
        answer = block1(peer, at, True, bytes([at]) * 16, 16)
        assert said(answer) == ("ACK", "2.31", b"")
        assert block_of(answer, coap.BLOCK1) == (at, True, 16)
        assert peer.source.received == 0
    answer = block1(peer, 3, False, b"end", 16)
    assert said(answer) == ("ACK", "2.04", b"\0" * 16 + b"\1" * 16 + b"\2" * 16 + b"end")
    assert block_of(answer, coap.BLOCK1) == (3, False, 16)
    assert peer.source.received == peer.source.routed == 1
    assert peer.source.blocks.held == 0


def test_a_block_that_is_repeated_is_taken_once(peer: CoapPeer) -> None:
    datagram = peer.send(PUT, "/f", b"a" * 16, options=[(coap.BLOCK1, pack_block(0, True, 16))])
    first = peer.receive()
    peer.raw(datagram)
    assert peer.receive().data == first.data
    assert said(block1(peer, 1, False, b"b", 16))[2] == b"a" * 16 + b"b"


def test_a_missing_block_is_told(peer: CoapPeer) -> None:
    block1(peer, 0, True, b"a" * 16, 16)
    assert said(block1(peer, 2, True, b"c" * 16, 16))[1] == "4.08"
    assert said(block1(peer, 1, False, b"b", 16))[1] == "2.04"  # what was there is still there
    assert said(block1(peer, 1, False, b"b", 16))[1] == "4.08"
    assert peer.source.rejected == {"incomplete": 2}


def test_a_body_above_max_body_is_refused_when_it_is_reached(peer: CoapPeer) -> None:
    for at in range(8):
        assert said(block1(peer, at, True, b"x" * 1024))[1] == "2.31"
    answer = block1(peer, 8, True, b"x" * 1024)
    assert said(answer)[1] == "4.13"
    assert block_of(answer, coap.BLOCK1) is not None
    assert peer.source.blocks.held == 0
    assert calls(peer) == 0


def begin(peer: CoapPeer, at: int, size: int = 16) -> str:
    """Begin to upload one more body: the code of the answer."""
    block = [(coap.BLOCK1, pack_block(0, True, size)), (coap.URI_QUERY, b"%d" % at)]
    return said(peer.ask(PUT, "/f", b"x" * size, options=block))[1]


def go_on(peer: CoapPeer, at: int, block_number: int, more: bool = True, size: int = 16) -> str:
    block = [(coap.BLOCK1, pack_block(block_number, more, size)), (coap.URI_QUERY, b"%d" % at)]
    return said(peer.ask(PUT, "/f", b"x" * size, options=block))[1]


def test_uploads_are_bounded_in_number_and_time(peer: CoapPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_blocks.UPLOADS", 4)
    monkeypatch.setattr("nuclio_edge.sources.coap_blocks.LIFETIME_MS", 50)
    monkeypatch.setattr("nuclio_edge.sources.coap_blocks.LIVELY_MS", 0)
    monkeypatch.setattr("nuclio_edge.sources.coap_blocks._LOOK_MS", 10)
    for at in range(6):
        assert begin(peer, at) == "2.31"
    assert len(peer.source.blocks._uploads) == 4
    peer.rig.until(lambda: not peer.source.blocks._uploads)
    assert peer.source.counts()["uploads_unfinished"] == 6
    assert peer.source.blocks.held == 0
    peer.rig.until(lambda: peer.source.blocks._timer is None)


def test_an_upload_that_may_go_on_is_not_given_up_for_one_that_begins(
    peer: CoapPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_blocks.UPLOADS", 4)
    assert [begin(peer, at) for at in range(6)] == ["2.31"] * 4 + ["5.03"] * 2
    assert [go_on(peer, at, 1, False) for at in range(4)] == ["2.04"] * 4
    assert begin(peer, 5) == "2.31"
    assert go_on(peer, 5, 1, False) == "2.04"
    assert peer.source.rejected == {"full": 2}
    assert peer.source.counts()["uploads_unfinished"] == 0
    assert peer.source.blocks.held == 0


def test_the_upload_that_stood_still_longest_makes_room(peer: CoapPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_blocks.UPLOADS", 2)
    monkeypatch.setattr("nuclio_edge.sources.coap_blocks.LIVELY_MS", 0)
    assert [begin(peer, 0), begin(peer, 1), go_on(peer, 0, 1), begin(peer, 2)] == ["2.31"] * 4
    assert go_on(peer, 1, 1) == "4.08"
    assert go_on(peer, 0, 2, False) == "2.04"


def test_bodies_on_their_way_never_take_more_memory_than_their_share(peer: CoapPeer) -> None:
    """The one that was begun last has to go for the other, which so comes to its end."""
    blocks = peer.source.blocks
    blocks._most = 10 << 10
    peer.ask(GET, "/f")
    assert blocks.held == 3000
    codes = [begin(peer, at, 1024) for at in range(2)]
    for each in range(1, 8):
        codes += [go_on(peer, at, each, more=each < 7, size=1024) for at in range(2)]
        assert blocks.held <= blocks._most
    assert codes == ["2.31"] * 11 + ["4.08", "2.31", "4.08", "2.04", "4.08"]
    assert peer.source.counts()["replies_dropped"] == 1
    assert peer.source.counts()["uploads_unfinished"] == 1
    assert peer.source.rejected == {"incomplete": 3}


def test_one_that_has_to_go_for_those_before_it_is_told_to_come_again(peer: CoapPeer) -> None:
    blocks = peer.source.blocks
    blocks._most = 4 << 10
    assert [begin(peer, 0, 1024), begin(peer, 1, 1024), go_on(peer, 0, 1, size=1024)] == ["2.31"] * 3
    assert [go_on(peer, 1, 1, size=1024), go_on(peer, 1, 2, size=1024)] == ["2.31", "5.03"]
    assert peer.source.counts()["uploads_unfinished"] == 1
    assert blocks.held == 2 << 10


def blocks_of(most: int = 1 << 20) -> tuple[Any, Blocks]:
    loop: Any = SimpleNamespace(now=0, call_later=lambda *_: SimpleNamespace(cancel=lambda: None))
    return loop, Blocks(loop, most)


def add(blocks: Blocks, host: str, asked: bytes, at: int = 0, size: int = 16) -> str:
    """Send one more block: the text of the refusal, "" if there is none."""
    peer: Any = SimpleNamespace(address=(host, 5683))
    plan: Any = SimpleNamespace(code=PUT, asked=asked, block1=(at, True, size))
    return (blocks.add(peer, plan, bytes(size))[1] or (0, ""))[1]


def test_one_host_does_not_keep_others_out_however_many_bodies_it_begins() -> None:
    loop, blocks = blocks_of()
    for step in range(60):
        loop.now = step * 20_000
        for each in range(UPLOADS):
            add(blocks, "greedy", b"%d" % each)
        assert add(blocks, "modest", b"%d" % step) == ""
        assert add(blocks, "modest", b"%d" % step, 1) == ""
        assert len(blocks._uploads) <= UPLOADS


def test_a_body_that_takes_for_ever_makes_room_at_last() -> None:
    loop, blocks = blocks_of()
    refused = 0
    for at in range(LIFETIME_MS // 20_000 + 1):
        loop.now = at * 20_000
        blocks._most = 1 << 20
        assert add(blocks, "slow", b"x", at, 1024) == ""
        blocks._most = blocks.held
        refused += add(blocks, "other", b"y", 0, 1024) == "too many bodies are on their way in"
    loop.now = LIFETIME_MS
    assert refused == LIFETIME_MS // 20_000 + 1
    assert add(blocks, "other", b"y", 0, 1024) == ""
    assert blocks.unfinished == 1


def test_what_does_not_bring_an_upload_on_does_not_hide_that_it_stands_still() -> None:
    loop, blocks = blocks_of()
    for each in range(UPLOADS - 1):
        add(blocks, f"old{each}", b"x")
    loop.now = 15_000
    add(blocks, "lively", b"x")
    loop.now = 30_000
    for each in range(UPLOADS - 1):
        assert add(blocks, f"old{each}", b"x", 7) == "blocks are missing before this one"
    assert add(blocks, "new", b"x") == ""


def test_a_body_that_is_refused_costs_no_reply(peer: CoapPeer) -> None:
    blocks = peer.source.blocks
    peer.ask(GET, "/f")
    blocks._most = 8 << 10
    assert begin(peer, 0, 1024) == "2.31"
    for each in range(1, 8):
        assert go_on(peer, 0, each, size=1024) == "2.31"
    assert (len(blocks._renderings), blocks.held) == (0, 8 << 10)
    blocks._most = 11 << 10
    peer.ask(GET, "/f", options=[(coap.URI_QUERY, b"other")])
    assert len(blocks._renderings) == 1
    blocks._most = 8 << 10
    assert begin(peer, 1, 1024) == "5.03"
    assert len(blocks._renderings) == 1


def test_two_peers_upload_to_one_path_at_a_time(peer: CoapPeer) -> None:
    with CoapPeer(peer.rig) as other:
        block1(peer, 0, True, b"a" * 16, 16)
        block1(other, 0, True, b"b" * 16, 16)
        assert said(block1(peer, 1, False, b"A", 16))[2] == b"a" * 16 + b"A"
        assert said(block1(other, 1, False, b"B", 16))[2] == b"b" * 16 + b"B"


def fetch(peer: CoapPeer, size: int = 0, kind: int = 0) -> tuple[bytes, set[bytes | None], int]:
    """Fetch /f block by block: the body, the ETags that came with it, and how many blocks it was."""
    body, etags, at = b"", set(), 0
    while True:
        wanted = [(coap.BLOCK2, pack_block(at, False, size or 1024))] if at or size else []
        answer = peer.ask(GET, "/f", options=wanted, kind=kind)
        assert said(answer)[1] == "2.05"
        got = block_of(answer, coap.BLOCK2)
        assert got is not None
        assert got[0] == at
        body += answer.payload
        etags.add(answer.option(coap.ETAG))
        at += 1
        if not got[1]:
            return body, etags, at


@pytest.mark.parametrize("kind", [0, NON])
@pytest.mark.parametrize(("size", "blocks"), [(0, 3), (1024, 3), (256, 12), (16, 188)])
def test_a_long_reply_is_fetched_in_blocks_of_the_size_that_the_peer_wants(
    peer: CoapPeer, size: int, blocks: int, kind: int
) -> None:
    assert fetch(peer, size, kind) == (WHOLE, {next(iter(fetch(peer, size, kind)[1]))}, blocks)
    assert calls(peer) == 2  # once a fetch


def test_the_first_block_says_how_long_it_all_is(peer: CoapPeer) -> None:
    assert number(peer.ask(GET, "/f"), coap.SIZE2) == 3000


def test_a_peer_may_change_to_smaller_blocks_on_the_way(peer: CoapPeer) -> None:
    first = peer.ask(GET, "/f")
    rest = b""
    for at in range(1024 // 64, -(-3000 // 64)):
        rest += peer.ask(GET, "/f", options=[(coap.BLOCK2, pack_block(at, False, 64))]).payload
    assert first.payload + rest == WHOLE
    assert calls(peer) == 1


def test_a_block_that_is_not_kept_any_more_is_made_again(peer: CoapPeer) -> None:
    peer.ask(GET, "/f")
    peer.source.blocks._renderings.clear()
    answer = peer.ask(GET, "/f", options=[(coap.BLOCK2, pack_block(2, False, 1024))])
    assert answer.payload == WHOLE[2048:]
    assert calls(peer) == 2


def test_a_block_behind_the_end_is_no_block(peer: CoapPeer) -> None:
    assert said(peer.ask(GET, "/f", options=[(coap.BLOCK2, pack_block(3, False, 1024))]))[1] == "4.00"
    peer.ask(GET, "/f")
    assert said(peer.ask(GET, "/f", options=[(coap.BLOCK2, pack_block(3, False, 1024))]))[1] == "4.00"


def test_the_tag_of_what_the_peer_has_saves_sending_it(peer: CoapPeer) -> None:
    tag = peer.ask(GET, "/f").option(coap.ETAG)
    assert tag is not None
    answer = peer.ask(GET, "/f", options=[(coap.ETAG, b"other"), (coap.ETAG, tag)])
    assert (said(answer), answer.option(coap.ETAG)) == (("ACK", "2.03", b""), tag)


def test_a_request_and_its_reply_may_both_be_long(peer: CoapPeer) -> None:
    for at in range(2):
        block = [(coap.BLOCK1, pack_block(at, True, 1024))]
        assert said(peer.ask(POST, "/f", WHOLE[at * 1024 : at * 1024 + 1024], options=block))[1] == "2.31"
    answer = peer.ask(POST, "/f", WHOLE[2048:], options=[(coap.BLOCK1, pack_block(2, False, 1024))])
    assert block_of(answer, coap.BLOCK1) == (2, False, 1024)
    assert block_of(answer, coap.BLOCK2) == (0, True, 1024)
    body = answer.payload
    for at in (1, 2):
        body += peer.ask(POST, "/f", options=[(coap.BLOCK2, pack_block(at, False, 1024))]).payload
    assert body == WHOLE
    assert calls(peer) == 1


def test_a_fetch_is_answered_in_blocks_too(peer: CoapPeer) -> None:
    answer = peer.ask(FETCH, "/f", WHOLE[:100], options=[(coap.BLOCK2, pack_block(0, False, 64))])
    assert said(answer)[1:] == ("2.05", WHOLE[:64])
    rest = peer.ask(FETCH, "/f", options=[(coap.BLOCK2, pack_block(1, False, 64))])
    assert said(rest)[1:] == ("2.05", WHOLE[64:100])


def test_replies_that_are_kept_are_bounded(peer: CoapPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_blocks.RENDERINGS", 4)
    for at in range(6):
        peer.ask(GET, "/f", options=[(coap.URI_QUERY, b"%d" % at)])
    assert len(peer.source.blocks._renderings) == 4
    assert peer.source.counts()["replies_dropped"] == 2
    assert peer.source.blocks.held == 4 * 3000


def test_bodies_in_blocks_take_memory_of_the_common_budget(tmp_path: Path) -> None:
    manifest = MANIFEST + 'max_body = "8KiB"\n' + function("f", "/f")
    with Rig(tmp_path, manifest, f=MIRRORS) as rig, CoapPeer(rig) as peer:
        budget = rig.processor.budget
        size = pack_block(0, True, 1024)
        peer.ask(POST, "f", bytes(1024), options=[(coap.BLOCK1, size)])
        assert budget.used == 1024
        peer.ask(GET, "f")
        assert budget.used == 1024 + 3000  # the reply is kept for who asks on
        rig.processor.sources["lan"].close()
        assert budget.used == 0
