"""What is fuzzed: each target takes any bytes, and raises only when the code under it has a defect."""

from __future__ import annotations

import math
import os
import tempfile
from binascii import crc32
from typing import TYPE_CHECKING, Any

from nuclio_edge.core import decode as decoding
from nuclio_edge.core import mqtt_codec as codec
from nuclio_edge.core import mqtt_properties as properties
from nuclio_edge.core import msgpack as packing
from nuclio_edge.core import record
from nuclio_edge.core.port import json_dumps
from nuclio_edge.core.record import HEAD, seed_of
from nuclio_edge.delivery import stored as storing
from nuclio_edge.manifest import check
from nuclio_edge.manifest.problems import render, render_warnings
from nuclio_edge.recorder import recording as ring
from nuclio_edge.workers import frames as framing

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_PACKET = 500
TYPES = (
    "",
    "application/json",
    "application/msgpack",
    "application/x-www-form-urlencoded",
    "text/csv",
    "text/csv; header=present",
    "text/plain; charset=latin-1",
    'application/json; charset="utf-16"',
    "application/octet-stream",
    "text/html",
)


def manifest(data: bytes) -> None:
    """A manifest: it is used, or every problem has a message, a line of the file, and can be printed."""
    with tempfile.NamedTemporaryFile(suffix=".toml", dir=_folder()) as file:
        file.write(data)
        file.flush()
        made, problems = check(file.name)
    assert (made is None) == any(problem.severity == "error" for problem in problems)
    for problem in problems:
        assert problem.message
        assert 0 <= problem.line <= data.count(b"\n") + 1
        json_dumps(problem.as_dict("edge.toml"))
    shown = render(problems, "edge.toml") + render_warnings(problems, "edge.toml")
    assert all(char.isprintable() or char == "\n" for char in shown)


def mqtt(data: bytes) -> None:
    """A broker's stream: packets or a ProtocolError, and the same however it is cut."""
    if len(data) < 2:
        return
    v5, cut, stream = bool(data[0] & 1), data[1] + 1, data[2:]
    whole = _read([stream], v5=v5)
    assert _read([stream[at : at + cut] for at in range(0, len(stream), cut)], v5=v5) == whole


def msgpack(data: bytes) -> None:
    """MessagePack, by our own decoder: ValueError or TypeError, or a value that comes back from our own encoder."""
    library, packing._library = packing._library, None
    try:
        try:
            value = packing.unpack(data)
        except (ValueError, TypeError, RecursionError):
            return
        again = packing.unpack(packing.pack(value))
        assert _same(value, again), (value, again)
        if library is not None:
            packing._library = library
            try:
                assert _same(packing.unpack(data), value), data
            except ValueError as error:
                if not _stricter(str(error)):
                    raise
    finally:
        packing._library = library


def decode(data: bytes) -> None:
    """A body of any content type: fields with text as their names, or a ValueError."""
    if not data:
        return
    kind, body = TYPES[data[0] % len(TYPES)], data[1:]
    try:
        found = decoding.fields(kind, body)
    except ValueError as error:
        if not str(error):
            raise
        return
    assert all(type(name) is str for name in found)


def frames(data: bytes) -> None:
    """What a worker process may write to its channel: frames, or a FrameError; the same however it is cut."""
    if not data:
        return
    cut, stream = data[0] + 1, data[1:]
    assert _frames([stream]) == _frames([stream[at : at + cut] for at in range(0, len(stream), cut)])


def stored(data: bytes) -> None:
    """What a file may hold in the place of a stored event: an event, or an UnreadableError."""
    try:
        kept = storing.Stored(data)
        assert kept.size == len(kept.body)
        kept.event(None)
    except storing.UnreadableError as error:
        assert str(error)  # noqa: PT017 - pytest is not here


