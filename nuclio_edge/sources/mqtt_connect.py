"""Making a connection on a thread of its own: name, TCP, TLS and websocket take their time, the loop waits for none.

What comes out is a socket for the loop: non-blocking, with recv, send, fileno and close; `pending()` where bytes may
wait in user space (TLS, websocket) that no poll shows.
"""

from __future__ import annotations

import socket
import threading

from nuclio_edge.sources.mqtt_lean import import_lean

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.manifest.schema import Values

TIMEOUT_S = 10.0  # for each of: one address, the TLS handshake, the websocket handshake
AWS_PORT, AWS_ALPN = 443, "x-amzn-mqtt-ca"  # how AWS IoT tells MQTT from HTTP on the port that every firewall lets out


class Target:
    """Where a broker is and how it is spoken to; keeps the TLS context, which costs 50 ms to make."""

    def __init__(self, scheme: str, host: str, port: int, path: str, params: Values) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.path = path
        self.params = params
        self._context: ssl.SSLContext | None = None

    @property
    def tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("mqtts", "wss")

    def context(self) -> ssl.SSLContext:
        """The TLS context; made on the connector's thread, as it reads files. OSError or ValueError if it cannot be."""
        if self._context is None:
            import_lean("ssl", {"base64": {}})  # which it uses to print certificates; 0.25 MB
            import ssl

            params = self.params
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if params.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            elif params.ca:
                context.load_verify_locations(params.ca)
            else:
                _trust_the_system(context)
            if params.cert:
                _load_pair(context, params.cert, params.key)
            if self.scheme == "mqtts" and self.port == AWS_PORT:
                context.set_alpn_protocols([AWS_ALPN])
            self._context = context
        return self._context


class Connector:
    """One attempt: runs at once, and calls `done(socket, "")` or `done(None, why not)` on the loop, unless aborted."""

    def __init__(
        self, target: Target, post: Callable[[Callable[[], Any]], Any], done: Callable[[Any, str], Any]
    ) -> None:
        self._target = target
        self._post = post
        self._done = done
        self._lock = threading.Lock()
        self._socket: Any = None
        self._aborted = False
        self._thread = threading.Thread(target=self._run, name="mqtt-connect", daemon=True)
        self._thread.start()

    def abort(self) -> None:
        """Give up; `done` is not called any more. Returns when the thread has ended, or after a second in DNS."""
        with self._lock:
            self._aborted = True
            if self._socket is not None:
                try:
                    self._socket.shutdown(socket.SHUT_RDWR)  # what makes connect and recv of the thread return
                except OSError:
                    pass
        self._thread.join(1.0)

    def _run(self) -> None:
        made, why = None, ""
        try:
            made = self._connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said and tried again
            why = reason(error)
        self._hold(None)
        if self._aborted:
            if made is not None:
                made.close()
            return
        self._post(lambda: self._hand_over(made, why))

    def _hand_over(self, made: Any, why: str) -> None:
        self._thread.join()
        if self._aborted:
            if made is not None:
                made.close()
        else:
            self._done(made, why)

    def _connect(self) -> Any:
        target = self._target
        context = target.context() if target.tls else None
        tcp = self._connect_tcp(target.host, target.port)
        made: Any = tcp
        try:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # we write once a turn: nothing to gather
            if context is not None:
                # A shutdown of the TCP socket reaches into the handshake; wrap_socket takes the descriptor over.
                made = context.wrap_socket(tcp, server_hostname=target.host, do_handshake_on_connect=False)
                self._hold(made)
                made.do_handshake()
            if target.scheme in ("ws", "wss"):
                from nuclio_edge.sources.mqtt_websocket import WebSocket, upgrade

                rest = upgrade(made, target.host, target.port, target.path, secure=target.tls)
                made.setblocking(False)
                return WebSocket(TlsSocket(made) if target.tls else made, rest)
            made.setblocking(False)
            return TlsSocket(made) if target.tls else made
        except BaseException:
            made.close()
            raise

    def _connect_tcp(self, host: str, port: int) -> Any:
        last: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
            if self._aborted:
                break
            made = socket.socket(family, kind, protocol)
            try:
                self._hold(made)
                made.settimeout(TIMEOUT_S)
                made.connect(address)
                return made
            except OSError as error:
                last = error
                self._hold(None)
                made.close()
        raise last

    def _hold(self, made: Any) -> None:
        with self._lock:
            self._socket = made
            if made is not None and self._aborted:
                raise OSError("aborted")


class TlsSocket:
    """A TLS socket with the manners of a plain one: BlockingIOError where TLS wants to read or write first."""

    def __init__(self, inner: ssl.SSLSocket) -> None:
        import ssl

        self._inner = inner
        self._wait = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._end = ssl.SSLError
        self.fileno = inner.fileno
        self.close = inner.close
        self.setblocking = inner.setblocking
        self.pending = inner.pending
        self.shutdown = inner.shutdown

    def recv(self, size: int) -> bytes:
        """At most `size` bytes; b"" at the end."""
        try:
            return self._inner.recv(size)
        except self._wait:
            raise BlockingIOError from None

    def send(self, data: bytes) -> int:
        """How many bytes were taken; what was refused is to be sent again as it was."""
        try:
            return self._inner.send(data)
        except self._wait:
            raise BlockingIOError from None


def reason(error: BaseException) -> str:
    """Why a connection failed, in words for a log line."""
    verify = getattr(error, "verify_message", "")
    if verify:
        return f"the server's certificate is not accepted: {verify}"
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text[:1].lower() + text[1:] if isinstance(text, str) else str(text)


def _trust_the_system(context: ssl.SSLContext) -> None:
    """The system's authorities: from its folder if it has one, where OpenSSL looks up the one that it needs.

    The bundle in one file, which is what Python loads by default, costs 1.3 MB and 20 ms.
    """
    import os
    import ssl

    paths = ssl.get_default_verify_paths()
    if paths.capath and not os.environ.get(paths.openssl_cafile_env):
        with os.scandir(paths.capath) as entries:
            if any(entry.name.endswith(".0") for entry in entries):  # by hash, as c_rehash makes them
                context.load_verify_locations(capath=paths.capath)
                return
    context.load_default_certs()


def _load_pair(context: ssl.SSLContext, cert: str, key: Any) -> None:
    """The client's certificate and key; a key given as a secret's content goes through memory, never a disk."""
    content = getattr(key, "content", None)
    if content is None:
        context.load_cert_chain(cert, key)
        return
    import os

    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        context.load_cert_chain(cert, f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
