"""Replies of one wake-up: sent together where the kernel can cut them apart, and never other than one by one."""

from __future__ import annotations

import errno
from sys import byteorder
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.coap_codec import Message
from nuclio_edge.sources import coap_listen
from nuclio_edge.sources.coap_formats import POST
from tests.coap_peer import MANIFEST, CoapPeer, function
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNTS = """
seen = []
def handler(context, event):
    seen.append(event.body)
    return f"{len(seen)}"
"""


class Watched:
    """A source's socket, with what it was asked to do; `refuses` is an errno for whoever wants datagrams cut."""

    def __init__(self, endpoint: Any) -> None:
        self._real = endpoint._socket
        self.did: list[str] = []
        self.refuses = 0
        endpoint._socket = self
        endpoint.sendto = self.sendto

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def recvfrom(self, size: int) -> Any:
        got = self._real.recvfrom(size)
        self.did.append("in")
        return got

    def sendto(self, data: bytes, address: Any) -> int:
        self.did.append("out")
        return int(self._real.sendto(data, address))

    def sendmsg(self, parts: Any, control: Any, flags: int, address: Any) -> int:
        if self.refuses:
            raise OSError(self.refuses, "as it was told")
        size = int.from_bytes(control[0][2], byteorder)
        self.did.append(f"out {len(parts[0]) // size}")
        return int(self._real.sendmsg(parts, control, flags, address))


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with Rig(tmp_path, MANIFEST + function("f", "/f"), f=COUNTS) as rig:
        yield rig


def watch(peer: CoapPeer) -> Watched:
    """The socket of the source, once it knows the peer."""
    endpoint = peer.source.intake.endpoints[0]
    if not endpoint._can_segment:
        pytest.skip("this kernel has no UDP_SEGMENT (it came with 4.18)")
    return Watched(endpoint)


def ask(peer: CoapPeer, count: int) -> list[tuple[int, bytes, bytes]]:
    """So many requests that wait together; their answers as they came: (message id, token, payload)."""
    for _ in range(count):
        peer.send(POST, "/f", b"x", token=b"token")
    return [(answer.message_id, answer.token, answer.payload) for answer in (peer.receive() for _ in range(count))]


def test_each_request_gets_its_own_reply_in_order_with_fewer_system_calls(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coap_listen, "PATIENCE_NS", 1 << 60)
    with CoapPeer(rig) as peer:
        socket = watch(peer)
        answers = ask(peer, 30)
    assert answers == [(number, b"token", b"%d" % number) for number in range(1, 31)]
    # The first waits for nobody; the last ones go when there is nothing more to be read.
    assert [what for what in socket.did if what != "in"] == ["out", "out 8", "out 8", "out 8", "out 5"]


def test_only_replies_of_one_length_go_together_and_all_in_order(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_listen, "PATIENCE_NS", 1 << 60)
    with CoapPeer(rig) as peer:
        socket = watch(peer)
        ask(peer, 6)
        socket.did.clear()
        answers = ask(peer, 6)  # the 7th to the 12th: the second group has one digit, then two
    assert [payload for _, _, payload in answers] == [b"%d" % number for number in range(7, 13)]
    assert [what for what in socket.did if what != "in"] == ["out", "out 2", "out 3"]


def test_a_lone_request_is_answered_before_anything_else_is_looked_at(rig: Rig) -> None:
    with CoapPeer(rig) as peer:
        socket = watch(peer)
        ask(peer, 1)
        assert socket.did[:2] == ["in", "out"]


def test_replies_to_several_peers_go_each_to_its_own(rig: Rig) -> None:
    with CoapPeer(rig) as one, CoapPeer(rig) as other:
        for _ in range(5):
            one.send(POST, "/f", token=b"one")
            other.send(POST, "/f", token=b"two")
        for peer, token in ((one, b"one"), (other, b"two")):
            assert [(got.message_id, got.token) for got in (peer.receive() for _ in range(5))] == [
                (number, token) for number in range(1, 6)
            ]


def test_a_repetition_in_the_same_wake_up_gets_the_same_reply_and_is_not_handled(rig: Rig) -> None:
    with CoapPeer(rig) as peer:
        watch(peer)
        peer.send(POST, "/f")
        again = peer.send(POST, "/f")
        peer.raw(again)
        came = [peer.receive() for _ in range(3)]
    assert [answer.payload for answer in came] == [b"1", b"2", b"2"]
    assert came[1].data == came[2].data


@pytest.mark.parametrize("refusal", [errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ECONNREFUSED, errno.ENOBUFS])
def test_where_the_system_will_not_cut_they_go_one_by_one(rig: Rig, refusal: int) -> None:
    with CoapPeer(rig) as peer:
        socket = watch(peer)
        socket.refuses = refusal
        assert [payload for _, _, payload in ask(peer, 9)] == [b"%d" % number for number in range(1, 10)]
        assert socket.did.count("out") == 9
        assert peer.source.counts()["unsent"] == 0


def test_a_kernel_that_cannot_cut_is_never_given_several_at_once(rig: Rig) -> None:
    with CoapPeer(rig) as peer:
        socket = watch(peer)
        peer.source.intake.endpoints[0]._can_segment = False
        ask(peer, 9)
        assert [what for what in socket.did if what != "in"] == ["out"] * 9


def test_a_reply_does_not_wait_for_handlers_that_take_their_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_listen, "PATIENCE_NS", -1)
    with CoapPeer(rig) as peer:
        socket = watch(peer)
        ask(peer, 5)
    assert socket.did == ["in", "out"] * 5


def test_every_datagram_that_goes_out_with_others_is_a_whole_message(rig: Rig) -> None:
    with CoapPeer(rig) as peer:
        watch(peer)
        ask(peer, 40)
        assert all(type(message) is Message and message.payload for message in peer.came)
