"""Any bytes, cut in any way: the Reader tells the same, raises nothing but ProtocolError, and agrees with paho."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from paho.mqtt import _packet
from paho.mqtt.enums import MQTTProtocolVersion

from nuclio_edge.core import mqtt_codec as codec
from nuclio_edge.core import mqtt_properties as properties
from nuclio_edge.core.loop import Loop
from nuclio_edge.sources.mqtt_link import Link
from tests.mqtt_packets import packet, publish

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PACKET = 2000


class Told:
    """What was told, in order."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def on_publish(self, *parts: Any) -> bool:
        """Keep it."""
        self.all.append(("publish", *parts))
        return False

    def on_packet(self, *parts: Any) -> bool:
        """Keep it."""
        self.all.append(("packet", *parts))
        return False

    def on_oversize(self, *parts: Any) -> bool:
        """Keep it."""
        self.all.append(("oversize", *parts))
        return False

    def on_lost(self, why: str, how: str) -> None:
        """Keep it."""
        self.all.append(("lost", why))

    def on_broken(self, error: Any) -> None:
        """Keep it."""
        self.all.append(("broken", error.reason, str(error)))


def read(chunks: Iterable[bytes], *, v5: bool, budget: int = 1000) -> list[Any]:
    """What a Reader tells of a stream that comes in these chunks; its end with an error is the last entry."""
    reader, told = codec.Reader(v5, MAX_PACKET, 8), Told()
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while reader.drain(budget, told.on_publish, told.on_packet, told.on_oversize):
                pass
    except codec.ProtocolError as error:
        told.on_broken(error)
    return told.all


@st.composite
def packets(draw: st.DrawFn, *, v5: bool) -> bytes:
    """A packet as a broker might send it."""
    if draw(st.integers(0, 4)) == 0:
        return packet(draw(st.sampled_from([0x20, 0x40, 0x62, 0x90, 0xB0, 0xD0, 0xE0])), draw(st.binary(max_size=300)))
    props: dict[str, Any] = {}
    if v5 and draw(st.booleans()):
        props = draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "content_type": st.text(
                        st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200
                    ),
                    "topic_alias": st.integers(1, 8),
                    "correlation_data": st.binary(max_size=20),
                    "message_expiry": st.integers(0, 1000),
                },
            )
        )
    qos = draw(st.integers(0, 2))
    topic = draw(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10))
    body = b"x" * draw(st.sampled_from([0, 1, 100, 126, 127, 128, 1500, 2500, 20_000]))
    mid = draw(st.integers(1, 65_535)) if qos else 0
    flags = {"dup": draw(st.booleans()), "retain": draw(st.booleans())}
    return publish(topic, body, qos, mid, version=5 if v5 else 4, **flags, **props)


@st.composite
def streams(draw: st.DrawFn) -> tuple[bool, bytes]:
    """A version and a stream, which may have been spoilt in one place."""
    v5 = draw(st.booleans())
    stream = bytearray(b"".join(draw(st.lists(packets(v5=v5), max_size=8))))
    if stream and draw(st.booleans()):
        for _ in range(draw(st.integers(1, 3))):
            stream[draw(st.integers(0, min(len(stream), 400) - 1))] = draw(st.integers(0, 255))
    return v5, bytes(stream)


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    """The stream in pieces."""
    at = sorted({place % (len(stream) + 1) for place in places} | {0, len(stream)})
    return [stream[a:b] for a, b in itertools.pairwise(at)]


@given(streams(), st.lists(st.integers(0, 100_000), max_size=12), st.integers(1, 3))
@settings(deadline=None, max_examples=300)
def test_chunks_and_budgets_make_no_difference(stream: tuple[bool, bytes], places: list[int], budget: int) -> None:
    v5, raw = stream
    whole = read([raw], v5=v5)
    assert read(cut(raw, places), v5=v5, budget=budget) == whole
    if len(raw) < 3000:
        assert read([raw[at : at + 1] for at in range(len(raw))], v5=v5) == whole


@given(st.booleans(), st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
@settings(deadline=None, max_examples=300)
def test_any_bytes_raise_nothing_but_a_protocol_error(v5: bool, raw: bytes, places: list[int]) -> None:
    assert read(cut(raw, places), v5=v5) == read([raw], v5=v5)


@given(st.booleans(), st.data())
@settings(deadline=None, max_examples=200)
def test_what_paho_reads_of_a_publish_we_read_too(v5: bool, data: st.DataObject) -> None:
    raw = data.draw(packets(v5=v5))
    told = read([raw], v5=v5)
    if raw[0] >> 4 != 3 or told[0][0] != "publish":
        return
    _, first, topic, mid, props, body = told[0]
    at = 2 if raw[1] < 128 else 3 if raw[2] < 128 else 4
    version = MQTTProtocolVersion.MQTTv5 if v5 else MQTTProtocolVersion.MQTTv311
    theirs = _packet.decode_publish(raw[0], raw[at:], version)
    assert (theirs.topic, theirs.mid, bytes(theirs.payload)) == (topic, mid, body)
    assert (theirs.dup, theirs.qos, theirs.retain) == (bool(first & 8), first >> 1 & 3, bool(first & 1))
    if theirs.properties is not None:
        packed: bytes = theirs.properties.pack()  # type: ignore[no-untyped-call]
        packed = packed[1 if packed[0] < 128 else 2 :]
        assert sorted(properties.unpack_properties(packed)) == sorted(properties.unpack_properties(props))


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_properties_are_read_or_refused(raw: bytes) -> None:
    try:
        pairs = properties.unpack_properties(raw)
    except codec.ProtocolError:
        return
    assert properties.unpack_properties(properties.pack_properties(pairs)) == pairs


class Pipe:
    """A socket whose recv gives these chunks, of at most the size asked for, then nothing yet."""

    def __init__(self, chunks: list[bytes], descriptor: int) -> None:
        self.chunks = chunks
        self.descriptor = descriptor
        self.sent = b""

    def fileno(self) -> int:
        """A descriptor that is never ready."""
        return self.descriptor

    def recv(self, size: int) -> bytes:
        """The next chunk."""
        if not self.chunks:
            raise BlockingIOError
        chunk = self.chunks.pop(0)
        if len(chunk) > size:
            self.chunks.insert(0, chunk[size:])
        return chunk[:size]

    def send(self, data: bytes) -> int:
        """A socket that takes little at a time."""
        self.sent += bytes(data[:7])
        return min(len(data), 7)

    def close(self) -> None:
        """Nothing is held."""


@given(streams(), st.lists(st.integers(0, 100_000), max_size=6))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_the_link_tells_what_the_reader_tells(stream: tuple[bool, bytes], places: list[int]) -> None:
    v5, raw = stream
    loop, told = Loop(), Told()
    try:
        pipe = Pipe([chunk for chunk in cut(raw, places) if chunk], loop.poller._event)
        loop.add = loop.remove = loop.modify = lambda *_args, **_more: None  # type: ignore[method-assign, assignment]
        link = Link(loop, pipe, told, v5=v5, max_packet=MAX_PACKET, alias_max=8)
        link._ready(1)
        for _ in range(200):
            if not pipe.chunks or (told.all and told.all[-1][0] == "broken"):
                break
            loop.turn(0)
            link._ready(1)
        loop.turn(0)
        assert told.all == read([raw], v5=v5)
        for word in (b"one", b"two", b"three", b"four"):
            link.write(word)
        for _ in range(10):
            loop.turn(0)
            link._ready(4)
        assert pipe.sent == b"onetwothreefour"
        assert link.queued == 0
        link.close()
    finally:
        loop.close()
