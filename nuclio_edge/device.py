"""The device as its hardware and its host describe it: an identity that a cloned card does not share, its folders.

Read once at start, from files only. `root` stands for / in tests.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SERIALS = ("proc/device-tree/serial-number", "sys/firmware/devicetree/base/serial-number")
_CARDS = "sys/class/net"
_ID_DIGITS = 6


def device_id(root: str = "/") -> str:
    """Return 6 hex digits that differ between two boards, also when one has the other's card.

    They are hashed from the board's serial number, else from the address of the first physical network card, else from
    the machine id, which a cloned card shares, else from the host name.
    """
    for source in (_serial, _card_address, _machine_id):
        found = source(root)
        if found:
            break
    else:
        found = host_name()
    return sha256_of(found.encode("utf-8", "surrogateescape"))[:_ID_DIGITS]


def host_name() -> str:
    """Return the host's name without its domain."""
    return os.uname().nodename.partition(".")[0] or "localhost"


def state_dir(environ: Mapping[str, str] | None = None, uid: int | None = None) -> str:
    """Return where state is kept unless the manifest says it: systemd's $STATE_DIRECTORY, else by the user."""
    environ = os.environ if environ is None else environ
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if given:
        return given
    if (os.geteuid() if uid is None else uid) == 0:
        return "/var/lib/nuclio-edge"
    state = environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(state):  # the XDG specification: a relative path is to be ignored
        state = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".local/state")
    return os.path.join(state, "nuclio-edge")


def _read(*path: str) -> str:
    """Return a small file's text without NUL and white space at its ends, "" when it cannot be read."""
    try:
        with open(os.path.join(*path), "rb") as file:
            return file.read(4096).strip(b"\0 \t\r\n").decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def _serial(root: str) -> str:
    for path in _SERIALS:
        serial = _read(root, path)
        if serial.strip("0"):  # boards without a number programmed have zeros
            return serial
    return ""


def _card_address(root: str) -> str:
    folder = os.path.join(root, _CARDS)
    try:
        names = sorted(os.listdir(folder))
    except OSError:
        return ""
    for name in names:
        # A virtual interface (lo, bridges, VPNs, containers) has no device; a random address (type 1) lasts one boot.
        if not os.path.exists(os.path.join(folder, name, "device")):
            continue
        if _read(folder, name, "addr_assign_type") not in ("", "0"):
            continue
        address = _read(folder, name, "address").lower()
        if address.strip("0:"):
            return address
    return ""


def _machine_id(root: str) -> str:
    return _read(root, "etc/machine-id") or _read(root, "var/lib/dbus/machine-id")


def sha256_of(content: bytes) -> str:
    """The SHA-256 of the content as hex digits."""
    # The interpreter's own: hashlib would load OpenSSL, several MB, for six digits.
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha256
    digest: str = sha256(content).hexdigest()
    return digest
