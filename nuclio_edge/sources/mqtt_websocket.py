"""MQTT over a websocket (RFC 6455, MQTT 5 section 6): the handshake, and frames under a socket's manners."""

from __future__ import annotations

import binascii
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_CONTINUATION, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LONGEST_HEAD = 16384
_LONGEST_CONTROL = 125


def upgrade(sock: Any, host: str, port: int, path: str, *, secure: bool) -> bytes:
    """Do the handshake on a blocking socket with a timeout; the bytes that came after it. OSError when it fails."""
    key = binascii.b2a_base64(os.urandom(16), newline=False)
    place = f"[{host}]" if ":" in host else host
    if port != (443 if secure else 80):
        place += f":{port}"
    head = [
        f"GET {path} HTTP/1.1",
        f"Host: {place}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: mqtt",
        "\r\n",
    ]
    sock.sendall("\r\n".join(head).encode())
    got = b""
    while b"\r\n\r\n" not in got:
        try:
            more = sock.recv(4096)
        except ConnectionError:
            more = b""
        if not more and not got:
            plain = "mqtts" if secure else "mqtt"
            raise OSError(f"the server hangs up on HTTP: if port {port} speaks none, write {plain}:// in url")
        if not more or len(got) > _LONGEST_HEAD:
            raise OSError("the websocket handshake was cut off")
        got += more
    head_bytes, _, rest = got.partition(b"\r\n\r\n")
    lines = head_bytes.split(b"\r\n")
    status = lines[0].split(b" ", 2)
    if len(status) < 2 or status[1] != b"101":
        raise OSError("the server does not speak websocket here: " + lines[0].decode("latin-1")[:80])
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if fields.get(b"sec-websocket-accept") != _accept(key):
        raise OSError("the websocket handshake was answered with a wrong key")
    return rest


def _accept(key: bytes) -> bytes:
    try:
        from _sha1 import sha1  # type: ignore[import-not-found]  # 3 MB less than hashlib
    except ImportError:
        from hashlib import sha1
    return binascii.b2a_base64(sha1(key + _GUID).digest(), newline=False)  # noqa: S324 - RFC 6455 wants it


def mask(data: bytes, key: bytes) -> bytes:
    """Data under a masking key (RFC 6455, 5.3), by one long number: 200 times faster than byte by byte."""
    size = len(data)
    return (int.from_bytes(data, "big") ^ int.from_bytes((key * (size // 4 + 1))[:size], "big")).to_bytes(size, "big")


class WebSocket:
    """The bytes inside the frames of a non-blocking socket. `send` takes all or, when full, nothing."""

    def __init__(self, inner: Any, rest: bytes = b"") -> None:
        self._inner = inner
        self._raw = bytearray(rest)
        self._left = 0  # bytes of the present data frame still to come
        self._key = b""  # a server must not mask; one that does is understood
        self._unsent = b""
        self._taken = 0
        self._ended = False
        self.fileno = inner.fileno
        self.close = inner.close
        self.setblocking = inner.setblocking

    def pending(self) -> int:
        """How many bytes may be there without the descriptor being ready."""
        inner = getattr(self._inner, "pending", None)
        return len(self._raw) + (inner() if inner is not None else 0)

    def recv(self, size: int) -> bytes:
        """The payload of what has come; b"" at the end, BlockingIOError when nothing is there yet."""
        if self._ended:
            return b""
        try:
            more = self._inner.recv(size)
            if not more:
                return b""
            self._raw += more
        except BlockingIOError:
            if not self._raw:
                raise
        out = bytearray()
        while self._raw and not self._ended:
            if self._left:
                part = bytes(self._raw[: self._left])
                del self._raw[: self._left]
                self._left -= len(part)
                out += self._unmask(part)
            elif not self._frame():
                break
        if not out and not self._ended:
            raise BlockingIOError
        return bytes(out)

    def send(self, data: bytes) -> int:
        """How many bytes of `data` were taken; after a refusal the same bytes come again."""
        if not self._unsent:
            self._unsent = self._framed(_BINARY, data)
            self._taken = len(data)
        if not self._push():
            raise BlockingIOError
        return self._taken

    def _push(self) -> bool:
        while self._unsent:
            try:
                sent = self._inner.send(self._unsent)
            except BlockingIOError:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def _frame(self) -> bool:
        """Begin the next frame; False when its head (or a control frame's payload) is not all there."""
        raw = self._raw
        if len(raw) < 2:
            return False
        kind = raw[0] & 15
        size = raw[1] & 127
        at = 2
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(raw) < at:
                return False
            size = int.from_bytes(raw[2:at], "big")
        key = b""
        if raw[1] & 128:
            if len(raw) < at + 4:
                return False
            key = bytes(raw[at : at + 4])
            at += 4
        if kind in (_CONTINUATION, _BINARY):
            del raw[:at]
            self._left, self._key = size, key
            return True
        if kind not in (_CLOSE, _PING, _PONG) or size > _LONGEST_CONTROL:
            raise ConnectionError("a websocket frame that MQTT does not have")
        if len(raw) < at + size:
            return False
        payload = bytes(raw[at : at + size])
        del raw[: at + size]
        if kind == _CLOSE:
            self._ended = True
        elif kind == _PING and not self._unsent:
            self._unsent = self._framed(_PONG, mask(payload, key) if key else payload)
            self._taken = 0
            self._push()
        return True

    def _unmask(self, part: bytes) -> bytes:
        if not self._key:
            return part
        shift = len(part) % 4
        out = mask(part, self._key)
        self._key = self._key[shift:] + self._key[:shift]
        return out

    @staticmethod
    def _framed(kind: int, data: bytes) -> bytes:
        size = len(data)
        if size < 126:
            head = bytes((0x80 | kind, 0x80 | size))
        elif size < 65536:
            head = bytes((0x80 | kind, 0xFE)) + size.to_bytes(2, "big")
        else:
            head = bytes((0x80 | kind, 0xFF)) + size.to_bytes(8, "big")
        key = os.urandom(4)
        return head + key + mask(data, key)
