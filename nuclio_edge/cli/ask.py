"""Asking a running processor at its admin socket: HTTP by the standard library, over a unix socket."""

from __future__ import annotations

import http.client
import os
import socket

from nuclio_edge.admin.admin import LONGEST, short
from nuclio_edge.core.port import json_loads
from nuclio_edge.errors import EdgeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PATIENCE_S = 10.0
OWN_PATIENCE_S = 2.0  # where the answer is of no more use than to know whose the files are
MOST = 64 << 20  # bytes of an answer


class AbsentError(EdgeError):
    """There is no processor at a socket, or it is another user's."""


class OtherError(AbsentError):
    """The processor at a manifest's socket runs another manifest."""


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


def processor_of(manifest: str, patience_s: float = PATIENCE_S) -> str:
    """The socket of the processor that runs a manifest.

    AbsentError when none runs, OtherError when several manifests have one state directory, and the processor there is
    that of another one. ManifestError when [device] or [admin] cannot be read, ConnectionError as `ask`.
    """
    from nuclio_edge.manifest.validate import admin_socket

    path = admin_socket(manifest)
    wanted = os.path.realpath(manifest)
    try:
        said = json_loads(ask(path, "GET", "/healthz", patience_s=patience_s).body)
        other = said["manifest"] != wanted
    except (ValueError, LookupError, TypeError):
        return path  # it says why when it is asked for more
    if other:
        raise OtherError(f"the processor {said['pid']} at {path} runs {said['manifest']}, not {wanted}")
    return path


def ensure_own(manifest: str) -> None:
    """Raise OtherError when what a manifest's state directory holds is that of another manifest's processor."""
    from nuclio_edge.errors import ManifestError

    try:
        processor_of(manifest, OWN_PATIENCE_S)
    except OtherError:
        raise
    except (AbsentError, ConnectionError, ManifestError):
        pass  # nobody says so


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
