"""Where a secret's content comes from: a file, systemd's credentials, the environment.

The search order is fixed: `<secrets_dir>/<name>`, `$CREDENTIALS_DIRECTORY/<name>`, `$NUCLIO_EDGE_SECRET_<NAME>`. One
trailing newline is not part of the content. Nothing here keeps, logs or repeats a content.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MORE = "._-"
_LIMIT = 1 << 20  # bytes: a key or certificate is a few KiB; anything larger is the wrong file


def is_name(name: str) -> bool:
    """Whether this can name a secret: it must stay inside its folder, and be no hidden file of it."""
    return (
        0 < len(name) <= 255 and name.isascii() and name[0].isalnum() and all(c.isalnum() or c in _MORE for c in name)
    )


def env_name(name: str) -> str:
    """Return the environment variable that may hold this secret."""
    return "NUCLIO_EDGE_SECRET_" + "".join(c.upper() if c.isascii() and c.isalnum() else "_" for c in name)


def read_secret(name: str, folder: str, environ: Mapping[str, str] | None = None) -> bytes:
    """Return the content of a secret, at most 1 MiB.

    `folder` is device.secrets_dir. LookupError when it is nowhere; OSError when it is there and cannot be read (a later
    place is then not asked: which content is used must not depend on a permission).
    """
    environ = os.environ if environ is None else environ
    if not is_name(name):
        raise LookupError(name)
    for place in (folder, environ.get("CREDENTIALS_DIRECTORY")):
        if not place:
            continue
        try:
            return _without_newline(_read(os.path.join(place, name)))
        except (FileNotFoundError, NotADirectoryError):
            continue
    content = environ.get(env_name(name))
    if content is None:
        raise LookupError(name)
    return _without_newline(content.encode("utf-8", "surrogateescape"))


def _read(path: str) -> bytes:
    import stat

    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(None, "not a file")  # a pipe that nobody writes to would keep us waiting for ever
        content = file.read(_LIMIT + 1)
    if len(content) > _LIMIT:
        raise OSError(None, "larger than 1 MiB")  # cut, it would be another secret
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _without_newline(content: bytes) -> bytes:
    if content.endswith(b"\r\n"):
        return content[:-2]
    return content[:-1] if content.endswith(b"\n") else content
