"""Addresses to listen at: text of the manifest -> Address, and the listening socket of one.

    "127.0.0.1:8080"   "[::1]:8080"   "localhost:8080"   "0.0.0.0:8080" and "[::]:8080": every interface
    "unix:/run/x.sock"

"[::]" takes IPv4 too, unless the same list has "0.0.0.0" with that port. Names are not looked up: that could take long,
and a device should not be served at an address that somebody else decides.
"""

from __future__ import annotations

import errno
import os

from nuclio_edge.manifest.problems import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BACKLOG = 1024
_HIGHEST_PORT = 65_535
_LONGEST_PATH = 107  # bytes of sun_path, without the final NUL


class Address:
    """Where to listen: `host` and `port`, or `path` of a unix socket."""

    __slots__ = ("host", "path", "port", "text", "v6")

    def __init__(self, text: str, host: str = "", port: int = 0, path: str = "", *, v6: bool = False) -> None:
        self.text = text
        self.host = host
        self.port = port
        self.path = path
        self.v6 = v6


def parse(text: str) -> Address:
    """The address that a text means; ValueError says what is wrong with it."""
    if text.startswith("unix:"):
        path = os.path.normpath(text[5:])
        if not path.startswith("/") or "\0" in path or text.endswith("/"):
            raise ValueError("an absolute path follows unix:, e.g. unix:/run/nuclio-edge/api.sock")
        if len(os.fsencode(path)) > _LONGEST_PATH:
            raise ValueError(f"the path of a unix socket has {_LONGEST_PATH} bytes at most")
        return Address(text, path=path)
    host, colon, port = text.rpartition(":")
    v6 = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > _HIGHEST_PORT:
        raise ValueError('write address:port, e.g. "127.0.0.1:8080", or "unix:/run/…"')
    if v6:
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("an IPv6 address is written in brackets: [::1]:8080")
    elif host == "localhost":
        host = "127.0.0.1"
    elif not host:
        raise ValueError(f'"127.0.0.1:{port}" is this device alone, "[::]:{port}" everybody')
    if not _is_address(host.partition("%")[0], v6=v6):
        raise ValueError(f"{quote(host)} is not an IP address; names are not looked up")
    return Address(text, host, int(port), v6=v6)


def _is_address(host: str, *, v6: bool) -> bool:
    import socket

    try:
        socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, host)
    except OSError:
        return False
    return True


class Listener:
    """A socket that listens."""

    __slots__ = ("_inode", "address", "socket", "tcp")

    def __init__(self, address: Address, others: list[Address], mode: int, *, shared: bool) -> None:
        """Begin to listen; OSError when that is not possible now. `shared`: other processes may have the port too."""
        import socket

        self.address = address
        self.tcp = not address.path
        self._inode: tuple[int, int] | None = None
        family = socket.AF_UNIX if address.path else socket.AF_INET6 if address.v6 else socket.AF_INET
        self.socket: Any = socket.socket(family, socket.SOCK_STREAM)
        try:
            self.socket.setblocking(False)
            if address.path:
                self._bind_unix(mode)
            else:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if shared:
                    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if address.v6:
                    both = address.host == "::" and not any(
                        other.host == "0.0.0.0" and other.port == address.port  # noqa: S104 - it is looked for
                        for other in others
                    )
                    self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
                    host, _, zone = address.host.partition("%")
                    self.socket.bind((host, address.port, 0, socket.if_nametoindex(zone) if zone else 0))
                else:
                    self.socket.bind((address.host, address.port))
            self.socket.listen(BACKLOG)
        except OSError:
            self.close()
            raise

    def name(self) -> str:
        """Where it listens: host:port, or the path."""
        if not self.tcp:
            return self.address.path
        host, port = self.socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def peer(self, sock: Any, address: Any) -> str:
        """Who has connected: host:port, or process and user of a unix socket."""
        if self.tcp:
            host = address[0].removeprefix("::ffff:")
            return f"[{host}]:{address[1]}" if ":" in host else f"{host}:{address[1]}"
        import socket
        import struct

        pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return f"pid={pid},uid={uid}"

    def close(self) -> None:
        """Listen no more; the file of a unix socket goes, if it still is ours."""
        self.socket.close()
        if self._inode is not None:
            try:
                if _inode(self.address.path) == self._inode:
                    os.unlink(self.address.path)
            except OSError:
                pass

    def _bind_unix(self, mode: int) -> None:
        path = self.address.path
        # The file gets the descriptor's mode less the umask: never more than asked for, not for a moment.
        os.fchmod(self.socket.fileno(), mode)
        try:
            self.socket.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _stale(path):
                raise
            os.unlink(path)
            self.socket.bind(path)
        self._inode = _inode(path)
        os.chmod(path, mode)


def _inode(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _stale(path: str) -> bool:
    """Whether a path is a socket at which nobody listens any more: left by a process that was killed."""
    import socket
    import stat

    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:  # it has a queue, and that is full
            return False
    return False
