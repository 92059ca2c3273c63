"""TLS to a broker: the context, the socket, and what is wrong in the words of who can mend it; needs ssl when used."""

from __future__ import annotations

import os

from nuclio_edge.sources.mqtt_connect import without_idna
from nuclio_edge.sources.mqtt_lean import import_lean

TYPE_CHECKING = False
if TYPE_CHECKING:
    import ssl
    from typing import Any

    from nuclio_edge.manifest.schema import Values

AWS_PORT, AWS_ALPN = 443, "x-amzn-mqtt-ca"  # how AWS IoT tells MQTT from HTTP on the port that every firewall lets out

# X509_V_ERR_… of OpenSSL
_NOT_YET, _EXPIRED, _OTHER_NAMES = 9, 10, (62, 64)
_UNKNOWN_ISSUER = (18, 19, 20, 21)
# What a peer that speaks no TLS is taken for, by OpenSSL's reason.
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
# Alerts of a server that wants a certificate and got none (TLS 1.3 and 1.2), and of one that does not like what it got.
_WANTS_ONE = ("CERTIFICATE_REQUIRED", "HANDSHAKE_FAILURE")
_REFUSED = ("UNKNOWN_CA", "CERTIFICATE", "ACCESS_DENIED", "DECRYPT_ERROR")
_FILES = {
    "KEY_VALUES_MISMATCH": "cert and key do not belong together",
    "NO_CERTIFICATE_OR_CRL_FOUND": "ca holds no certificate in PEM",
    "NO_START_LINE": "cert or key holds nothing in PEM",
    "PEM": "cert or key is not whole PEM, or the key has a pass phrase",
}


class Tls:
    """How one broker is spoken to over TLS. The context, which costs 50 ms to make, is kept until a file of it changes.

    So a certificate that is renewed on the device is used from the next connection on.
    """

    def __init__(self, host: str, port: int, *, secure_web: bool, params: Values) -> None:
        self.host = host
        self.port = port
        self.params = params
        self.scheme, self.plain = ("wss", "ws") if secure_web else ("mqtts", "mqtt")
        self._context: ssl.SSLContext | None = None
        self._made_of: Any = None

    def wrap(self, tcp: Any) -> ssl.SSLSocket:
        """The socket for a handshake that is yet to be done; on a thread, as it reads files. OSError, ValueError."""
        host = without_idna(self.host)
        return self._current().wrap_socket(tcp, server_hostname=host, do_handshake_on_connect=False)

    def prepare(self) -> None:
        """Make the context, or find why it cannot be made, before anybody is connected to."""
        self._current()

    def _current(self) -> ssl.SSLContext:
        params = self.params
        paths = [path for path in (params.ca, params.cert, params.key) if isinstance(path, str)]
        made_of = [(found.st_ino, found.st_size, found.st_mtime_ns) for found in map(os.stat, paths)]
        if self._context is None or made_of != self._made_of:
            import_lean("ssl", {"base64": {}})  # which it uses to print certificates; 0.25 MB
            import ssl

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
            self._made_of = made_of
        return self._context

    def explain(self, error: BaseException) -> str:
        """Why TLS failed, and what to do; nothing where this is no error of TLS."""
        verify = getattr(error, "verify_code", 0)
        if verify:
            return f"the server's certificate is not accepted: {self._verify(verify, str(error.verify_message))}"  # type: ignore[attr-defined]
        if type(error).__name__ in ("SSLEOFError", "SSLZeroReturnError"):
            return self.hung_up()
        said = str(getattr(error, "reason", None) or "")
        if any(said.startswith(word) for word in _NO_TLS):
            return f"port {self.port} does not speak TLS: write {self.plain}:// in url, or the port that does"
        if not said and "PEM lib" in str(error):  # the reason is not passed on, nor which file it is about
            return "ca is no PEM, or not whole" if "X509" in str(error) else "cert or key is no PEM, or not whole"
        for word, text in _FILES.items():
            if said.startswith(word) or (word == "PEM" and getattr(error, "library", "") == "PEM"):
                return text
        if "ALERT" not in said:
            return ""
        alert = said.partition("ALERT_")[2]
        if "PROTOCOL_VERSION" in alert:
            return "the server only speaks a TLS older than 1.2"
        if not self.params.cert and alert.endswith(_WANTS_ONE):
            return "the server wants a client certificate: set cert and key"
        words = alert.lower().replace("_", " ")
        if self.params.cert and any(word in alert for word in _REFUSED):
            return f"the server does not accept our certificate (cert): {words}"
        return f"the server ends the TLS handshake: {words}"

    def hung_up(self) -> str:
        """What a server that ends the connection in the middle of the handshake may want."""
        return f"the server hangs up on TLS: if port {self.port} speaks none, write {self.plain}:// in url"

    def _verify(self, code: int, words: str) -> str:
        if code in _UNKNOWN_ISSUER:
            has = "ca does not hold it" if self.params.ca else "set ca to its certificate"
            return f"its authority is not known here ({words}); {has}"
        if code in (_EXPIRED, _NOT_YET):
            import time

            day = time.strftime("%Y-%m-%d", time.gmtime())  # not the time: each minute's would be said anew
            state = "has expired" if code == _EXPIRED else "is not yet valid"
            return f"it {state}; this device's clock says {day}"
        if code in _OTHER_NAMES:
            return f"it is for another name than {self.host}; write in url the name that it is for"
        return words


class TlsSocket:
    """A TLS socket with the manners of a plain one: BlockingIOError where TLS wants to read or write first."""

    def __init__(self, inner: ssl.SSLSocket, tls: Tls) -> None:
        import ssl

        self._inner = inner
        self._tls = tls
        self._wait = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._error = ssl.SSLError
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
        except self._error as error:
            raise TlsError(self._tls.explain(error) or str(error)) from None

    def send(self, data: bytes) -> int:
        """How many bytes were taken; what was refused is to be sent again as it was."""
        try:
            return self._inner.send(data)
        except self._wait:
            raise BlockingIOError from None
        except self._error as error:
            # The other end is gone; why it went is there to be read.
            raise BrokenPipeError(str(error)) from None


class TlsError(OSError):
    """TLS failed after the handshake, as that of 1.3 does where the server does not like the client's certificate."""


def _trust_the_system(context: ssl.SSLContext) -> None:
    """The system's authorities: from its folder if it has one, where OpenSSL looks up the one that it needs.

    The bundle in one file, which is what Python loads by default, costs 1.3 MB and 20 ms.
    """
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

    def no_pass_phrase() -> str:
        raise ValueError("the key has a pass phrase: give one without it")  # OpenSSL would ask the terminal, and wait

    content = getattr(key, "content", None)
    if content is None:
        context.load_cert_chain(cert, key, no_pass_phrase)
        return
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, content)
        context.load_cert_chain(cert, f"/proc/self/fd/{descriptor}", no_pass_phrase)
    finally:
        os.close(descriptor)
