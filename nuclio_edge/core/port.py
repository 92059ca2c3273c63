"""The only file that asks which interpreter this is: clocks, JSON, readiness and wake-up for the rest of core."""

import json
import os
import select
import sys
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MICROPYTHON = sys.implementation.name == "micropython"

IN = 1
OUT = 4
_INVALID = 32  # POLLNVAL: the descriptor was closed while it was registered

# An int of Unix milliseconds: single-precision floats of boards cannot hold a time (2^24 s is half a year).
_EPOCH_S = 0 if time.gmtime(0)[0] == 1970 else 946_684_800  # boards that count from 2000

if MICROPYTHON:
    _ticks = time.ticks_ms  # type: ignore[attr-defined]  # MicroPython only
    _diff = time.ticks_diff  # type: ignore[attr-defined]  # MicroPython only
    clock = time.ticks_us  # type: ignore[attr-defined]  # MicroPython only
    NS = 1000  # nanoseconds in a tick of the clock
    TICKS_PER_MS = 1000
    _raw = _ticks()
    _total = 0
    _count = 0

    def ticks_ms() -> int:
        """Milliseconds that only grow; the wrap of the 30-bit hardware counter is taken out."""
        global _raw, _total
        raw = _ticks()
        _total += _diff(raw, _raw)
        _raw = raw
        return _total

    def now_ms() -> int:
        """The wall clock in milliseconds since 1970."""
        return (time.time_ns() // 1_000_000) + _EPOCH_S * 1000

    def elapsed_ns(start: int, end: int) -> int:
        """Nanoseconds between two readings of `clock`."""
        return int(_diff(end, start)) * 1000

    def bucket(duration_ns: int) -> int:
        """The number of bits of a duration: the index of its latency bucket."""
        bits = 0
        while duration_ns:
            duration_ns >>= 1
            bits += 1
        return bits

    def next_number() -> int:
        """The next number of this boot, from 1."""
        global _count
        _count += 1
        return _count

    def utc(ms: int) -> "Any":
        """A point of the wall clock as the tuple of `time.gmtime`."""
        return time.gmtime(ms // 1000 - _EPOCH_S)

    def error_text(error: BaseException) -> str:
        """A traceback as text."""
        import io

        out = io.StringIO()
        sys.print_exception(error, out)  # type: ignore[attr-defined]  # MicroPython only
        return out.getvalue()

    def current_error() -> "BaseException | None":
        """Nothing: the exception being handled cannot be asked for here."""
        return None

    def msgpack_library() -> "Any":
        """Nothing: core/msgpack.py does it itself."""
        return None

    def json_dumps(value: "Any") -> str:
        """Compact JSON; what JSON cannot say is made sayable first (`json.dumps` would write a repr unasked)."""
        return json.dumps(plain(value), separators=(",", ":"))

    def json_loads(text: "bytes | str") -> "Any":
        """The value of a JSON text; ValueError when it is none."""
        return json.loads(text)

    def queue(limit: int) -> "Any":
        """An empty deque; here it is allocated whole, and one event too many raises IndexError."""
        return deque((), limit, 1)

    def key_of(descriptor: "Any") -> "Any":
        """What the poller reports for a registered descriptor: here the object itself."""
        return descriptor

    class Poller:
        """Readiness by `select.poll`, which returns the registered objects."""

        def __init__(self) -> None:
            self._poll = select.poll()

        def set(self, descriptor: "Any", mask: int, known: bool) -> None:
            """Ask for the conditions in `mask`."""
            self._poll.register(descriptor, mask)

        def forget(self, descriptor: "Any") -> None:
            """Ask for nothing more."""
            self._poll.unregister(descriptor)

        def wait(self, timeout_ms: int) -> "list[tuple[Any, int]]":
            """The ready descriptors with their conditions, after at most `timeout_ms` (-1: whenever)."""
            return self._poll.poll(timeout_ms)

        def wake(self) -> None:
            """Nothing: no other thread exists that could have called."""

        def close(self) -> None:
            """Nothing is held."""

else:
    import itertools
    from json.decoder import JSONDecoder
    from json.encoder import c_make_encoder, encode_basestring
    from json.scanner import make_scanner

    clock = time.perf_counter_ns
    NS = 1  # nanoseconds in a tick of the clock
    TICKS_PER_MS = 1_000_000
    bucket = int.bit_length
    next_number = itertools.count(1).__next__  # atomic: ids are asked for in many threads

    def ticks_ms() -> int:
        """Milliseconds that only grow."""
        return time.monotonic_ns() // 1_000_000

    def now_ms() -> int:
        """The wall clock in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def elapsed_ns(start: int, end: int) -> int:
        """Nanoseconds between two readings of `clock`."""
        return end - start

    def utc(ms: int) -> "Any":
        """A point of the wall clock as the naive UTC datetime of Nuclio's SDK."""
        from datetime import datetime, timedelta

        return datetime(1970, 1, 1) + timedelta(milliseconds=ms)  # noqa: DTZ001 - the SDK's are naive

    def error_text(error: BaseException) -> str:
        """A traceback as text."""
        import traceback

        return "".join(traceback.format_exception(type(error), error, error.__traceback__))

    def current_error() -> "BaseException | None":
        """The exception that the calling thread is handling."""
        return sys.exc_info()[1]

    def msgpack_library() -> "Any":
        """The library of MessagePack where it is installed, else None."""
        try:
            import msgpack  # type: ignore[import-untyped]
        except ImportError:
            return None
        return msgpack

    def _refuse(value: "Any") -> "Any":
        raise TypeError(type(value).__name__)

    if c_make_encoder is None:  # an interpreter without the C accelerator (PyPy)
        _iterate = None
    else:
        # One encoder for all calls: json.dumps builds a new one each time (5.0 against 6.5 us for a small event).
        # No marker table, as threads share it: a cycle ends in RecursionError and goes the slow way.
        _iterate = c_make_encoder(None, _refuse, encode_basestring, None, ":", ",", False, False, False)
    _scan = make_scanner(JSONDecoder())

    def json_dumps(value: "Any") -> str:
        """Compact JSON; what JSON cannot say (NaN, bytes, objects) is made sayable, or refused, as `plain` tells."""
        try:
            if _iterate is not None:
                return "".join(_iterate(value, 0))
        except (TypeError, ValueError, RecursionError):
            pass
        return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False)

    def json_loads(text: "bytes | str") -> "Any":
        """The value of a JSON text; ValueError when it is none."""
        if not isinstance(text, str):
            text = str(text, "utf-8")
        try:
            value, end = _scan(text, 0)
        except (StopIteration, ValueError):
            return json.loads(text)  # leading white space, or the error with its place
        if end != len(text) and text[end:].strip(" \t\r\n"):
            return json.loads(text)
        return value

    def queue(limit: int) -> "Any":
        """An empty deque, which grows as it must: who appends keeps the bound."""
        return deque()

    def key_of(descriptor: "Any") -> "Any":
        """What the poller reports for a registered descriptor: here its number."""
        return descriptor if isinstance(descriptor, int) else descriptor.fileno()

    class Poller:  # type: ignore[no-redef]  # one of the two exists
        """Readiness by epoll, with an eventfd through which other threads end a wait."""

        def __init__(self) -> None:
            self._poll = select.epoll()
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._poll.register(self._event, IN)

        def set(self, descriptor: "Any", mask: int, known: bool) -> None:
            """Ask for the conditions in `mask`."""
            if known:
                self._poll.modify(descriptor, mask)
            else:
                self._poll.register(descriptor, mask)

        def forget(self, descriptor: "Any") -> None:
            """Ask for nothing more."""
            try:
                self._poll.unregister(descriptor)
            except (OSError, ValueError):
                pass  # closed already: epoll forgot it with the close

        def wait(self, timeout_ms: int) -> "list[tuple[Any, int]]":
            """The ready descriptors with their conditions, after at most `timeout_ms` (-1: whenever)."""
            ready = self._poll.poll(None if timeout_ms < 0 else timeout_ms / 1000)
            event = self._event
            for at, (descriptor, _) in enumerate(ready):
                if descriptor == event:
                    os.eventfd_read(event)
                    del ready[at]
                    break
            return ready

        def wake(self) -> None:
            """End the wait; callable from any thread and from a signal handler."""
            os.eventfd_write(self._event, 1)

        def close(self) -> None:
            """Give the two descriptors back."""
            self._poll.close()
            if self._event >= 0:
                os.close(self._event)
                self._event = -1


def _nonce() -> str:
    try:
        raw = os.urandom(4)
    except (AttributeError, OSError):  # the webassembly build has none
        raw = ((now_ms() * 2_654_435_761) & 0xFFFFFFFF).to_bytes(4, "big")
    return "".join(["%02x" % byte for byte in raw])


boot = _nonce()  # 8 hex digits that tell the events of one boot from those of another


MAX_DEPTH = 64  # deeper than any sane document; also what ends the walk of a value that contains itself


def plain(value: "Any", path: str = "value", depth: int = 0) -> "Any":
    """The same value in what JSON can say.

    NaN and the infinities become their names, tuples lists, and any other object what its `__log__()`, else its `repr`
    gives. ValueError, naming the path and the type, for what has no honest form: a key that is no scalar, a text that
    is not Unicode, nesting deeper than MAX_DEPTH or without end.
    """
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except ValueError:
            raise ValueError(path + " is a str that is not valid Unicode")  # noqa: B904 - `from` only warns on MicroPython
        return value
    if isinstance(value, float):
        if value - value == 0:
            return value
        return "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"  # noqa: PLR0124 - NaN's own test
    if isinstance(value, int):
        try:
            str(value)
        except ValueError:
            raise ValueError(path + " is an int of too many digits")  # noqa: B904 - `from` only warns on MicroPython
        return value
    if depth >= MAX_DEPTH:
        raise ValueError(path[:60] + "... is nested more than 64 deep, or contains itself")
    depth += 1
    if isinstance(value, dict):
        said = {}
        for key, item in value.items():
            if not (key is None or isinstance(key, (str, int, float))):
                raise ValueError(path + " has a key of type " + type(key).__name__ + ": " + repr(key))
            name = plain(key, path, depth)
            if not isinstance(name, str):
                name = json.dumps(name)  # 1, 1.5, true, null: MicroPython would write them bare
            said[name] = plain(item, path + "." + name, depth)
        return said
    if isinstance(value, (list, tuple)):
        return [plain(item, path + "[" + str(at) + "]", depth) for at, item in enumerate(value)]
    try:
        value = value.__log__()
    except Exception:  # noqa: BLE001 - no __log__, or a broken one
        try:
            value = repr(value)
        except Exception as error:  # noqa: BLE001 - a repr is the user's code
            value = "Unable to serialize object: " + type(error).__name__
    return plain(value, path, depth)
