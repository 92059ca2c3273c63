"""The CoAP codec: what it makes of datagrams, and what it composes; the examples are those of the RFCs."""

from nuclio_edge.core import coap_codec as codec
from nuclio_edge.core import coap_compose as compose


def refused(call, *args):
    try:
        call(*args)
    except codec.MessageError:
        return True
    return False


def test_a_request_is_read_in_place():
    # RFC 7252, appendix A, figure 16: GET /temperature, message id 0x7d34.
    data = b"\x40\x01\x7d\x34\xbb" + b"temperature"
    message = codec.Message(data)
    assert (message.kind, message.code, message.message_id, message.token) == (codec.CON, 1, 0x7D34, b"")
    assert message.options == [(codec.URI_PATH, b"temperature")]
    assert message.payload == b""
    assert message.data is data


def test_a_response_with_a_token_and_a_payload_is_read():
    # Figure 19: 2.05 with the token 0x20 and "22.3 C".
    message = codec.parse(b"\x61\x45\x7d\x35\x20\xff22.3 C")
    assert (message.kind, message.code, message.token) == (codec.ACK, 0x45, b"\x20")
    assert message.payload == b"22.3 C" and message.options == []


def test_what_is_composed_is_read_again():
    options = [(codec.URI_PATH, b"a"), (codec.URI_PATH, b""), (codec.CONTENT_FORMAT, b"\x32"),
               (codec.SIZE1, b"\x01\x00"), (2049, b"x" * 300), (65535, b"y" * 13)]  # fmt: skip
    data = compose.compose(codec.NON, 2, 65535, b"12345678", options, b"\xff\xff")
    message = codec.parse(data)
    assert message.options == options
    assert (message.kind, message.code, message.message_id, message.token) == (codec.NON, 2, 65535, b"12345678")
    assert message.payload == b"\xff\xff"


def test_options_are_sorted_and_those_of_one_number_keep_their_order():
    data = compose.compose(
        codec.CON, 1, 1, b"", [(codec.URI_QUERY, b"b"), (codec.URI_PATH, b"z"), (codec.URI_PATH, b"a")]
    )
    assert codec.parse(data).options == [(codec.URI_PATH, b"z"), (codec.URI_PATH, b"a"), (codec.URI_QUERY, b"b")]
    assert codec.parse(data).option(codec.URI_PATH) == b"z"
    assert codec.parse(data).option(codec.ETAG) is None


def test_the_edges_of_deltas_and_lengths():
    for number in (0, 12, 13, 268, 269, 65535):
        for length in (0, 12, 13, 268, 269, 1034):
            options = [(number, b"v" * length)]
            assert codec.parse(compose.compose(codec.CON, 1, 0, b"", options)).options == options


def test_what_breaks_the_format_is_refused():
    for broken in (
        b"", b"\x40\x01\x00", b"\x00\x01\x00\x00", b"\x80\x01\x00\x00",  # too short, another version
        b"\x49\x01\x00\x00123456789", b"\x42\x01\x00\x00a",  # a token of 9 bytes, and half a token
        b"\x41\x00\x00\x00a", b"\x40\x00\x00\x00\xff",  # an empty message with something in it
        b"\x40\x01\x00\x00\xff",  # a marker and no payload
        b"\x40\x01\x00\x00\xf0", b"\x40\x01\x00\x00\x0f",  # reserved nibbles
        b"\x40\x01\x00\x00\xb5abc", b"\x40\x01\x00\x00\xd0", b"\x40\x01\x00\x00\xe0\x00", b"\x40\x01\x00\x00\x0d",
        b"\x40\x01\x00\x00\xe0\xff\xff",  # an option number of 65804
    ):  # fmt: skip
        assert refused(codec.parse, broken), broken


def test_broken_options_are_found_when_they_are_asked_for():
    message = codec.Message(b"\x40\x01\x00\x00\xb5abc")
    assert message.code == 1
    for _ in range(2):
        try:
            message.payload  # noqa: B018
        except codec.MessageError:
            continue
        raise AssertionError("they were taken")


def test_what_cannot_be_said_is_refused():
    for call in (
        lambda: compose.compose(codec.CON, 1, 0, b"123456789"),
        lambda: compose.pack_options([(65536, b"")]),
        lambda: compose.pack_options([(-1, b"")]),
    ):
        try:
            call()
        except ValueError:
            continue
        raise AssertionError("it was said")


def test_numbers_have_no_leading_zeros():
    for value, raw in ((0, b""), (1, b"\x01"), (255, b"\xff"), (256, b"\x01\x00"), (0xFFFFFF, b"\xff\xff\xff")):
        assert compose.uint(value) == raw
        assert codec.number(raw) == value
    assert codec.number(b"\x00\x05") == 5


def test_blocks():
    for number in (0, 1, 15, 16, 4095, 4096, 0xFFFFF):
        for more in (False, True):
            for size in (16, 32, 64, 128, 256, 512, 1024):
                assert codec.block(compose.pack_block(number, more, size)) == (number, more, size)
    assert codec.block(b"") == (0, False, 16)
    assert refused(codec.block, b"\x07") and refused(codec.block, b"\x00\x00\x00\x00")


def test_odd_options_are_critical():
    assert codec.is_critical(codec.URI_PATH) and codec.is_critical(codec.BLOCK2)
    assert not codec.is_critical(codec.OBSERVE) and not codec.is_critical(codec.SIZE1)
