"""A serial port as the kernel gives it: opened without waiting, held exclusively, set up raw.

Two locks, so that every kind of tool respects it and is respected: flock, which pyserial and others take, and TIOCEXCL,
with which the kernel itself refuses a second open (of all but root). Rates for which termios has no constant are set by
TCSETS2 with BOTHER (tty_ioctl(4)), RS-485 by TIOCSRS485 (linux Documentation/driver-api/serial/serial-rs485.rst).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios

from nuclio_edge.errors import SourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.manifest.schema import Values

# asm-generic; MIPS, PowerPC, SPARC and Alpha have others, and refuse these with ENOTTY.
_TCGETS2, _TCSETS2, _TIOCSRS485, _TIOCGICOUNT = 0x802C542A, 0x402C542B, 0x542F, 0x545D
_CBAUD, _BOTHER, _CMSPAR, _CRTSCTS = 0o010017, 0o010000, 0o10000000000, 0o20000000000
_TERMIOS2 = struct.Struct("=IIIIB19sII")
_RS485 = struct.Struct("=III20x")
_RS485_ENABLED, _RTS_ON_SEND, _RTS_AFTER_SEND, _RX_DURING_TX = 1, 2, 4, 16
_ICOUNT = struct.Struct("=11i36x")  # cts dsr rng dcd rx tx frame overrun parity brk buf_overrun
_SIZES = {5: termios.CS5, 6: termios.CS6, 7: termios.CS7, 8: termios.CS8}

ioctl = fcntl.ioctl  # named, so that a test can stand in for a driver


def open_port(path: str, params: Values) -> tuple[int, list[str]]:
    """Open and set up; (descriptor, what the driver does not do). SourceError for what may heal."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SourceError(f"{path} is held by {holder(path) or 'another program'}") from error
        raise SourceError(f"{path}: {(error.strerror or str(error)).lower()}", _hint(error)) from error
    try:
        _hold(fd, path)
        return fd, _set_up(fd, path, params)
    except BaseException:
        os.close(fd)
        raise


def close_port(fd: int) -> None:
    """Give it back; what the driver has not sent yet is dropped, as close() would wait for it up to 30 seconds."""
    try:
        if unsent(fd):
            termios.tcflush(fd, termios.TCOFLUSH)
    except termios.error:
        pass  # it is unplugged
    os.close(fd)


def unsent(fd: int) -> int:
    """The bytes that the driver has not sent yet."""
    try:
        return int.from_bytes(ioctl(fd, termios.TIOCOUTQ, bytes(4)), "little")
    except OSError:
        return 0


def overruns(fd: int) -> int:
    """The bytes that the hardware or the driver dropped since it was loaded; 0 where the driver does not count."""
    try:
        counts = _ICOUNT.unpack(ioctl(fd, _TIOCGICOUNT, bytes(_ICOUNT.size)))
    except OSError:
        return 0
    return int(counts[7] + counts[10])


def holder(path: str) -> str | None:
    """Who has a port open, as `minicom (pid 4711)`, as far as this user may know; None if that is nobody."""
    try:
        wanted = os.stat(path).st_rdev
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    for pid in pids:
        if int(pid) == os.getpid():
            continue
        try:
            descriptors = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue  # another user's, or gone
        for descriptor in descriptors:
            try:
                if os.stat(f"/proc/{pid}/fd/{descriptor}").st_rdev == wanted:
                    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
                        return f"{file.read().strip()} (pid {pid})"
            except OSError:
                continue
    return None


def _hint(error: OSError) -> str | None:
    if error.errno == errno.EACCES:
        return "the user that runs nuclio-edge has to be in the group dialout"
    if error.errno == errno.ENOENT:
        return "is it plugged in? /dev/serial/by-id shows what is there"
    return None


def _hold(fd: int, path: str) -> None:
    if not os.isatty(fd):
        raise SourceError(f"{path} is not a serial port")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise SourceError(f"{path} is held by {holder(path) or 'another program'}") from error
    ioctl(fd, termios.TIOCEXCL)


