"""The MQTT codec: what the Reader makes of bytes, whatever way they are cut, and what the builders write."""

from nuclio_edge.core import mqtt_codec as codec
from nuclio_edge.core import mqtt_compose as compose
from nuclio_edge.core import mqtt_properties as properties


class Told:
    """What a Reader told, in order; stops it after every packet when asked to."""

    def __init__(self, stop=False):
        self.packets = []
        self.stop = stop

    def publish(self, first, topic, packet_id, props, body):
        assert isinstance(topic, bytes) and isinstance(props, bytes) and isinstance(body, bytes)
        self.packets.append(("publish", first, topic, packet_id, props, body))
        return self.stop

    def packet(self, first, rest):
        assert isinstance(rest, bytes)
        self.packets.append(("packet", first, rest))
        return self.stop

    def oversize(self, first, topic, packet_id, size):
        self.packets.append(("oversize", first, topic, packet_id, size))
        return self.stop


def read(stream, v5=True, chunk=0, max_packet=2000, alias_max=4, budget=1000, stop=False):
    """All that a Reader tells of a stream, fed in chunks; a ProtocolError ends the list as ("error", reason)."""
    reader = codec.Reader(v5, max_packet, alias_max)
    told = Told(stop)
    try:
        for at in range(0, len(stream), chunk or max(len(stream), 1)):
            reader.feed(stream[at : at + (chunk or len(stream))])
            while reader.drain(budget, told.publish, told.packet, told.oversize):
                pass
    except codec.ProtocolError as error:
        told.packets.append(("error", error.reason))
    return told.packets


def fails(reason, stream, v5=True):
    for chunk in (0, 1, 3):
        assert read(stream, v5, chunk)[-1] == ("error", reason), read(stream, v5, chunk)


def test_a_publish_is_told_with_topic_identifier_properties_and_body():
    props = properties.pack_properties([(properties.CONTENT_TYPE, "text/plain")])
    assert read(compose.publish("a/b", b"hello", 0x02, 513, props)) == [("publish", 0x32, b"a/b", 513, props, b"hello")]
    assert read(compose.publish("a/b", b"", 0x0D, 1), False) == [("publish", 0x3D, b"a/b", 1, b"", b"")]
    assert read(compose.publish("a/b", b"x", 1, 0, b"")) == [("publish", 0x31, b"a/b", 0, b"", b"x")]


def test_every_other_packet_is_told_whole():
    stream = compose.packet(0x20, b"\x01\x00\x00") + compose.packet(0xD0, b"") + compose.answer(0x40, 258)
    assert read(stream) == [("packet", 0x20, b"\x01\x00\x00"), ("packet", 0xD0, b""), ("packet", 0x40, b"\x01\x02")]


def test_chunks_make_no_difference():
    joined = codec._JOIN
    codec._JOIN = 256  # a small heap has no room for packets longer than the real one
    try:
        _check_chunks()
    finally:
        codec._JOIN = joined


def _check_chunks():
    too_big = compose.publish(
        "too/big", b"4" * 3000, 2, 9, properties.pack_properties([(properties.CONTENT_TYPE, "x" * 200)])
    )
    stream = b"".join(
        [
            compose.publish("t", b"1" * 5, 0, 0, b""),
            compose.publish(
                "topic/long" * 20,
                b"2" * 300,
                2,
                7,
                properties.pack_properties([(properties.USER_PROPERTY, ("k", "v" * 200))]),
            ),
            compose.packet(0xD0, b""),
            compose.publish("big", b"3" * 900, 4, 8, b""),
            too_big,
            compose.publish("t", b"5", 0, 0, b""),
        ]
    )
    whole = read(stream)
    assert [one[0] for one in whole] == ["publish", "publish", "packet", "publish", "oversize", "publish"]
    assert whole[4] == ("oversize", 0x32, b"too/big", 9, len(too_big))
    for chunk in (1, 2, 7, 64, 256, 1000, 4000):
        assert read(stream, chunk=chunk) == whole, chunk
        assert read(stream, chunk=chunk, budget=1) == whole, chunk
        assert read(stream, chunk=chunk, stop=True) == whole, chunk


def test_a_drain_ends_with_its_budget_and_goes_on_where_it_was():
    reader = codec.Reader(False)
    told = Told()
    reader.feed(compose.publish("t", b"x") * 5)
    assert reader.drain(2, told.publish, told.packet, told.oversize) is True
    assert len(told.packets) == 2
    assert reader.drain(3, told.publish, told.packet, told.oversize) is False
    assert len(told.packets) == 5


def test_a_length_of_256_megabytes_costs_nothing_before_the_bytes_come():
    reader = codec.Reader(False)
    told = Told()
    reader.feed(b"\x30\xff\xff\xff\x7f\x00\x01t")
    assert reader.drain(9, told.publish, told.packet, told.oversize) is False
    assert len(reader._part) < 100


def test_a_length_of_five_bytes_is_malformed():
    fails(0x81, b"\x30\xff\xff\xff\xff\x01")


