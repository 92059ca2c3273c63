"""One UDP socket: up to 64 datagrams a wake-up in, replies out from the address at which the request came.

A wake-up that brings several requests sends its replies eight at a time: those for one peer, if they are of one length,
with one system call that the kernel cuts into datagrams (UDP_SEGMENT, udp(7)): 0.7 us a reply, against 4.2 us.
"""

from __future__ import annotations

import _socket as socket  # what `socket` wraps: with its enums and selectors that costs 1.2 MB more
import errno
from sys import byteorder
from time import perf_counter_ns

from nuclio_edge.sources.coap_peer import Peers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.core.loop import Loop
    from nuclio_edge.sources.coap_peer import Peer

    Take = Callable[[Any, bytes, tuple[Any, ...], Any], Any]

BUDGET = 64  # datagrams a wake-up, so that a flood here starves no other source
TOGETHER = 8  # replies are sent after so many: a peer with a window of 16 fills it again while the rest is handled
PATIENCE_NS = 500_000  # and no reply waits longer for others than this and one handler
LARGEST = 4096  # bytes of a datagram; more than fits into an Ethernet frame is meant to come in blocks
_CONTROL = 64  # bytes for the kernel to say at which address it came
# Constants of Linux that Python's socket module lacks (linux/in.h, linux/in6.h).
_IP_PKTINFO, _IP_MULTICAST_ALL, _IPV6_MULTICAST_ALL = 8, 49, 29
_SOL_UDP, _UDP_SEGMENT = 17, 103  # linux/udp.h


