"""One connection by stock paho: for a paho whose private names are not those that the fast path knows.

The same to the source as `mqtt_link.Link`, by paho's public calls. What it cannot do as well: a packet above
`max_packet` is read whole before it is thrown away; paho answers QoS 2 with PUBREC when it arrives (its manual
acknowledgement holds PUBCOMP back, not PUBREC) and delivers it at PUBREL, so that a process that dies in between loses
it; and paho cannot ping while reading is paused, so that a pause longer than the keepalive costs the connection.
"""

from __future__ import annotations

from collections import deque

from nuclio_edge.core.mqtt_codec import ProtocolError, Reader
from nuclio_edge.core.mqtt_compose import packet as compose
from nuclio_edge.core.mqtt_properties import check_topic
from nuclio_edge.core.port import IN, OUT
from nuclio_edge.sources.mqtt_outage import CLOSED, SILENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.core.loop import Loop, Timer
    from nuclio_edge.sources.mqtt_link import Sink

_PUBLISH = 0x30
_PUBACK, _PUBREC, _DISCONNECT = 4, 5, 14
_LONGEST_TICK_MS = 5_000


class _Count:
    """What of a Reader the source asks for."""

    told = 0


class StockLink:
    """paho's loop_read, loop_write and loop_misc on our loop; loop thread only, calls nobody after `close`."""

    def __init__(self, loop: Loop, sock: Any, sink: Sink, client: Any, *, v5: bool, max_packet: int) -> None:
        self.loop = loop
        self.sock = sock
        self.sink = sink
        self.v5 = v5
        self.closed = False
        self.paused = False
        self.read_at = loop.now
        self.reader = _Count()
        self._client = client
        self._max_packet = max_packet
        self._fd: int = sock.fileno()
        self._writing = False
        self._deaf = False
        self._saying = False
        self._over = False  # paho has closed the socket; the sink is told next
        self._waiting: deque[Any] = deque()  # read and not yet told
        self._timer: Timer | None = None
        self._period = 0
        client.on_message = self._on_message
        client.unreadable = self._on_unreadable
        client.on_disconnect = self._on_disconnect
        client.on_socket_register_write = lambda _c, _d, _s: self._watch(writing=True)
        client.on_socket_unregister_write = lambda _c, _d, _s: self._watch(writing=False)
        loop.add(self._fd, self._ready)

    @property
    def queued(self) -> int:
        """Bytes that wait to be written, as far as paho tells: 1 for some."""
        return 1 if self._client.want_write() else 0

    # -- reading ------------------------------------------------------------------------------------------------------

    def _ready(self, mask: int) -> None:
        if mask & OUT and not self.closed:
            self._client.loop_write()
        if mask & IN and not self.closed and not self._over:
            if self.paused:
                self._deaf = True
                self.loop.remove(self._fd)
            else:
                self._read()

    def _read(self) -> None:
        if self.closed or self.paused or self._over:
            return
        self.read_at = self.loop.now
        self._client.loop_read()
        self._tell_all()
        pending = getattr(self.sock, "pending", None)
        if not self.closed and not self._over and pending is not None and pending():
            self.loop.call_soon(self._read)

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        # Told when paho has returned: it holds a lock in its callbacks, and ending the connection in one waits for it.
        self._waiting.append(message)

    def _on_unreadable(self, first: int, rest: bytes, error: Exception) -> None:
        self._waiting.append((first, rest, error))

    def _tell_all(self) -> None:
        try:
            while self._waiting and not self.paused and not self.closed:
                self._tell(self._waiting.popleft())
        except Exception:
            self.loop.call_soon(self._read)  # one that goes wrong does not keep those behind it
            raise

    def _tell(self, message: Any) -> None:
        if type(message) is tuple:
            self._tell_unreadable(*message)
            return
        try:
            topic = message.topic.encode()
            check_topic(topic)
        except UnicodeDecodeError:
            topic = b"\xff"  # whatever it was: no topic
        except ProtocolError:
            pass  # the sink will find the same
        first = 0x30 | message.qos << 1 | (8 if message.dup else 0) | (1 if message.retain else 0)
        props = b""
        if message.properties is not None:
            packed = message.properties.pack()
            at = 1
            while packed[at - 1] > 127:
                at += 1
            props = packed[at:]
        body = bytes(message.payload)
        self.reader.told += 1
        size = len(topic) + len(props) + len(body) + 9
        if size > self._max_packet:
            stop = self.sink.on_oversize(first, topic, message.mid, size)
        else:
            stop = self.sink.on_publish(first, topic, message.mid if message.qos else 0, props, body)
        if stop and not self.closed:
            self.pause()

    def _tell_unreadable(self, first: int, rest: bytes, error: Exception) -> None:
        """A packet that made no sense to paho: a PUBLISH is the sink's to refuse, or to take."""
        if first & 0xF0 != _PUBLISH:
            self.sink.on_broken(ProtocolError(0x81, f"a packet that makes no sense to paho ({error})"))
            return
        reader = Reader(self.v5)
        reader.feed(compose(first, rest))
        try:
            stop = reader.drain(1, self.sink.on_publish, self.sink.on_packet, self.sink.on_oversize)
        except ProtocolError as found:
            self.sink.on_broken(found)
            return
        self.reader.told += 1
        if stop and not self.closed:
            self.pause()

    def pause(self) -> None:
        """Read nothing more for now."""
        if not self.paused and not self.closed:
            self.paused = True
            self._watch(writing=self._writing)

    def resume(self) -> None:
        """Go on with what was read, then read again."""
        if not self.paused or self.closed:
            return
        self.paused = False
        if not self._over:
            if self._deaf:
                self._deaf = False
                self.loop.add(self._fd, self._ready, write=self._writing)
            self._watch(writing=self._writing)
            self.loop.call_soon(self._read)
        self._tell_all()

    def _watch(self, *, writing: bool) -> None:
        self._writing = writing
        if not self._deaf and not self.closed:
            self.loop.modify(self._fd, not self.paused, writing)

    # -- writing ------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Say the same by paho: acknowledgements and messages of QoS 0; the rest paho says by itself."""
        if not self.closed:
            packets = Reader(self.v5)
            packets.feed(data)
            packets.drain(len(data), self._say_publish, self._say_packet, self.sink.on_oversize)

    def _say_publish(self, first: int, topic: bytes, _packet_id: int, props: bytes, body: bytes) -> bool:
        from nuclio_edge.core.mqtt_properties import unpack_properties
        from nuclio_edge.sources.mqtt_outbox import paho_properties

        pairs = tuple(unpack_properties(props))
        self._client.publish(topic.decode(), body, 0, bool(first & 1), paho_properties(pairs) if self.v5 else None)
        return False

    def _say_packet(self, first: int, rest: bytes) -> bool:
        mid = int.from_bytes(rest[:2], "big")
        if first >> 4 == _PUBACK:
            self._client.ack(mid, 1)
        elif first >> 4 == _PUBREC:
            self._client.ack(mid, 2)  # delivered at PUBREL: PUBCOMP is what is due, and the identifier is free
            self.reader.told += 1
            self.sink.on_packet(0x62, rest[:2])
        return False

    def flush(self) -> None:
        """Write what paho has waiting."""
        if not self.closed:
            self._client.loop_write()

    # -- staying alive, ending ----------------------------------------------------------------------------------------

    def keep_alive(self, keepalive_ms: int) -> None:
        """Let paho ping after that much silence; 0: never."""
        self._period = min(keepalive_ms // 4, _LONGEST_TICK_MS)
        if self._period:
            self._timer = self.loop.call_later(self._period, self._tick)

    def ping(self) -> None:
        """Nothing: paho pings by itself."""

    def _tick(self) -> None:
        self._timer = None
        if self.closed:
            return
        if not self.paused:
            self._client.loop_misc()
        if not self.closed and not self._over:
            self._timer = self.loop.call_later(self._period, self._tick)

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, reason: Any, _props: Any) -> None:
        """The sink is told when paho has returned: it may be going through its messages, which the sink takes from."""
        if self.closed or self._saying or self._over:
            return
        self._over = True
        if not self._deaf:
            self._deaf = True
            self.loop.remove(self._fd)  # its number may be another's in a moment
        self.loop.call_soon(lambda: self._tell_end(flags, reason))

    def _tell_end(self, flags: Any, reason: Any) -> None:
        if self.closed:
            return
        if flags.is_disconnect_packet_from_server:
            self.reader.told += 1
            self.sink.on_packet(0xE0, bytes((reason.value,)))
        elif reason.value == 0x82:
            self.sink.on_broken(ProtocolError(0x82, "paho found a packet malformed"))
        else:
            silent = reason.value == 0x8D
            why = "no answer to a ping" if silent else "the broker closed the connection"
            self.sink.on_lost(why, SILENT if silent else CLOSED)

    def say_goodbye(self, reason: int = 0) -> None:
        """Write what waits and a DISCONNECT, as far as the socket takes it at once."""
        if self.closed:
            return
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.reasoncodes import ReasonCode

        self._saying = True
        self._client.disconnect(ReasonCode(PacketTypes.DISCONNECT, identifier=reason) if self.v5 and reason else None)
        self._client.loop_write()

    def close(self) -> None:
        """Let go of the socket and the timer; idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._deaf:
            self.loop.remove(self._fd)
        self.sock.close()
