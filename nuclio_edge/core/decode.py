"""What a body says, as fields: by its content type, or by its looks when it has none. Imported at the first question.

The rules, the same on every interpreter:
- an object (JSON, msgpack) is its fields; msgpack keys that are no text become text;
- any other JSON or msgpack value, and a plain number, is the one field `value`;
- of a form the last value of a name counts; a CSV line has the fields "0", "1", ...; with `header=present` its first
  line names the second's;
- without a content type (none, text/plain, application/octet-stream) a JSON object or array and a number are known by
  their looks; other text says nothing, nor does a type that is not listed here.
"""

from . import port
from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 4 << 20  # more is a document or a picture: nothing that a field should be looked up in
_NUMBER = "0123456789+-.eE"
_LONGEST_NUMBER = 40


def fields(content_type: "str | None", raw: "bytes") -> "dict[str, Any]":
    """The fields of a body; {} when it is empty or of a kind that has none.

    ValueError, in words for the function's author, when the body is not what its type or its first byte promises, has
    more than 1000 form or CSV fields, or is longer than MAX_BYTES; nothing else is ever raised.
    """
    if len(raw) <= MAX_BYTES and raw[:1] == b"{" and (not content_type or content_type == "application/json"):
        try:  # what nearly every sensor sends, without the detours: 1.3 us instead of 3.1
            value = port.json_loads(raw)
            if isinstance(value, dict):
                return value
        except (ValueError, RuntimeError, MemoryError):
            pass  # said in words below
    if not raw:
        return {}
    if len(raw) > MAX_BYTES:
        raise ValueError("the body is too long to be decoded: %d bytes" % len(raw))
    kind, charset, header = _parts(content_type or "")
    try:
        if kind in ("", "text/plain", "application/octet-stream"):
            return _by_looks(raw, charset)
        if kind[-4:] == "json" and kind[-5:-4] in ("/", "+"):
            return _named(port.json_loads(_text(raw, charset)))
        if kind[-7:] == "msgpack":
            from .msgpack import unpack

            return _named(unpack(raw))
        if kind == "application/x-www-form-urlencoded":
            # curl -d sends JSON under this type unless told otherwise.
            if raw[:1] == b"{":
                return _by_looks(raw, charset)
            from .decode_text import form

            return form(raw)
        if kind == "text/csv":
            from .decode_text import csv

            return csv(_text(raw, charset), header)
    except ValueError as error:
        says = "what its type says (" + kind + ")" if kind else "the JSON that it looks like"
        raise ValueError("the body is not " + says + ": " + str(error))  # noqa: B904 - `from` only warns on MicroPython
    except (RuntimeError, TypeError, MemoryError):  # too deep for stack or heap; a list as a msgpack key
        raise ValueError("the body is nested too deeply, or a key in it is no scalar")  # noqa: B904 - as above
    return {}


def _parts(content_type: str) -> "tuple[str, str, bool]":
    kind, _, rest = content_type.lower().partition(";")
    charset = "utf-8"
    header = False
    while rest:
        part, _, rest = rest.partition(";")
        name, _, value = part.partition("=")
        value = value.strip().strip('"')
        if name.strip() == "charset" and value:
            charset = value
        elif name.strip() == "header":
            header = value == "present"
    return kind.strip(), charset, header


def _text(raw: "bytes", charset: str) -> str:
    if charset in ("utf-8", "utf8", "us-ascii", "ascii"):
        text = str(raw, "utf-8")
    elif charset in ("iso-8859-1", "latin-1", "latin1"):
        text = "".join([chr(byte) for byte in raw])  # MicroPython knows UTF-8 only
    else:
        try:
            text = str(raw, charset)
        except LookupError:
            raise ValueError("unknown charset " + charset)  # noqa: B904 - `from` only warns on MicroPython
    return text[1:] if text[:1] == "\ufeff" else text


def _named(value: "Any") -> "dict[str, Any]":
    if not isinstance(value, dict):
        return {"value": value}
    for key in value:
        if not isinstance(key, str):
            return {_key(key): value[key] for key in value}
    return value


def _key(key: "Any") -> str:
    return str(key, "utf-8") if isinstance(key, bytes) else str(key)


def _by_looks(raw: "bytes", charset: str) -> "dict[str, Any]":
    first = bytes(raw[:16]).lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if first in (b"{", b"["):
        return _named(port.json_loads(_text(raw, charset)))
    if len(raw) <= _LONGEST_NUMBER and (not first or first in b"0123456789+-."):
        text = str(raw, "utf-8").strip()
        if text and not [char for char in text if char not in _NUMBER]:
            try:
                return {"value": int(text)}
            except ValueError:
                pass
            try:
                number = float(text)
            except ValueError:
                return {}
            if number - number == 0:  # not overflown to infinity
                return {"value": number}
    return {}
