"""Forms and CSV lines as fields; decode.py imports it for the first one."""

from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from typing import Any

MAX_FIELDS = 1000


def form(raw: "bytes") -> "dict[str, Any]":
    """The last value of each name of application/x-www-form-urlencoded; ValueError when it is too many, or no UTF-8."""
    found: "dict[str, Any]" = {}
    for pair in bytes(raw).rstrip(b"\r\n").split(b"&"):
        name, _, value = pair.partition(b"=")
        if name:
            found[unquoted(name)] = unquoted(value)
            if len(found) > MAX_FIELDS:
                raise ValueError("more than %d fields" % MAX_FIELDS)
    return found


def unquoted(raw: "bytes", plus: bool = True) -> str:
    """Percent-encoded UTF-8 as text, `plus` (a form's, a query's) being a space; ValueError when it is no UTF-8."""
    parts = (raw.replace(b"+", b" ") if plus else raw).split(b"%")
    if len(parts) > 1:
        for at in range(1, len(parts)):
            part = parts[at]
            try:
                parts[at] = bytes([int(part[:2], 16)]) + part[2:]
            except ValueError:
                parts[at] = b"%" + part  # as browsers do: a lone percent sign stands for itself
        raw = b"".join(parts)
    else:
        raw = parts[0]
    return str(raw, "utf-8")


def csv(text: str, header: bool) -> "dict[str, Any]":
    """The cells of the first line by number, or with `header` those of the second by the names in the first."""
    cells, rest = _line(text)
    if header:
        values, _ = _line(rest)
        return {name: values[at] if at < len(values) else "" for at, name in enumerate(cells)}
    return {str(at): cell for at, cell in enumerate(cells)}


def _line(text: str) -> "tuple[list[str], str]":
    """The cells of the first line (RFC 4180: quotes, doubled quotes, line breaks within), and the lines after it."""
    cells: "list[str]" = []
    at = 0
    while len(cells) <= MAX_FIELDS:
        if text[at : at + 1] == '"':
            cell = ""
            while True:
                end = text.find('"', at + 1)
                if end < 0:
                    raise ValueError("a quote is not closed")
                cell += text[at + 1 : end]
                at = end + 1
                if text[at : at + 1] != '"':
                    break
                cell += '"'
            stop = text[at : at + 1]
        else:
            end = at
            while end < len(text) and text[end] not in ",\r\n":
                end += 1
            cell = text[at:end].strip()
            at = end
            stop = text[at : at + 1]
        cells.append(cell)
        at += 1
        if stop != ",":
            if stop not in ("", "\r", "\n"):
                raise ValueError("text after a closing quote")
            return cells, text[at:].lstrip("\r\n")
    raise ValueError("more than %d fields" % MAX_FIELDS)
