"""Whatever comes: the codec against aiocoap's, and a source that nothing that comes from the network can disturb."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from aiocoap import Message as TheirMessage  # type: ignore[import-untyped]
from aiocoap import error as their_error

try:
    from aiocoap.message import Direction  # type: ignore[import-untyped]
except ImportError:
    pass
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_codec import MessageError, parse
from nuclio_edge.core.coap_compose import compose
from tests.coap_peer import MANIFEST, function
from tests.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = st.lists(st.tuples(st.integers(0, 65535), st.binary(max_size=300)), max_size=12)
REQUEST_OPTIONS = st.lists(
    st.tuples(
        st.sampled_from([1, 3, 4, 5, 6, 7, 11, 11, 11, 12, 15, 17, 23, 27, 28, 35, 60, 258]), st.binary(max_size=4)
    ),
    max_size=8,
)
TOKENS = st.binary(max_size=8)


@given(st.integers(0, 3), st.integers(1, 255), st.integers(0, 65535), TOKENS, OPTIONS, st.binary(max_size=100))
def test_what_is_composed_is_read_unchanged(
    kind: int, code: int, number: int, token: bytes, options: list[tuple[int, bytes]], payload: bytes
) -> None:
    message = parse(compose(kind, code, number, token, options, payload))
    assert (message.kind, message.code, message.message_id, message.token) == (kind, code, number, token)
    assert message.options == sorted(options, key=lambda option: option[0])
    assert message.payload == payload


def theirs(datagram: bytes) -> Any:
    """What aiocoap reads, or None where it refuses the datagram."""
    try:
        return TheirMessage.decode(datagram)
    except (their_error.UnparsableMessage, ValueError, IndexError):
        return None


# Of these alone: options whose values aiocoap keeps as bytes, whatever they are.
OPAQUE = st.lists(st.tuples(st.sampled_from([1, 4, 9, 65001, 65535, 2049, 300]), st.binary(max_size=300)), max_size=8)


@given(st.integers(0, 3), st.integers(1, 255), st.integers(0, 65535), TOKENS, OPAQUE, st.binary(max_size=50))
def test_aiocoap_reads_what_we_compose_and_composes_what_we_do(
    kind: int, code: int, number: int, token: bytes, options: list[tuple[int, bytes]], payload: bytes
) -> None:
    datagram = compose(kind, code, number, token, options, payload)
    message = theirs(datagram)
    assert message is not None
    assert (int(message.mtype), int(message.code), message.mid, message.token) == (kind, code, number, token)
    assert message.payload == payload
    assert [(int(option.number), option.encode()) for option in message.opt.option_list()] == parse(datagram).options
    if hasattr(message, "direction"):  # of 0.4.15 and later; only what goes out is encoded
        message.direction = Direction.OUTGOING
    assert message.encode() == datagram


@given(st.binary(max_size=80))
@example(b"\x40\x01\x00\x00\xff")
@example(b"\x40\x01\x00\x00\xe1\xff\xff")
def test_any_bytes_are_a_message_or_refused(datagram: bytes) -> None:
    try:
        message = parse(datagram)
    except MessageError:
        return
    assert sum(len(value) for _, value in message.options) + len(message.payload) <= len(datagram)
    if message.code and theirs(datagram) is not None:
        assert theirs(datagram).payload == message.payload


class Fuzzed:
    """A source on a socket, and a peer that sends it anything."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.source = rig.processor.sources["lan"]
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.connect(("127.0.0.1", self.source.port))
        self.socket.setblocking(False)

    def send(self, datagram: bytes) -> None:
        self.socket.send(datagram)
        for _ in range(3):
            self.rig.processor.loop.turn(0)
        while True:
            try:
                parse(self.socket.recv(65535))  # what we say is a message
            except BlockingIOError:
                break
        source = self.source
        assert source.received == source.routed + source.unrouted + sum(source.rejected.values())
        assert self.rig.processor.exit_code == 0, self.rig.records.text()


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzed]:
    handler = "def handler(context, event):\n    event.to_json()\n    return event.raw_body * 40 or 'x' * 1500"
    manifest = MANIFEST + function("f", "/*") + function("exact", "/a", trigger='method = "GET"')
    with ExitStack() as stack:
        rig = stack.enter_context(Rig(tmp_path_factory.mktemp("fuzz"), manifest, f=handler, exact=handler))
        made = Fuzzed(rig)
        stack.callback(made.socket.close)
        yield made


RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RELAXED
@given(datagram=st.binary(max_size=100))
def test_any_datagram_leaves_the_source_in_order(fuzzed: Fuzzed, datagram: bytes) -> None:
    fuzzed.send(datagram)


@RELAXED
@given(
    kind=st.integers(0, 3), code=st.integers(0, 255), number=st.integers(0, 65535), token=TOKENS,
    options=REQUEST_OPTIONS, payload=st.binary(max_size=64), cut=st.integers(0, 12), flip=st.integers(0, 4000),
)  # fmt: skip
def test_any_request_leaves_the_source_in_order(
    fuzzed: Fuzzed, kind: int, code: int, number: int, token: bytes, options: list[tuple[int, bytes]], payload: bytes,
    cut: int, flip: int,
) -> None:  # fmt: skip
    datagram = bytearray(compose(kind, code, number, token, options, payload))
    if flip < len(datagram) * 8:
        datagram[flip >> 3] ^= 1 << (flip & 7)
    fuzzed.send(bytes(datagram[: len(datagram) - cut] if cut < 4 else datagram))


@given(OPTIONS)
def test_options_end_where_a_walk_says(options: list[tuple[int, bytes]]) -> None:
    data = compose(0, 1, 0, b"", options, b"")
    assert coap.walk(data + b"\xff!", 4) == (parse(data).options, len(data) + 1)
