"""Asking a running processor at its admin socket: HTTP by the standard library, over a unix socket."""

from __future__ import annotations

import http.client
import os
import socket

from nuclio_edge.admin.admin import LONGEST, short
from nuclio_edge.core.port import json_loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE_S = 10.0
MOST = 64 << 20  # bytes of an answer


class AbsentError(Exception):
    """There is no processor at a socket, or it is another user's."""


class SilentError(ConnectionError):
    """A processor is there and does not say a word."""


class Answer:
    """What a processor said."""

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def error(self) -> str:
        """Why it refused, in its words."""
        try:
            return str(json_loads(self.body)["error"])
        except (ValueError, LookupError, TypeError):
            return f"the processor has answered with {self.status}"


def socket_of(manifest: str) -> str:
    """Where the processor of a manifest is asked; ManifestError when [device] or [admin] cannot be read."""
    from nuclio_edge.manifest.validate import admin_socket

    return admin_socket(manifest)


def ask(
    path: str,
    method: str,
    target: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
    patience_s: float = PATIENCE_S,
) -> Answer:
    """One request and its answer; AbsentError when nobody is there.

    ConnectionError when it says nothing or breaks off: what was asked for may have been done.
    """
    connection = _Connection(path, patience_s)
    try:
        connection.request(method, target, body or None, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read(MOST))
    except TimeoutError:
        raise SilentError(f"the processor at {path} has not answered within {patience_s:g} s") from None
    except (http.client.HTTPException, ConnectionResetError, BrokenPipeError) as error:
        raise ConnectionError(f"the processor at {path} broke off: {type(error).__name__}") from None
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    """A connection to a path in the place of a host."""

    def __init__(self, path: str, patience_s: float) -> None:
        super().__init__("localhost", timeout=patience_s)
        self._path = path

    def connect(self) -> None:
        """Connect; AbsentError says why that is not possible."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(self.timeout)
        try:
            if len(os.fsencode(self._path)) <= LONGEST:
                sock.connect(self._path)
            else:
                folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    sock.connect(short(self._path, folder))
                finally:
                    os.close(folder)
        except BlockingIOError:
            sock.close()
            raise SilentError(f"the processor at {self._path} does not take connections; it may hang") from None
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
            sock.close()
            raise AbsentError(f"no processor runs here ({self._path})") from None
        except PermissionError:
            sock.close()
            raise AbsentError(f"the processor at {self._path} is another user's") from None
        except OSError as error:
            sock.close()
            raise AbsentError(f"no processor can be asked at {self._path}: {error.strerror or error}") from None
        self.sock = sock
