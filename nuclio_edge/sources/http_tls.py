"""TLS for a server: its context, and a connection that shakes hands on the loop, never waiting.

A handshake costs the loop the signature with the key (0.1 ms for ECDSA, 1 ms for RSA on x86, ten times that on a small
board), everything else is a matter of readiness. Imported only when a certificate is named.
"""

from __future__ import annotations

import os
import ssl

from nuclio_edge.core.port import IN
from nuclio_edge.sources.http_connection import Connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.sources.http_server import Server


def context(cert: str, key: Any, client_ca: str | None = None) -> ssl.SSLContext:
    """A server's context: TLS 1.2 and 1.3; ssl.SSLError or OSError when certificate and key are none or no pair.

    `key` is a path, or a Secret whose content goes through memory, never a disk.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    made.set_alpn_protocols(["http/1.1"])
    if client_ca is not None:
        made.load_verify_locations(client_ca)
        made.verify_mode = ssl.CERT_REQUIRED
    content = getattr(key, "content", None)
    if content is None:
        made.load_cert_chain(cert, key, _no_password)
        return made
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        made.load_cert_chain(cert, f"/proc/self/fd/{descriptor}", _no_password)
    finally:
        os.close(descriptor)
    return made


class Certificate:
    """A server's certificate as its files are; what is renewed on the device is used from the next connection on.

    A renewal that cannot be used (half of a pair, half a file) is told once, and the old one stays until it can.
    """

    def __init__(self, cert: str, key: Any, client_ca: str | None, log: Any) -> None:
        """Read it; errors as of `context`."""
        self._given = (cert, key, client_ca)
        self._log = log
        self._made_of = self._files()  # before they are read: a change meanwhile is seen by the next connection
        self._context = context(cert, key, client_ca)

    def current(self) -> ssl.SSLContext:
        """The context for a new connection: three calls of stat beside a handshake of a millisecond."""
        files = self._files()
        if files != self._made_of:
            self._made_of = files
            try:
                self._context = context(*self._given)
            except (OSError, ValueError) as error:
                why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
                self._log.warn_with("a renewed certificate cannot be used", "cert", self._given[0], "reason", why)
            else:
                self._log.info_with("a renewed certificate is in use", "cert", self._given[0])
        return self._context

    def _files(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for path in self._given:
            if isinstance(path, str):
                try:
                    about = os.stat(path)
                except OSError:
                    found.append(None)
                else:
                    found.append((about.st_ino, about.st_size, about.st_mtime_ns))
        return found


def _no_password() -> bytes:
    return b""  # an encrypted key is an error, not a question on the terminal


def identity(certificate: Any) -> str:
    """Whom a client's certificate names: its common name, else its first alternative name."""
    if not certificate:
        return ""
    for part in certificate.get("subject", ()):
        for name, value in part:
            if name == "commonName":
                return str(value)
    for _, value in certificate.get("subjectAltName", ()):
        return str(value)
    return ""


class TlsConnection(Connection):
    """A connection that speaks TLS."""

    __slots__ = ("_shaking", "_since_shake", "_tls")

    def __init__(self, server: Server, sock: Any, peer: str, certificate: Certificate) -> None:
        made = certificate.current()
        self._tls = made.wrap_socket(sock, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True)
        super().__init__(server, self._tls, peer, "https")
        self._shaking = True
        self._since_shake = server.loop.now

    def _ready(self, mask: int) -> None:
        if self._shaking:
            self._shake()
            if self._shaking or self._sock is None:
                return
            mask = IN  # what came with the end of the handshake is in OpenSSL's buffer, which epoll does not see
        super()._ready(mask)
        while self._sock is not None and self._interest & IN and self._tls.pending():
            super()._ready(IN)

    def _shake(self) -> None:
        loop = self.server.loop
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            loop.modify(self._tls, True, False)
            return
        except ssl.SSLWantWriteError:
            loop.modify(self._tls, False, True)
            return
        except OSError:  # no TLS, no common version, no certificate that we accept
            self.server.count("handshake failed")
            self.lost()
            return
        self._shaking = False
        loop.modify(self._tls, True, False)
        self._interest = IN
        if self._tls.context.verify_mode == ssl.CERT_REQUIRED:
            peer, scheme, _ = self.origin
            self.origin = (peer, scheme, identity(self._tls.getpeercert()))

    def _failed(self, error: OSError) -> None:
        if not isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
            super()._failed(error)

    def _want(self) -> None:
        super()._want()
        # Bytes that OpenSSL has taken from the socket make no descriptor ready: come back for them by ourselves.
        if self._sock is not None and self._interest & IN and self._tls.pending() and not self.reading:
            self.server.loop.call_soon(self._again)

    def _again(self) -> None:
        if self._sock is not None and self._interest & IN and self._tls.pending():
            self._ready(IN)

    def deadline(self) -> int:
        """As ever, and a limit for the handshake."""
        if self._shaking:
            return self._since_shake + self.server.header_timeout
        return super().deadline()

    def expire(self) -> None:
        """As ever; during the handshake nothing can be said."""
        if self._shaking:
            self.server.count("handshake failed")
            self.lost()
        else:
            super().expire()

    def idle(self) -> bool:
        """As ever; one that shakes hands is at work."""
        return not self._shaking and super().idle()

    def retire(self) -> None:
        """As ever; one that shakes hands has asked for nothing yet."""
        if self._shaking:
            self.lost()
        else:
            super().retire()

    def _shut(self, sock: Any) -> None:
        """Say close_notify; what follows is the socket's own."""
        try:
            sock.unwrap()
        except (OSError, ValueError):
            pass  # it wants the client's answer, for which nobody waits
        super()._shut(sock)
