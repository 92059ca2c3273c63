"""MQTT 3.1.1 and 5 packets out of a byte stream, sans-IO; mqtt_compose.py makes the other way's.

Law: however a stream is cut into chunks, the Reader tells the same packets in the same order. Nothing is allocated
because a header announces it: memory follows the bytes that arrived. Section numbers are those of MQTT 5.
"""

from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    OnPublish = Callable[[int, bytes, int, bytes, bytes], Any]
    OnPacket = Callable[[int, bytes], Any]
    OnOversize = Callable[[int, bytes, int, int], Any]

_JOIN = 65536  # a part of a packet up to this size is joined to the next chunk; of a longer one, bytes are collected
_HEADER = const(131072)  # topic and properties of a packet above max_packet; a peer that sends more has gone mad


class ProtocolError(Exception):
    """The peer broke the protocol; `reason` is the code to say in a v5 DISCONNECT (2.4), the text says what it did."""

    def __init__(self, reason: int, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Reader:
    """The packets of one connection's byte stream. `feed` takes a chunk, `drain` tells what is complete.

    Topic aliases (3.3.2.3.4) are resolved up to `alias_max`. A packet longer than `max_packet` bytes is told as
    oversize and thrown away as it streams in. After a ProtocolError the reader is of no more use: close.
    """

    def __init__(self, v5: bool, max_packet: int = 268_435_460, alias_max: int = 0) -> None:
        self.v5 = v5
        self.max_packet = max(max_packet, 128)
        self.alias_max = alias_max
        self._aliases: "dict[int, bytes]" = {}
        self._buf = b""
        self._pos = 0
        self._part: "bytearray | None" = None  # a long packet being collected,
        self._want = 0  # and its size
        self._skip = 0  # bytes of an oversize packet still to come
        self.told = 0  # packets

    def feed(self, data: bytes) -> None:
        """Take the next bytes; only when `drain` has returned False."""
        if self._skip:
            if self._skip >= len(data):
                self._skip -= len(data)
                return
            data = data[self._skip :]
            self._skip = 0
        if self._part is not None:
            missing = self._want - len(self._part)
            if len(data) <= missing:
                self._part.extend(data)
                return
            self._part.extend(data[:missing])
            data = data[missing:]
        pos = self._pos
        self._buf = self._buf[pos:] + data if pos < len(self._buf) else data
        self._pos = 0

    def drain(self, budget: int, on_publish: "OnPublish", on_packet: "OnPacket", on_oversize: "OnOversize") -> bool:
        """Tell at most `budget` complete packets; True when the rest waits for another call, False when bytes are due.

        on_publish(first byte, topic, packet id or 0, raw properties, body), on_packet(first byte, the rest) and
        on_oversize(first byte, topic, packet id or 0, size) stop the drain after their packet by returning true.
        Topics are not checked here (`check_topic`), properties not decoded. Raises ProtocolError.
        """
        if self._part is not None:
            if len(self._part) < self._want:
                return False
            stopped = self._tell_part(on_publish, on_packet)
            self.told += 1
            if stopped:
                return True
            budget -= 1
        buf = self._buf
        pos = self._pos
        end = len(buf)
        v5 = self.v5
        before = budget
        try:
            last = end - 1
            while pos < last:
                if budget <= 0:
                    return True
                first = buf[pos]
                length = buf[pos + 1]
                start = pos + 2
                if length > 127:
                    length &= 127
                    shift = 7
                    while True:
                        if start == end:
                            return False
                        more = buf[start]
                        start += 1
                        length |= (more & 127) << shift
                        if more < 128:
                            break
                        shift += 7
                        if shift > 21:
                            raise ProtocolError(0x81, "a packet length of more than 4 bytes")
                    stop = start + length
                    if stop - pos > self.max_packet:
                        told = self._oversize(buf[start : min(stop, end)], first, stop - pos, stop > end, on_oversize)
                        if told is None:
                            return False
                        self._skip = max(stop - end, 0)
                        pos = min(stop, end)
                        budget -= 1
                        if told:
                            return True
                        continue
                    if stop > end:
                        if stop - pos > _JOIN:
                            self._part = bytearray(buf[pos:])
                            self._want = stop - pos
                            pos = end
                        return False
                else:
                    stop = start + length
                    if stop > end:
                        return False
                if first != 0x30 and first & 0xF0 != 0x30:  # what comes most is asked for first
                    pos = stop
                    budget -= 1
                    if on_packet(first, buf[start:stop]):
                        return True
                    continue
                # The same as _publish below, in place: a call would cost a quarter of the time.
                if length < 2:
                    raise ProtocolError(0x81, "a PUBLISH cut short")
                at = start + 2
                body = at + buf[start + 1]
                if buf[start]:
                    body += buf[start] << 8
                topic_end = body
                packet_id = 0
                props = b""
                if first != 0x30 and first & 6:
                    if first & 6 == 6:
                        raise ProtocolError(0x81, "a PUBLISH of QoS 3")
                    body += 2
                    if body <= stop:
                        packet_id = buf[topic_end] << 8 | buf[topic_end + 1]
                        if not packet_id:
                            raise ProtocolError(0x82, "packet identifier 0")
                if v5:
                    if body >= stop:
                        raise ProtocolError(0x81, "a PUBLISH cut short")
                    length = buf[body]
                    body += 1
                    if length:
                        if length > 127:
                            length, body = read_variable(buf, body - 1, stop)
                        at_props = body
                        body += length
                        props = buf[at_props:body]
                if body > stop:
                    raise ProtocolError(0x81, "a PUBLISH cut short")
                topic = buf[at:topic_end]
                if not topic or (props and b"#" in props):
                    topic = self._alias(topic, props)
                pos = stop
                budget -= 1
                if on_publish(first, topic, packet_id, props, buf[body:stop]):
                    return True
            return False
        finally:
            self.told += before - budget
            if pos < end:
                self._pos = pos
            else:
                self._buf = b""
                self._pos = 0

    def _tell_part(self, on_publish: "OnPublish", on_packet: "OnPacket") -> "Any":
        """Tell the packet that has been collected, its body copied once."""
        part: "Any" = self._part
        self._part = None
        first = part[0]
        at = 1
        while part[at] > 127:
            at += 1
        rest = memoryview(part)[at + 1 :]
        if first & 0xF0 != 0x30:
            return on_packet(first, bytes(rest))
        topic, packet_id, props, body = _publish(rest, first, self.v5)
        if not topic or (props and b"#" in props):
            topic = self._alias(topic, props)
        return on_publish(first, topic, packet_id, props, bytes(rest[body:]))

    def _oversize(self, rest: bytes, first: int, size: int, partial: bool, on_oversize: "OnOversize") -> "Any":
        """Tell a packet that is too big, by its first bytes; None when they do not yet say which one it is."""
        if first & 0xF0 != 0x30:
            raise ProtocolError(0x95, "a packet of type %d with %d bytes" % (first >> 4, size))
        at = len(rest)
        try:
            topic, packet_id, props, at = _publish(rest, first, self.v5)
        except ProtocolError as error:
            if error.reason != 0x81 or not partial or first & 6 == 6:
                raise
            if at < _HEADER:
                return None
        if at > _HEADER:
            raise ProtocolError(0x95, "a PUBLISH of %d bytes with an endless header" % size)
        if not topic or (props and b"#" in props):
            topic = self._alias(topic, props)
        return bool(on_oversize(first, topic, packet_id, size))

    def _alias(self, topic: bytes, props: bytes) -> bytes:
        """The topic of a PUBLISH that may use or set an alias."""
        if self.v5:
            from .mqtt_properties import resolve_alias

            topic = resolve_alias(topic, props, self._aliases, self.alias_max)
        if not topic:
            raise ProtocolError(0x82, "a PUBLISH without a topic")
        return topic


def _publish(rest: "Any", first: int, v5: bool) -> "tuple[bytes, int, bytes, int]":
    """Topic, packet identifier, raw properties and where the body begins, of a PUBLISH without its fixed header."""
    size = len(rest)
    if first & 6 == 6:
        raise ProtocolError(0x81, "a PUBLISH of QoS 3")
    if size > 1:
        topic_end = at = 2 + (rest[0] << 8 | rest[1])
        packet_id = 0
        props = b""
        if first & 6:
            at += 2
            if at <= size:
                packet_id = rest[at - 2] << 8 | rest[at - 1]
                if not packet_id:
                    raise ProtocolError(0x82, "packet identifier 0")
        if not v5:
            if at <= size:
                return bytes(rest[2:topic_end]), packet_id, props, at
        elif at < size:
            length, at = read_variable(rest, at, size)
            if at + length <= size:
                return bytes(rest[2:topic_end]), packet_id, bytes(rest[at : at + length]), at + length
    raise ProtocolError(0x81, "a PUBLISH cut short")


def read_variable(buf: "Any", at: int, stop: int) -> "tuple[int, int]":
    """A variable byte integer (1.5.5) and where it ends."""
    value = shift = 0
    while at < stop and shift < 28:
        more = buf[at]
        at += 1
        value |= (more & 127) << shift
        if more < 128:
            return value, at
        shift += 7
    raise ProtocolError(0x81, "a broken variable length")