def _set_up(fd: int, path: str, params: Values) -> list[str]:
    """Raw, with what the table says; the names of what the driver ignored."""
    try:
        attributes = termios.tcgetattr(fd)
        wanted = _attributes(attributes, params)
        termios.tcsetattr(fd, termios.TCSANOW, wanted)
        named: Any = getattr(termios, f"B{params.baud}", None)
        if named is None:
            _set_odd_rate(fd, params.baud)
        # tcsetattr succeeds when it could do any of what was asked, so look (termios(3)).
        ignored = _ignored(termios.tcgetattr(fd), wanted, odd=named is None)
    except (termios.error, OSError) as error:
        raise SourceError(f"{path} cannot be set up: {error.args[-1]}") from error
    if params.rs485:
        _set_rs485(fd, path, params.rs485)
    termios.tcflush(fd, termios.TCIFLUSH)  # what came before we listened was received at another rate, perhaps
    return ignored


def _attributes(found: list[Any], params: Values) -> list[Any]:
    cc = list(found[6])
    cc[termios.VMIN], cc[termios.VTIME] = 1, 0
    cflag = termios.CLOCAL | termios.CREAD | _SIZES[params.data_bits]
    if params.stop_bits == 2:
        cflag |= termios.CSTOPB
    if params.parity != "none":
        cflag |= termios.PARENB
        if params.parity in ("odd", "mark"):
            cflag |= termios.PARODD
        if params.parity in ("mark", "space"):
            cflag |= _CMSPAR
    if params.flow == "rtscts":
        cflag |= _CRTSCTS
    iflag = termios.IXON | termios.IXOFF if params.flow == "xonxoff" else 0
    if params.parity != "none":
        iflag |= termios.INPCK | termios.IGNPAR  # a character with wrong parity is dropped, not read as NUL
    speed = getattr(termios, f"B{params.baud}", termios.B38400)
    return [iflag, 0, cflag, 0, speed, speed, cc]


def _ignored(got: list[Any], wanted: list[Any], *, odd: bool) -> list[str]:
    names = []
    for name, bits in (
        ("data_bits", termios.CSIZE),
        ("parity", termios.PARENB | termios.PARODD | _CMSPAR),
        ("stop_bits", termios.CSTOPB),
        ("flow", _CRTSCTS),
    ):
        if got[2] & bits != wanted[2] & bits:
            names.append(name)
    if not odd and got[5] != wanted[5]:
        names.append("baud")
    return names


def _set_odd_rate(fd: int, baud: int) -> None:
    state = list(_TERMIOS2.unpack(ioctl(fd, _TCGETS2, bytes(_TERMIOS2.size))))
    state[2] = state[2] & ~(_CBAUD | _CBAUD << 16) | _BOTHER  # the upper half is the input rate: 0 means the same
    state[6] = state[7] = baud
    ioctl(fd, _TCSETS2, _TERMIOS2.pack(*state))
    got = _TERMIOS2.unpack(ioctl(fd, _TCGETS2, bytes(_TERMIOS2.size)))[7]
    if abs(got - baud) > baud // 33:  # 3 percent: at the tenth bit a receiver is a third of a bit off
        raise OSError(errno.EINVAL, f"the driver makes {got} of {baud} baud")


def _set_rs485(fd: int, path: str, table: Any) -> None:
    flags, before, after = _RS485_ENABLED | _RTS_ON_SEND, 0, 0
    if table is not True:
        flags = _RS485_ENABLED
        flags |= _RTS_ON_SEND if table.rts_on_send else 0
        flags |= _RTS_AFTER_SEND if table.rts_after_send else 0
        flags |= _RX_DURING_TX if table.receive_own else 0
        before, after = table.delay_before, table.delay_after
    try:
        ioctl(fd, _TIOCSRS485, _RS485.pack(flags, before, after))
    except OSError as error:
        hint = "its own transmitter may switch by itself: try without rs485"
        raise SourceError(f"{path}: the driver has no RS-485 mode", hint) from error
