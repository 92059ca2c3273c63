"""Framings: what a stream's frames are does not depend on how it was read, and noise costs only what it hits."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge.manifest.schema import values
from nuclio_edge.sources import serial_framing as frames
from nuclio_edge.sources.serial_params import FRAMINGS, PARAMS, check_params, default_gap_ms, framing

LIMIT = 64


def table(**given_: Any) -> Any:
    """The parameters of a manifest, with their defaults."""
    full = {key: field.default for key, field in PARAMS.items()} | {"device": "/dev/ttyX", "max_frame": LIMIT} | given_
    made = values(tuple(PARAMS), full)
    assert list(check_params(made)) == []
    return made


def parsed(params: Any, *chunks: bytes) -> tuple[list[bytes], Counter[str]]:
    """The frames of a stream that was read so, and what was no frame."""
    rejected: Counter[str] = Counter()
    parser = framing(params, lambda reason: rejected.update([reason]))
    found = [frame for chunk in chunks for frame in parser.feed(chunk)]
    return found + parser.silence(), rejected


def sentence(text: str) -> bytes:
    """An NMEA sentence with its checksum."""
    total = 0
    for char in text.encode():
        total ^= char
    return b"$%b*%02X\r\n" % (text.encode(), total)


def with_crc(frame: bytes) -> bytes:
    """A Modbus RTU frame."""
    return frame + frames.crc16(frame, 0xFFFF).to_bytes(2, "little")


def telegram(*lines: str) -> bytes:
    """A P1 telegram of a smart meter."""
    body = "\r\n".join(["/ISK5\\2MT382-1000", "", *lines, "!"]).encode()
    return body + b"%04X\r\n" % frames.crc16(body, 0)


def slipped(packet: bytes) -> bytes:
    """A packet in SLIP (RFC 1055), with END at both ends."""
    return b"\xc0" + packet.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc") + b"\xc0"


def stuffed(packet: bytes) -> bytes:
    """A packet in COBS, the plain way of the paper, with its zero."""
    out, block = bytearray(), bytearray()
    for byte in packet:
        if byte:
            block.append(byte)
            if len(block) == 254:
                out += b"\xff" + block
                block.clear()
        else:
            out += bytes([len(block) + 1]) + block
            block.clear()
    return bytes(out + bytes([len(block) + 1]) + block + b"\0")


P1 = {"framing": "delimiter", "start": "/", "delimiter": "!", "trailer": 6, "keep_framing": True, "checksum": "p1"}
WAYS: dict[str, dict[str, Any]] = {
    "line": {"framing": "line"},
    "delimiter": {"framing": "delimiter", "delimiter": "\r\n--"},
    "marked": {"framing": "delimiter", "start": "aab", "delimiter": "bb", "trailer": 1},
    "p1": P1,
    "fixed": {"framing": "fixed", "size": 7},
    "fixed with start": {"framing": "fixed", "size": 7, "start": "aab"},
    "fixed with checksum": {"framing": "fixed", "size": 8, "checksum": "modbus"},
    "length-prefixed": {"framing": "length-prefixed", "length": "u8"},
    "length-prefixed with start": {
        "framing": "length-prefixed",
        "start": "BM",
        "length": "u16be",
        "length_at": 2,
        "checksum": "modbus",
    },
    "slip": {"framing": "slip"},
    "cobs": {"framing": "cobs"},
    "nmea": {"framing": "nmea"},
    "nmea without checksum": {"framing": "nmea", "checksum": "none"},
    "gap": {"framing": "gap", "checksum": "modbus"},
}

# Bytes of which frames are made, so that beginnings, ends and halves of them meet in every way.
MORSELS = st.sampled_from(
    [
        *(
            b"a",
            b"b",
            b"aab",
            b"bb",
            b"\n",
            b"\r",
            b"\r\n--",
            b"-",
            b"$",
            b"!",
            b"/",
            b"*",
            b"\0",
            b"\1",
            b"\5",
            b"\xc0",
        ),
        *(b"\xdb", b"\xdc", b"\xff", b"BM", b"\0\4", b"x" * LIMIT, b"y" * 200),
        *(sentence("GPRMC,1"), with_crc(b"\1\3\0\0\0\1"), with_crc(b"BM\0\6abcd"), slipped(b"\xc0a"), stuffed(b"a\0b")),
        telegram("1-0:1.8.1(1*kWh)"),
    ]
)
STREAMS = st.lists(MORSELS, max_size=40).map(b"".join) | st.binary(max_size=400)


@pytest.mark.parametrize("way", WAYS)
@given(stream=STREAMS, cuts=st.lists(st.integers(0, 3000), max_size=30))
def test_any_chunking_of_a_stream_gives_the_same_frames_and_the_same_counts(
    way: str, stream: bytes, cuts: list[int]
) -> None:
    params = table(**WAYS[way])
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    chunks = [stream[a:b] for a, b in pairwise(places)]
    whole = parsed(params, stream)
    if way == "gap":
        assert whole[0] == parsed(params, *chunks)[0]
    else:
        assert whole == parsed(params, *chunks)
        assert whole == parsed(params, *(stream[i : i + 1] for i in range(len(stream))))


@pytest.mark.parametrize("way", WAYS)
@given(stream=STREAMS)
def test_nothing_is_held_beyond_the_limit(way: str, stream: bytes) -> None:
    parser = framing(table(**WAYS[way]), lambda reason: None)
    for i in range(0, len(stream), 3):
        parser.feed(stream[i : i + 3])
        assert len(parser.tail) <= LIMIT + 16 + 64


@pytest.mark.parametrize("way", WAYS)
def test_a_megabyte_without_an_end_is_dropped_counted_and_got_over(way: str) -> None:
    params = table(**WAYS[way])
    rejected: Counter[str] = Counter()
    parser = framing(params, lambda reason: rejected.update([reason]))
    found = []
    for _ in range(1 << 8):
        found += parser.feed(b"\x55" * 4096)
        assert len(parser.tail) <= LIMIT + 16 + 64
    if way in ("fixed", "length-prefixed"):  # 0x55 is as good a frame as any
        assert not rejected or set(rejected) == {"oversized"}
        return
    assert found == []
    assert sum(rejected.values()) == 1
    found += parser.silence()
    good = {
        "line": b"\nok\n",
        "delimiter": b"\r\n--ok\r\n--",
        "marked": b"aabokbb.",
        "p1": telegram("x"),
        "fixed with start": b"aabokok",
        "fixed with checksum": with_crc(b"okokok"),
        "length-prefixed with start": with_crc(b"BM\0\4ok"),
        "slip": b"\xc0ok\xc0",
        "cobs": b"\0" + stuffed(b"ok"),
        "nmea": b"\n" + sentence("OK,1"),
        "nmea without checksum": b"\n" + sentence("OK,1"),
        "gap": with_crc(b"ok"),
    }[way]
    found = parser.feed(good) + parser.silence()
    assert found == [telegram("x")] or (len(found) == 1 and b"ok" in found[0].lower())


@given(st.lists(st.binary(min_size=1, max_size=60)))
def test_what_is_framed_comes_out_again(packets: list[bytes]) -> None:
    assert parsed(table(framing="slip", max_frame=256), b"".join(map(slipped, packets))) == (packets, Counter())
    assert parsed(table(framing="cobs", max_frame=256), b"".join(map(stuffed, packets))) == (packets, Counter())
    prefixed = b"".join(len(packet).to_bytes(2, "little") + packet for packet in packets)
    assert parsed(table(framing="length-prefixed", length="u16le"), prefixed) == (packets, Counter())


def test_a_long_cobs_block_has_no_zero_after_it() -> None:
    packet = bytes(range(1, 255)) * 2 + b"\0end"
    assert parsed(table(framing="cobs", max_frame=1024), stuffed(packet)) == ([packet], Counter())


def test_lines_lose_their_ends_and_empty_ones_are_none() -> None:
    assert parsed(table(), b"one\r\n\r\n\ntwo\nhal") == ([b"one", b"two"], Counter(partial=1))
    assert parsed(table(keep_framing=True), b"one\r\n") == ([b"one\r\n"], Counter())


def test_an_oversized_line_takes_no_other_with_it() -> None:
    stream = b"a\n" + b"x" * (LIMIT + 1) + b"\nb\n" + b"y" * LIMIT + b"\n"
    assert parsed(table(), stream) == ([b"a", b"b", b"y" * LIMIT], Counter(oversized=1))


def test_nmea_takes_sentences_whose_checksum_is_right() -> None:
    good = b"$GPGGA,123519,4807.038,N,01131.000,E,1,08,0.9,545.4,M,46.9,M,,*47"
    aivdm = b"!AIVDM,1,1,,B,177KQJ5000G?tO`K>RA1wUbN0TKH,0*5C"
    stream = (
        good + b"\r\n" + aivdm + b"\r\n" + good.replace(b"545.4", b"999.8") + b"\r\n$GPGG" + good + b"\n\xff\xfe\n\r\n"
    )
    params = table(framing="nmea", max_frame=128)
    assert parsed(params, stream) == ([good, aivdm, good], Counter(checksum=1, noise=1))
    assert parsed(params, b"$GPRMC,no checksum\r\n") == ([], Counter(checksum=1))


def test_the_checksums_are_those_of_the_standards() -> None:
    assert with_crc(b"\1\3\0\0\0\1") == b"\1\3\0\0\0\1\x84\x0a"
    assert frames.crc16(b"123456789", 0xFFFF) == 0x4B37  # CRC-16/MODBUS
    assert frames.crc16(b"123456789", 0) == 0xBB3D  # CRC-16/ARC, which DSMR P1 takes


def test_a_telegram_of_a_meter_is_one_frame_and_a_broken_one_none() -> None:
    params = table(**P1, max_frame=1024)
    good = telegram("1-3:0.2.8(50)", "0-0:1.0.0(101209113020W)", "1-0:1.8.1(123456.789*kWh)", "0-0:96.13.0()")
    half = good[: len(good) // 2]
    stream = b"9*kWh)\r\n" + good + good.replace(b"123456", b"123457") + good + half
    assert parsed(params, stream) == ([good, good], Counter(noise=1, checksum=1, partial=1))


def test_a_half_frame_hides_at_most_the_next_one() -> None:
    params = table(framing="fixed", size=8, start="\u00aa\u00c0", checksum="modbus")
    good = with_crc(b"\xaa\xc0\1\2\3\4")
    assert parsed(params, good + good[:5] + good * 3)[0] == [good] * 4
    plain = table(framing="fixed", size=8, checksum="modbus")
    good = with_crc(b"\1\2\3\4\5\6")
    found, rejected = parsed(plain, good + b"\7\7\7" + good * 20)
    assert 12 <= len(found) <= 20 and rejected["checksum"] == 1


def test_silence_ends_a_modbus_frame() -> None:
    request = with_crc(b"\1\3\0\0\0\1")
    params = table(framing="gap", checksum="modbus")
    assert parsed(params, request[:3], request[3:]) == ([request], Counter())
    assert parsed(params, request[:-1] + b"?") == ([], Counter(checksum=1))


def test_the_default_gap_is_three_and_a_half_characters_and_never_what_usb_makes_of_one() -> None:
    assert default_gap_ms(table(framing="gap", baud=1200)) == 30
    assert default_gap_ms(table(framing="gap", baud=300)) == 117
    assert default_gap_ms(table(framing="gap", baud=115200)) == 20


@given(stream=STREAMS, kind=st.sampled_from(FRAMINGS), checksum=st.sampled_from(["none", "modbus", "p1"]))
def test_no_stream_raises(stream: bytes, kind: str, checksum: str) -> None:
    full = {key: field.default for key, field in PARAMS.items()} | {"device": "/dev/ttyX", "framing": kind}
    full |= {"checksum": checksum, "delimiter": "ab", "start": "a", "size": 5, "length": "u32be", "length_adds": -3}
    parser = framing(values(tuple(PARAMS), full), lambda reason: None)
    parser.feed(stream)
    parser.silence()