def recording(data: bytes) -> None:
    """What a recorder's file may hold behind its header: whole events, UnreadableErrors, and nothing else.

    Records with the right checksum are not made by chance: they are made here, of payloads that ff ff keeps apart.
    """
    parts = data.split(b"\xff\xff")
    raw = ring._HEADER.pack(b"NERC", 1, 0, ring.HEADER + sum(HEAD + len(part) for part in parts), 7, 0)
    header = (raw + crc32(raw).to_bytes(4, "little")).ljust(ring.HEADER, b"\0")
    seed = seed_of(header)
    data = b"".join(record.frames(seed, [(at % 4, 0, 0, at, part) for at, part in enumerate(parts)]))
    found = ring.parse(header + data)
    for entry in found.entries:
        assert isinstance(entry.function, str)
        try:
            entry.event.event(None)
        except storing.UnreadableError:
            pass


def records(data: bytes) -> None:
    """A segment's bytes: whole records only, and every one that was written where nothing is damaged."""
    if len(data) < 4:
        return
    seed = record.seed_of(data[:4])
    written = [(data[0], data[1], data[2] * 257, number, data[number:]) for number in range(0, len(data), 16)]
    sound = b"".join(record.frames(seed, written))
    assert _records(sound, seed) == written
    # What is around them changes nothing, wherever it comes from; nor does what stands in the middle.
    assert _records(data + sound + data, seed) == written
    parts = record.frames(seed, written[:1])
    assert _records(b"".join(parts) + data + sound, seed) == written[:1] + written
    spoilt = bytearray(sound)
    spoilt[data[3] % len(sound)] ^= 1 + data[2] % 255
    assert [one for one in _records(bytes(spoilt), seed) if one not in written] == []
    try:
        numbers = record.unpack_numbers(data)
    except ValueError:
        return
    assert record.unpack_numbers(record.pack_numbers(numbers)) == numbers


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (manifest, mqtt, msgpack, decode, frames, stored, recording, records)
}


def _folder() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def _read(chunks: list[bytes], *, v5: bool) -> list[Any]:
    told: list[Any] = []
    reader = codec.Reader(v5, MAX_PACKET, 4)

    def on_publish(first: int, topic: bytes, packet_id: int, raw: bytes, body: bytes) -> bool:
        topic, raw, body = bytes(topic), bytes(raw), bytes(body)
        told.append((first, topic, packet_id, raw, body))
        for take in (lambda: codec_topic(topic), lambda: properties.unpack_properties(raw)):
            try:
                told.append(take())
            except codec.ProtocolError as error:
                told.append(error.reason)
        return False

    def on_other(*parts: Any) -> bool:
        told.append(tuple(bytes(part) if isinstance(part, (memoryview, bytearray)) else part for part in parts))
        return False

    codec_topic = properties.check_topic
    try:
        for chunk in chunks:
            reader.feed(chunk)
            while reader.drain(3, on_publish, on_other, on_other):
                pass
    except codec.ProtocolError as error:
        told.append(("broken", error.reason))
    return told


def _records(data: bytes, seed: int) -> list[Any]:
    return [
        (kind, flags, lane, number, data[start:stop])
        for _, kind, flags, lane, number, start, stop in record.Reader(data, 0, len(data), seed)
    ]


def _frames(chunks: list[bytes]) -> list[Any]:
    found: list[Any] = []
    reader = framing.Reader()
    try:
        for chunk in chunks:
            for kind, content in reader.feed(chunk):
                try:
                    found.append((kind, framing.parted(content)))
                except framing.FrameError:
                    found.append((kind, content))
    except framing.FrameError:
        found.append("broken")
    return found


def _same(one: Any, other: Any) -> bool:
    """Equality in which NaN is NaN, and 1 is not 1.0."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return len(one) == len(other) and all(map(_same, one.items(), other.items()))
    return type(one) is type(other) and bool(one == other)


def _stricter(message: str) -> bool:
    """Where the C library refuses what the format allows."""
    return "deep" in message or "stack" in message
