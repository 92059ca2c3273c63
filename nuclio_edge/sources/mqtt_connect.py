"""Making a connection on a thread of its own: name, TCP, TLS and websocket take their time, the loop waits for none.

What comes out is a socket for the loop: non-blocking, with recv, send, fileno and close; `pending()` where bytes may
wait in user space (TLS, websocket) that no poll shows.
"""

from __future__ import annotations

import socket
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.sources.mqtt_tls import Tls

TIMEOUT_S = 10.0  # for each of: one address, the TLS handshake, the websocket handshake


class Target:
    """Where a broker is and how it is spoken to."""

    def __init__(self, scheme: str, host: str, port: int, path: str, params: Values) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.path = path
        self.tls: Tls | None = None
        if scheme in ("mqtts", "wss"):
            from nuclio_edge.sources.mqtt_tls import Tls

            self.tls = Tls(host, port, secure_web=scheme == "wss", params=params)


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
            why = reason(error, self._target.tls)
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
        tls = target.tls
        if tls is not None:
            tls.prepare()
        tcp = self._connect_tcp(target.host, target.port)
        made: Any = tcp
        try:
            tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # we write once a turn: nothing to gather
            if tls is not None:
                # A shutdown of the TCP socket reaches into the handshake; wrap_socket takes the descriptor over.
                made = tls.wrap(tcp)
                self._hold(made)
                try:
                    made.do_handshake()
                except (ConnectionError, EOFError):
                    raise OSError(tls.hung_up()) from None
            if target.scheme in ("ws", "wss"):
                from nuclio_edge.sources.mqtt_websocket import WebSocket, upgrade

                rest = upgrade(made, target.host, target.port, target.path, secure=tls is not None)
                made.setblocking(False)
                return WebSocket(_smooth(made, tls), rest)
            made.setblocking(False)
            return _smooth(made, tls)
        except BaseException:
            made.close()
            raise

    def _connect_tcp(self, host: str, port: int) -> Any:
        last: OSError = OSError(f"{host} has no address")
        for family, kind, protocol, _, address in socket.getaddrinfo(without_idna(host), port, 0, socket.SOCK_STREAM):
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


def _smooth(made: Any, tls: Tls | None) -> Any:
    if tls is None:
        return made
    from nuclio_edge.sources.mqtt_tls import TlsSocket

    return TlsSocket(made, tls)


def reason(error: BaseException, tls: Tls | None = None) -> str:
    """Why a connection failed, in words for a log line."""
    if tls is not None and (said := tls.explain(error)):
        return said
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    if getattr(error, "filename", None):
        return f"{error.filename}: {text}"  # type: ignore[attr-defined]
    return text[:1].lower() + text[1:] if isinstance(text, str) else str(text)


def without_idna(host: str) -> str | bytes:
    """The host as ASCII bytes if it is that: text would load the tables of international names, 0.4 MB."""
    return host.encode() if host.isascii() else host