class Endpoint:
    """A bound socket that reads on the loop. `take(endpoint, datagram, address, info)` gets each datagram.

    Bound to all addresses, it asks the kernel at which of them each datagram came (`info`), and answers from there: a
    peer ignores what comes from another one.
    """

    def __init__(self, loop: Loop, host: str, port: int, take: Take, group: str = "") -> None:
        """Bind; OSError when that cannot be. `group` is a multicast group to listen to instead of an address."""
        self.loop = loop
        self.host = host
        self.group = group
        self.peers = Peers(self)
        self.unsent = 0  # datagrams for which the kernel had no room
        self._take = take
        bare, _, scope = (group or host).partition("%")
        family = socket.AF_INET6 if ":" in bare else socket.AF_INET
        self.family = family
        self.everywhere = not group and bare in ("::", "0.0.0.0")  # noqa: S104 - compared with, not bound to
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._configure()
            where: Any = (bare, port)
            if family == socket.AF_INET6:
                where = (bare, port, 0, _scope(scope))
            self._socket.bind(where)
            if group:
                self._join(bare, scope)
        except BaseException:
            self._socket.close()
            raise
        self.port: int = self._socket.getsockname()[1]
        self.sendto = self._socket.sendto
        self.gathers = False  # a reply goes to `gather`, rather than out at once
        self._due: list[Peer] = []  # for whom replies are gathered
        self._can_segment = _segments(self._socket)
        loop.add(self._socket, self._read_everywhere if self.everywhere else self._read)
        self.reading = True

    def _configure(self) -> None:
        options = self._socket.setsockopt
        if self.family == socket.AF_INET6:
            options(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if self.everywhere else 1)
            if self.everywhere:
                options(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        elif self.everywhere:
            options(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        if self.group:
            options(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            return
        # Without these a socket bound to all addresses hears every group that anybody on the device has joined.
        for level, name in ((socket.IPPROTO_IP, _IP_MULTICAST_ALL), (socket.IPPROTO_IPV6, _IPV6_MULTICAST_ALL)):
            try:
                options(level, name, 0)
            except OSError:
                pass  # the other family, or a kernel before 4.20

    def _join(self, group: str, scope: str) -> None:
        if self.family == socket.AF_INET:
            member = socket.inet_aton(group) + socket.inet_aton(scope or "0.0.0.0")  # noqa: S104 - any interface
            self._socket.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            return
        numbers = [_scope(scope)] if scope else [number for number, _ in socket.if_nameindex()]
        joined = 0
        for number in numbers:
            member = socket.inet_pton(socket.AF_INET6, group) + number.to_bytes(4, "little")
            try:
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)
                joined += 1
            except OSError:
                continue  # an interface without multicast
        if not joined:
            raise OSError(errno.ENODEV, "no interface could join the group")

    def pause(self) -> None:
        """Leave what comes to the kernel's buffer."""
        if self.reading:
            self.reading = False
            self.loop.remove(self._socket)

    def resume(self) -> None:
        """Read again."""
        if not self.reading and self._socket.fileno() >= 0:
            self.reading = True
            self.loop.add(self._socket, self._read_everywhere if self.everywhere else self._read)

    def send(self, datagram: bytes, peer: Peer) -> None:
        """Send, or count what could not be sent: whoever waits for it asks again."""
        if peer.due:
            self._flush()  # in their order
        try:
            if peer.control:
                self._socket.sendmsg((datagram,), peer.control, 0, peer.address)
            else:
                self.sendto(datagram, peer.address)
        except OSError:
            self.unsent += 1

    def gather(self, datagram: bytes, peer: Peer) -> None:
        """Send it with others, before long; only while `gathers`."""
        due = peer.due
        if not due:
            self._due.append(peer)
        due.append(datagram)

    def _flush(self) -> None:
        """Send what was gathered, those of one length that follow each other by one call."""
        peers, self._due = self._due, []
        for peer in peers:
            due, peer.due = peer.due, []
            at = 0
            while at < len(due):
                size = len(due[at])
                end = at + 1
                while end < len(due) and len(due[end]) == size:
                    end += 1
                if end - at == 1 or not peer.segments or not self._send_cut(due[at:end], size, peer):
                    for datagram in due[at:end]:
                        self.send(datagram, peer)
                at = end

    def _send_cut(self, datagrams: list[bytes], size: int, peer: Peer) -> bool:
        """Send datagrams of one size as one that the kernel cuts; False when none of them was sent."""
        control = ((_SOL_UDP, _UDP_SEGMENT, size.to_bytes(2, byteorder)),)
        try:
            self._socket.sendmsg((b"".join(datagrams),), control, 0, peer.address)
        except OSError as error:
            if error.errno in _CANNOT_CUT:
                peer.segments = False
            return False
        return True

    def close(self) -> None:
        """Give the descriptor back."""
        self.pause()
        self._socket.close()

    def _read(self, _mask: int) -> None:
        receive, take = self._socket.recvfrom, self._take
        try:
            data, address = receive(LARGEST + 1)
            take(self, data, address, None)  # the first one's reply waits for nothing
            self.gathers = self._can_segment
            for _ in range(BUDGET // TOGETHER):
                until = perf_counter_ns() + PATIENCE_NS
                for _ in range(TOGETHER):
                    if not self.reading:
                        return
                    data, address = receive(LARGEST + 1)
                    take(self, data, address, None)
                    if perf_counter_ns() > until:
                        break
                if self._due:
                    self._flush()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in _OF_A_REPLY:
                raise
        finally:
            self.gathers = False
            if self._due:
                self._flush()

    def _read_everywhere(self, _mask: int) -> None:
        receive, take = self._socket.recvmsg, self._take
        try:
            data, info, _flags, address = receive(LARGEST + 1, _CONTROL)
            take(self, data, address, info)
            self.gathers = self._can_segment
            for _ in range(BUDGET // TOGETHER):
                until = perf_counter_ns() + PATIENCE_NS
                for _ in range(TOGETHER):
                    if not self.reading:
                        return
                    data, info, _flags, address = receive(LARGEST + 1, _CONTROL)
                    take(self, data, address, info)
                    if perf_counter_ns() > until:
                        break
                if self._due:
                    self._flush()
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in _OF_A_REPLY:
                raise
        finally:
            self.gathers = False
            if self._due:
                self._flush()

    def note(self, peer: Peer, info: Any) -> None:
        """Remember at which of our addresses a peer asks, and whether a reply would leave from there by itself."""
        peer.info = info
        peer.control = ()
        probe = socket.socket(self.family, socket.SOCK_DGRAM)
        try:
            if self.family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            probe.connect(peer.address)
            chosen = probe.getsockname()[0].partition("%")[0]
            for level, kind, data in info:
                if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                    came = data[:16]
                    if came[:1] != b"\xff" and socket.inet_pton(socket.AF_INET6, chosen) != came:
                        peer.control = ((level, kind, came + data[16:20]),)
                elif level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                    came = data[8:12]  # struct in_pktinfo: interface, our address, the header's destination
                    if not 224 <= came[0] <= 239 and socket.inet_aton(chosen) != came:
                        peer.control = ((level, kind, bytes(4) + came + bytes(4)),)
        except OSError:
            pass  # no route: then the reply will not leave either
        finally:
            probe.close()


# What an earlier reply met with, told at the next call (udp(7)).
_OF_A_REPLY = (
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EMSGSIZE, errno.EHOSTDOWN, errno.ENETDOWN,
    errno.EPROTO, errno.EINTR,
)  # fmt: skip


# The way to this peer has no checksums by hardware, is a tunnel, or takes only shorter ones (net/ipv4/udp.c).
_CANNOT_CUT = (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP)


def _segments(sock: Any) -> bool:
    """Whether the kernel (from 4.18 on) cuts what is sent; an older one would send it as one datagram."""
    try:
        sock.getsockopt(_SOL_UDP, _UDP_SEGMENT)
    except OSError:
        return False
    return True


def _scope(name: str) -> int:
    if not name:
        return 0
    return int(name) if name.isdigit() else socket.if_nametoindex(name)
