"""Where a running processor can be asked: a unix socket of its owner's, and `[admin] listen` where the manifest has it.

Until somebody connects this costs two descriptors and nothing else: the sockets are bound with the interpreter's own
`_socket` (4 KB beside the 150 KB of `socket`), and what serves HTTP is imported for the first connection.

Laws: the socket's file is 0600 from its first moment. One that a dead processor has left is replaced, one of a living
processor never: the look and the bind are one step under a lock of the folder. A socket that is not to be had now is
tried again, said once; the processor runs without.
"""

from __future__ import annotations

import _socket
import errno
import os

from nuclio_edge.jitter import up_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.processor import Processor

    from .server import AdminServer

SOCKET = "admin.sock"
BACKLOG = 128  # connections that wait; more are refused at once
LONGEST = 107  # bytes of sun_path, without its NUL; a longer path is reached by way of its folder
FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 500, 30_000


class Admin:
    """The sockets of one processor, opened and closed on its loop."""

    def __init__(self, processor: Processor) -> None:
        self.processor = processor
        self.path: str = processor.manifest.admin.socket or os.path.join(processor.manifest.device.state_dir, SOCKET)
        self.address: tuple[str, int] | None = None  # of `listen`; a port 0 is the one that the system chose
        self._wanted: str | None = processor.manifest.admin.listen
        self._sockets: dict[str, Any] = {}
        self._inode: tuple[int, int] | None = None
        self._server: AdminServer | None = None
        self._retry: Any = None
        self._pause = FIRST_PAUSE_MS
        self._said: set[str] = set()

    def open(self) -> None:
        """Begin to listen, at once or later."""
        self._retry = None
        for name, bind in (("socket", self._bind_unix), ("listen", self._bind_tcp)):
            if name in self._sockets or (name == "listen" and self._wanted is None):
                continue
            try:
                self._listen(name, bind())
            except (OSError, ValueError) as error:
                self._complain(name, error)
        missing = "socket" not in self._sockets or (self._wanted is not None and "listen" not in self._sockets)
        if missing:
            pause = self._pause // 2 + up_to(self._pause - self._pause // 2)
            self._retry = self.processor.loop.call_later(pause, self.open)
            self._pause = min(self._pause * 2, LONGEST_PAUSE_MS)

    def move(self, table: Any) -> None:
        """Listen where a new `[admin]` says, and nowhere else."""
        self.close()
        self.path = table.socket or os.path.join(self.processor.manifest.device.state_dir, SOCKET)
        self._wanted = table.listen
        self._pause = FIRST_PAUSE_MS
        self._said = set()
        self.open()

    def close(self) -> None:
        """Listen no more, hang up on everybody, remove the socket's file; idempotent."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._server is not None:
            self._server.close()
            self._server = None
        for sock in self._sockets.values():
            self.processor.loop.remove(sock)
            sock.close()
        self._sockets = {}
        if self._inode is not None:
            try:
                if _inode(self.path) == self._inode:
                    os.unlink(self.path)
            except OSError:
                pass  # the folder went first
            self._inode = None

    def answered(self) -> bool:
        """Whether nobody waits for an answer: a stop lets those go out that it has itself brought about."""
        return self._server is None or self._server.answered()

    def _listen(self, name: str, sock: Any) -> None:
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._sockets[name] = sock
        if self._server is not None:
            self._server.take(name, sock)
        else:
            self.processor.loop.add(sock, self._somebody)

    def _somebody(self, _mask: int) -> None:
        """The first connection: now the rest is needed."""
        from .server import AdminServer

        self._server = AdminServer(self.processor)
        for name, sock in self._sockets.items():
            self.processor.loop.remove(sock)
            self._server.take(name, sock)

    def _bind_unix(self) -> Any:
        folder = os.path.dirname(self.path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            import fcntl

            # Two that start at once must not both find the socket of a dead one. Others lock folders as well
            # (systemd-tmpfiles): it is not waited for.
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = short(self.path, held)
            # The file gets the descriptor's mode less the umask: never more than asked for, not for a moment.
            os.fchmod(sock.fileno(), 0o600)
            try:
                sock.bind(path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or not _stale(self.path, path):
                    raise
                os.unlink(self.path)
                sock.bind(path)
            os.chmod(self.path, 0o600)
            sock.listen(BACKLOG)  # before the lock is given up: one that is bound and does not listen looks dead
            self._inode = _inode(self.path)
        except BaseException:
            sock.close()
            raise
        finally:
            os.close(held)
        return sock

    def _bind_tcp(self) -> Any:
        from nuclio_edge.sources.http_listen import parse

        where = parse(self._wanted or "")
        family = _socket.AF_INET6 if where.v6 else _socket.AF_INET
        sock = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
            host, _, zone = where.host.partition("%")
            sock.bind((host, where.port, 0, _socket.if_nametoindex(zone)) if zone else (host, where.port))
        except BaseException:
            sock.close()
            raise
        self.address = sock.getsockname()[:2]
        return sock

    def _complain(self, name: str, error: Exception) -> None:
        if name in self._said:
            return
        self._said.add(name)
        where = self.path if name == "socket" else self._wanted
        reason = getattr(error, "strerror", None) or str(error)
        if getattr(error, "errno", 0) == errno.EADDRINUSE:
            reason += ": another processor, or something else, is there"
        self.processor.logger.warn_with(
            "the processor cannot be asked there; trying again", "admin", name, "at", where, "reason", reason
        )


def short(path: str, folder: int) -> str:
    """A name for `path` that a socket's address can hold, as long as `folder` is an open descriptor of its folder."""
    if len(os.fsencode(path)) <= LONGEST:
        return path
    return f"/proc/self/fd/{folder}/{os.path.basename(path)}"


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _stale(path: str, name: str) -> bool:
    """Whether a path is a socket at which nobody listens any more: left by a processor that was killed."""
    if os.lstat(path).st_mode & 0o170000 != 0o140000:  # S_IFSOCK
        return False
    probe = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        probe.setblocking(False)
        probe.connect(name)
    except ConnectionRefusedError:
        return True
    except OSError:  # it has a queue, and that is full
        return False
    finally:
        probe.close()
    return False