def test_qos_3_and_identifier_0_are_malformed():
    fails(0x81, b"\x36" + compose.publish("t", b"x", 4, 1)[1:], False)
    fails(0x82, compose.publish("t", b"x", 2, 0), False)


def test_a_publish_cut_short_is_malformed():
    fails(0x81, b"\x30\x00", False)
    fails(0x81, b"\x30\x01\x00", False)
    fails(0x81, b"\x30\x03\x00\x09t", False)
    fails(0x81, b"\x32\x04\x00\x01t\x00", False)
    fails(0x81, b"\x30\x03\x00\x01t")  # no property length
    fails(0x81, b"\x30\x05\x00\x01t\x09x")  # properties longer than the packet
    fails(0x81, b"\x30\x08\x00\x01t\x80\x80\x80\x80\x01")


def test_an_empty_topic_needs_an_alias():
    fails(0x82, compose.publish("", b"x"), False)
    fails(0x82, compose.publish("", b"x", 0, 0, b""))
    fails(0x82, compose.publish("", b"x", 0, 0, properties.pack_properties([(properties.TOPIC_ALIAS, 3)])))
    fails(0x94, compose.publish("t", b"x", 0, 0, properties.pack_properties([(properties.TOPIC_ALIAS, 5)])))
    fails(0x94, compose.publish("t", b"x", 0, 0, properties.pack_properties([(properties.TOPIC_ALIAS, 0)])))


def test_an_alias_stands_for_its_topic_also_one_of_an_oversize_packet():
    three = properties.pack_properties([(properties.TOPIC_ALIAS, 3)])
    four = properties.pack_properties([(properties.TOPIC_ALIAS, 4)])
    stream = compose.publish("a/b", b"1", 0, 0, three) + compose.publish("big", b"x" * 2001, 0, 0, four)
    stream += (
        compose.publish("", b"2", 0, 0, three)
        + compose.publish("", b"3", 0, 0, four)
        + compose.publish("c", b"4", 0, 0, three)
    )
    stream += compose.publish("", b"5", 0, 0, three)
    for chunk in (0, 11):
        assert [one[2] for one in read(stream, chunk=chunk)] == [b"a/b", b"big", b"a/b", b"big", b"c", b"c"]


def test_broken_properties_are_told_with_their_packet_if_it_has_a_topic():
    broken = b"\x03\x00\x09#"
    assert [one[2:5] for one in read(compose.publish("t", b"x", 2, 7, broken))] == [(b"t", 7, broken)]
    fails(0x81, compose.publish("", b"x", 2, 7, broken))


def test_an_oversize_packet_that_is_no_publish_is_refused():
    fails(0x95, compose.packet(0x90, b"x" * 2001))


def test_topics_are_checked():
    assert properties.check_topic("haus/\U0001f525".encode()) == "haus/\U0001f525"
    for topic, reason in ((b"a\0b", 0x81), (b"a/+", 0x90), (b"#", 0x90), (b"\xff/a", 0x81)):
        try:
            properties.check_topic(topic)
        except codec.ProtocolError as error:
            assert error.reason == reason, topic
        else:
            raise AssertionError(topic)


def test_properties_come_back_as_they_were_packed():
    pairs = [
        (1, 1),
        (2, 70_000),
        (3, "t\u00e9xt"),
        (9, b"\0\xff"),
        (11, 268_435_455),
        (33, 65_535),
        (38, ("k", "v")),
        (38, ("k", "")),
    ]
    assert properties.unpack_properties(properties.pack_properties(pairs)) == pairs


def test_broken_properties_are_refused():
    for raw in (
        b"\x00",
        b"\x2b\x00",
        b"\x63",
        b"\x01",
        b"\x02\x00\x00",
        b"\x03\x00",
        b"\x03\x00\x05ab",
        b"\x03\x00\x01\xff",
        b"\x0b\x80",
        b"\x26\x00\x01a\x00\x02b",
    ):
        try:
            properties.unpack_properties(raw)
        except codec.ProtocolError as error:
            assert error.reason == 0x81
        else:
            raise AssertionError(raw)


def test_variable_lengths_are_as_in_the_specification():
    for value, raw in (
        (0, b"\0"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (16_383, b"\xff\x7f"),
        (16_384, b"\x80\x80\x01"),
        (268_435_455, b"\xff\xff\xff\x7f"),
    ):
        assert compose.variable(value) == raw
    try:
        compose.variable(268_435_456)
    except ValueError:
        pass
    else:
        raise AssertionError


def test_answers_and_disconnects_are_as_in_the_specification():
    assert compose.answer(0x40, 258) == b"\x40\x02\x01\x02"
    assert compose.answer(0x70, 258, 0x92) == b"\x70\x03\x01\x02\x92"
    assert compose.disconnect(True, 0x81) == b"\xe0\x01\x81"
    assert compose.disconnect(False, 0x81) == b"\xe0\x00"
