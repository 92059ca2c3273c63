"""Observe (RFC 7641) and discovery (RFC 6690), message by message."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_codec import ACK, NON, RST
from nuclio_edge.core.coap_compose import pack_block, uint
from nuclio_edge.sources.coap_formats import GET, POST, PUT
from tests.coap_peer import MANIFEST, CoapPeer, function, number, said
from tests.rig import MEMORY, Rig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from nuclio_edge.core.coap_codec import Message

LAMP = """
state = {"on": b"off"}
calls = []
def handler(context, event):
    calls.append(event.method)
    if event.method == "GET":
        return state["on"]
    if event.raw_body == b"refuse":
        return context.Response(status_code=400)
    state["on"] = event.raw_body
"""
MEASURES = """
def handler(context, event):
    if event.path == "/binding":
        context.bindings["lan"].publish("/value", {"t": int(event.body)})
        return None
    if event.path == "/notify":
        context.bindings["lan"].notify("/lamp")
        return None
    return {"t": int(event.body)}
"""
REGISTER, CANCEL = [(coap.OBSERVE, b"")], [(coap.OBSERVE, b"\x01")]


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[CoapPeer]:
    manifest = MANIFEST + "max_observers = 3\n" + MEMORY + function("lamp", "/lamp", 'description = "A \\"lamp\\""')
    manifest += '[function.m]\nhandler = "m.py"\n'
    for path in ("/measure", "/binding", "/notify"):
        manifest += f'[[function.m.trigger]]\nsource = "mem"\npath = "{path}"\n'
    manifest += '[[function.m.output]]\nto = "lan"\npath = "/value"\n'
    with Rig(tmp_path, manifest, lamp=LAMP, m=MEASURES) as rig, CoapPeer(rig) as made:
        yield made
        assert rig.balanced()


def sequence(message: Message) -> int:
    value = number(message, coap.OBSERVE)
    assert value is not None, f"no notification: {said(message)}"
    return value


numbers = itertools.count(1000, 10)


def switch(peer: CoapPeer, value: bytes) -> None:
    with CoapPeer(peer.rig) as other:
        # The kernel gives a port of a moment ago away again, once in fifty of these tests: the same message id from the
        # same address would be the same request, which is answered and not handled (RFC 7252, 4.5).
        other._id = next(numbers)
        assert said(other.ask(PUT, "/lamp", value))[1] == "2.04"


def test_who_observes_a_function_is_told_when_another_method_on_its_path_succeeds(peer: CoapPeer) -> None:
    first = peer.ask(GET, "/lamp", token=b"o", options=REGISTER)
    assert said(first) == ("ACK", "2.05", b"off")
    last = sequence(first)
    for value in (b"on", b"dim"):
        switch(peer, value)
        told = peer.receive()
        assert (said(told), told.token) == (("NON", "2.05", value), b"o")
        assert sequence(told) > last
        last = sequence(told)
    with CoapPeer(peer.rig) as other:
        other.ask(PUT, "/lamp", b"refuse")
    peer.nothing_comes()


def test_many_who_ask_the_same_cost_one_call(peer: CoapPeer) -> None:
    with CoapPeer(peer.rig) as other:
        for one in (peer, other):
            one.ask(GET, "/lamp", options=REGISTER)
        handler = peer.rig.processor.functions["lamp"].handler
        assert handler is not None
        handler.__globals__["calls"].clear()
        switch(peer, b"on")
        assert said(peer.receive())[2] == said(other.receive())[2] == b"on"
        assert handler.__globals__["calls"] == ["PUT", "GET"]


def test_a_handler_can_say_that_a_resource_has_changed(peer: CoapPeer) -> None:
    peer.ask(GET, "/lamp", options=REGISTER)
    peer.rig.ask("/notify")
    assert said(peer.receive()) == ("NON", "2.05", b"off")


def test_what_a_function_returns_is_published_by_an_output(peer: CoapPeer) -> None:
    assert said(peer.ask(GET, "/value"))[1] == "4.04"
    peer.rig.ask("/measure", b"20")
    first = peer.ask(GET, "/value", options=REGISTER)
    assert said(first) == ("ACK", "2.05", b'{"t":20}')
    assert number(first, coap.CONTENT_FORMAT) == 50
    peer.rig.ask("/measure", b"21")
    told = peer.receive()
    assert said(told) == ("NON", "2.05", b'{"t":21}')
    assert sequence(told) > sequence(first)
    peer.rig.ask("/binding", b"22")
    assert said(peer.receive())[2] == b'{"t":22}'
    assert said(peer.ask(PUT, "/value"))[1] == "4.05"
    assert said(peer.ask(GET, "/value", options=[(coap.ACCEPT, uint(60))]))[1] == "4.06"


def test_a_cancelled_observation_is_over(peer: CoapPeer) -> None:
    peer.ask(GET, "/lamp", token=b"o", options=REGISTER)
    answer = peer.ask(GET, "/lamp", token=b"o", options=CANCEL)
    assert said(answer)[1] == "2.05"
    assert answer.option(coap.OBSERVE) is None
    switch(peer, b"on")
    peer.nothing_comes()
    assert not len(peer.source.observers)


def test_a_reset_of_a_notification_ends_it(peer: CoapPeer) -> None:
    peer.ask(GET, "/lamp", token=b"o", options=REGISTER)
    switch(peer, b"on")
    peer.answer(peer.receive(), RST)
    peer.rig.until(lambda: not len(peer.source.observers))
    switch(peer, b"off")
    peer.nothing_comes()


def test_every_sixteenth_notification_wants_an_acknowledgement(peer: CoapPeer) -> None:
    peer.ask(GET, "/lamp", options=REGISTER)
    kinds = []
    for at in range(33):
        switch(peer, b"%d" % at)
        told = peer.receive()
        kinds.append(said(told)[0])
        if kinds[-1] == "CON":
            peer.answer(told, ACK)
            peer.rig.until(peer.source.sent)
    assert [at + 1 for at, kind in enumerate(kinds) if kind == "CON"] == [16, 32]


def test_who_acknowledges_nothing_is_forgotten_and_gets_only_the_newest_meanwhile(
    peer: CoapPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nuclio_edge.sources.coap_observe.CON_EVERY", 1)
    monkeypatch.setattr("nuclio_edge.sources.coap_send.ACK_TIMEOUT_MS", 50)
    peer.ask(GET, "/lamp", options=REGISTER)
    for at in range(5):
        switch(peer, b"%d" % at)
    peer.rig.until(lambda: not len(peer.source.observers))
    told = [said(peer.receive()) for _ in range(5)]
    assert {kind for kind, _, _ in told} == {"CON"}
    assert [body for _, _, body in told] == sorted(body for _, _, body in told)  # never an older one again
    assert (told[0][2], told[-1][2]) == (b"0", b"4")


def test_observers_are_bounded_and_a_further_one_is_answered_plainly(peer: CoapPeer) -> None:
    for at in range(5):
        answer = peer.ask(GET, "/lamp", token=b"%d" % at, options=REGISTER)
        assert said(answer)[1] == "2.05"
        assert (answer.option(coap.OBSERVE) is not None) == (at < 3)
    assert peer.source.counts()["observers_refused"] == 2


def test_an_error_ends_the_observation(peer: CoapPeer) -> None:
    peer.ask(GET, "/lamp", options=REGISTER)
    peer.source.routes([])
    told = peer.receive()
    assert said(told)[:2] == ("CON", "4.04")
    assert told.option(coap.OBSERVE) is None
    peer.answer(told, ACK)
    peer.rig.until(peer.source.sent)
    assert not len(peer.source.observers)


def test_a_post_is_not_observed(peer: CoapPeer) -> None:
    assert peer.ask(POST, "/lamp", b"x", options=REGISTER).option(coap.OBSERVE) is None
    assert peer.ask(GET, "/nowhere", options=REGISTER).option(coap.OBSERVE) is None
    assert not len(peer.source.observers)


def test_a_long_notification_brings_its_first_block(peer: CoapPeer) -> None:
    peer.ask(GET, "/lamp", token=b"o", options=REGISTER)
    switch(peer, b"x" * 1500)
    told = peer.receive()
    assert told.payload == b"x" * 1024
    rest = peer.ask(GET, "/lamp", options=[(coap.BLOCK2, pack_block(1, False, 1024))], kind=NON)
    assert rest.payload == b"x" * 476
    assert rest.option(coap.ETAG) == told.option(coap.ETAG)


def links(peer: CoapPeer, query: str = "") -> bytes:
    answer = peer.ask(GET, "/.well-known/core", options=[(coap.URI_QUERY, query.encode())] if query else [])
    assert number(answer, coap.CONTENT_FORMAT) == 40
    return answer.payload


def test_what_is_here_is_listed(peer: CoapPeer) -> None:
    lamp = b'</lamp>;rt="lamp";title="A \\"lamp\\"";obs'
    assert links(peer) == lamp
    peer.rig.ask("/measure", b"20")
    value = b"</value>;obs;ct=50"
    assert links(peer) == lamp + b"," + value
    for query, found in (
        ("rt=lamp", lamp), ("rt=la*", lamp), ("rt=door", b""), ("href=/va*", value), ("href=/value", value),
        ("ct=50", value), ("if=x", b""), ("obs", lamp + b"," + value), ('title=A "lamp"', lamp),
    ):  # fmt: skip
        assert links(peer, query) == found, query
    assert said(peer.ask(PUT, "/.well-known/core"))[1] == "4.05"
    assert said(peer.ask(GET, "/.well-known/core", options=[(coap.ACCEPT, uint(50))]))[1] == "4.06"
    assert peer.source.received == peer.source.unrouted == 1
