"""JSON for CPython: json's C halves without its detours, and orjson for most of it where the extra `fast` brings it.

Law: with orjson and without it the same bytes are the same value or the same error, and the same value is the same
document; only the text of a float's exponent may differ (1e-7, 1e-07). orjson gets what it does as json does, all else
is json's. It is looked for at the first JSON: it loads dataclasses, inspect and uuid, 2.6 MiB. json itself is imported
where it is first needed: it compiles regular expressions, and with `re` that is 0.8 MiB and 6 ms.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_iterate: Any = None


def _refuse(value: Any) -> Any:
    raise TypeError(type(value).__name__)


try:
    # The encoder within json.encoder, without json: every record of the log needs it.
    from _json import encode_basestring, make_encoder
except ImportError:
    pass  # an interpreter without the C accelerator (PyPy)
else:
    # One encoder for all calls: json.dumps builds a new one each time (5.0 against 6.5 us for a small event).
    # No marker table, as threads share it: a cycle ends in RecursionError and goes the slow way.
    _iterate = make_encoder(None, _refuse, encode_basestring, None, ":", ",", False, False, False)


def _first_scan(text: str, at: int) -> Any:
    global _scan
    from json.decoder import JSONDecoder
    from json.scanner import make_scanner

    _scan = make_scanner(JSONDecoder())  # type: ignore[arg-type]  # the stubs name its class
    return _scan(text, at)


_scan: Any = _first_scan  # json's scanner from then on

# 19 digits in a row may be more than 64 bits, which orjson would read as a float. A small event has not so many in all,
# which 0.1 us tells; the search for a row takes 0.25.
_DIGITS = b"0123456789"
_DIGITS_AS_ZEROS = bytes(48 if 48 <= byte < 58 else byte for byte in range(256))
_LONG = b"0" * 19
# orjson's bytes keep the 4 KiB that it wrote them into: a thousand small answers that wait held 4 MiB, and to make so
# many cost 1.9 us each instead of 0.12, for fresh pages. So what is shorter is copied, which takes 0.05.
_ROOM = 4096
_SCALARS = frozenset((str, int, bool, type(None)))
_OPTIONS = 0x100 | 0x200 | 0x800  # OPT_PASSTHROUGH_SUBCLASS, _DATETIME and _DATACLASS


def json_dumps(value: Any) -> str:
    """Compact JSON; what JSON cannot say (NaN, bytes, objects) is made sayable, or refused, as `plain` tells.

    Always json's: the start of a process, its log and the commands need no orjson.
    """
    try:
        if _iterate is not None:
            return "".join(_iterate(value, 0))
    except (TypeError, ValueError, RecursionError):
        pass
    import json

    from .plain import plain

    return json.dumps(plain(value), separators=(",", ":"), ensure_ascii=False)


def json_bytes(value: Any) -> bytes:
    """The same in UTF-8, where a text that is not Unicode is refused as well."""
    dumps = _dumps
    try:
        if dumps is None:
            return "".join(_iterate(value, 0)).encode()  # `json_dumps` spelled out: a call less
        if (type(value) is dict or type(value) is list) and _is_exact(value):
            made: bytes = dumps(value, None, _OPTIONS)
            return b"%b" % made if len(made) < _ROOM else made
    except (TypeError, ValueError, RuntimeError):
        # No accelerator, NaN, too deep. Of orjson: a key that is no text, an int of more than 64 bits, a lone
        # surrogate, 255 deep, changed by a thread.
        pass
    try:
        return json_dumps(value).encode()
    except ValueError:
        from .plain import plain

        plain(value)  # names the path of the text that is not Unicode
        raise


def json_loads(text: bytes | str) -> Any:
    """The value of a JSON text; ValueError when it is none."""
    if type(text) is bytes:
        loads = _loads
        if loads is not None and (
            len(text) - len(text.translate(None, _DIGITS)) < len(_LONG) or _LONG not in text.translate(_DIGITS_AS_ZEROS)
        ):
            try:
                return loads(text)
            except ValueError:
                pass  # NaN, a lone surrogate, 1e999: json takes them; else it has the words for what is wrong
        text = text.decode()  # half the time of str(text, "utf-8")
    elif not isinstance(text, str):
        text = str(text, "utf-8")
    try:
        value, end = _scan(text, 0)
    except (StopIteration, ValueError):  # leading white space, or an error, which is told with its place
        end = -1
    if end < 0 or (end != len(text) and text[end:].strip(" \t\r\n")):
        import json

        return json.loads(text)
    return value


def _is_exact(value: Any) -> bool:
    """Whether a dict or list is all of JSON's own types: orjson would write NaN as null and an enum as its value."""
    for item in value.values() if type(value) is dict else value:
        kind = type(item)
        if kind in _SCALARS:
            continue
        if kind is float:
            if item - item != 0:
                return False
        elif (kind is not dict and kind is not list) or not _is_exact(item):
            return False
    return True


def _load_orjson() -> None:
    global _loads, _dumps
    try:
        from orjson import dumps, loads
    except ImportError:
        _loads = _dumps = None
    else:
        _loads, _dumps = loads, dumps


def _first_loads(text: bytes) -> Any:
    _load_orjson()
    if _loads is None:
        raise ValueError
    return _loads(text)


def _first_dumps(value: Any, default: None, options: int) -> Any:
    _load_orjson()
    if _dumps is None:
        raise TypeError
    return _dumps(value, default, options)


_loads: Any = _first_loads  # orjson's from then on, or None
_dumps: Any = _first_dumps
