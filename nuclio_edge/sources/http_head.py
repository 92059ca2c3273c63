"""The head of an HTTP/1.1 request: bytes -> Head, or a Refusal; what it says is decided here and nowhere else.

Laws (RFC 9112, where it leaves a choice the strict one, because a proxy in front may have chosen otherwise):
- The grammar is one regular expression: CR LF ends a line, bare CR and LF stand nowhere; no folded lines, no space
  before a colon, no control characters. Exactly one Host in 1.1, at most one in 1.0.
- Content-Length once and digits alone, or Transfer-Encoding once and exactly `chunked` (1.1), never both.
- A head of the common shape (1.1, a path, Content-Length the only header that changes how bytes are read) is decided
  by this alone: 2 us. For every other one a second opinion is asked, httptools or h11 (http_strict.py): what
  that refuses, or reads differently, is refused. So both agree with us on every request that is run.

Heads that were accepted are remembered by their bytes: one that stays connected sends the same again (0.1 us).
"""

from __future__ import annotations

import re

from nuclio_edge.core.decode_text import unquoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    # method, target, headers by names in lower case; Refusal for what is no head
    Opinion = Callable[[bytes], tuple[bytes, bytes, list[tuple[bytes, bytes]]]]

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_HEAD = 16 * 1024
MAX_HEADERS = 100
CHUNKED = -1  # Head.length of a body whose length is told on the way

_REMEMBERED = 256
_LONGEST_REMEMBERED = 2048
_MAX_DIGITS = 15

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_HEAD = re.compile(
    rb"(" + _TOKEN + rb") ([!-~]+) HTTP/([0-9]\.[0-9])(\r\n(?:" + _TOKEN + rb":[\t -~\x80-\xff]*\r\n)*)\r\n"
)
_FIRST_LINE = re.compile(_TOKEN + rb" [!-~]+ HTTP/[0-9]\.[0-9]\r\n")
# No user information (RFC 9110, 4.2.4), no percent signs: what a host is called is plain.
_ABSOLUTE = re.compile(rb"https?://(?:[a-z0-9._~-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?(?=[/?]|\Z)", re.IGNORECASE)
# The value of a header in the lower-cased block; for those of which one is allowed.
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n")
_CONNECTION = re.compile(rb"\r\nconnection:([^\r]*)\r\n")
_METHODS = {name.encode(): name for name in METHODS}


class Refusal(Exception):  # noqa: N818 - it is an answer
    """Bytes that are no request we take: the status to answer with, why, in words for the sender, and its head."""

    def __init__(self, status: int, why: str, head: Head | None = None) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.head = head


class Head:
    """One head, shared by all requests that begin with the same bytes; only `route` and `notes` of it change."""

    __slots__ = (
        "cloud",
        "expects",
        "keep_alive",
        "length",
        "logs",
        "method",
        "minor",
        "notes",
        "path",
        "plain",
        "query",
        "raw",
        "route",
        "target",
    )

    def __init__(self, raw: bytes, method: str, target: bytes, minor: int) -> None:
        self.raw = raw
        self.method = method
        self.target = target  # as in the first line
        self.minor = minor  # of HTTP/1.x
        path, _, self.query = target.partition(b"?")
        self.path = path.decode("ascii") if b"%" not in path else _unquoted(path)
        self.length = 0  # bytes of the body, or CHUNKED
        self.keep_alive = True
        self.plain = method != "HEAD"  # 1.1, kept alive, and not HEAD: the answer can be of the usual kind
        self.expects = False  # 100-continue
        self.logs = False  # has an X-Nuclio-Log-Level
        self.cloud = False  # may be a CloudEvent's
        self.route: Any = None  # where it goes, kept by whoever routes it
        self.notes = False  # … who also says whether the answer needs more than status, type and body


def _unquoted(path: bytes) -> str:
    try:
        text = unquoted(path, False)
    except ValueError:
        raise Refusal(400, "the path is not UTF-8") from None
    if "\0" in text:
        raise Refusal(400, "the path holds a NUL")
    return text


class Heads:
    """The heads of one server: those that were accepted lately, and how others are judged."""

    __slots__ = ("known", "strict", "whole")

    def __init__(self, strict: Opinion | None = None) -> None:
        self.known: dict[bytes, Head] = {}
        self.whole: dict[
            bytes, Head
        ] = {}  # those without a body: the bytes are a request; for the connection's inner loop
        self.strict = strict

    def head(self, raw: bytes) -> Head:
        """The head that these bytes, up to and with the empty line, are; Refusal when they are none."""
        head = self.known.get(raw)
        if head is None:
            head = self._judge(raw)
            if len(raw) <= _LONGEST_REMEMBERED:
                if len(self.known) >= _REMEMBERED:
                    self.forget()
                self.known[raw] = head
                if not head.length:
                    self.whole[raw] = head
        return head

    def forget(self) -> None:
        """Forget all: what the heads' `route` says is not true any more."""
        self.known.clear()
        self.whole.clear()

    def _judge(self, raw: bytes) -> Head:
        found = _HEAD.fullmatch(raw)
        if found is None:
            raise Refusal(
                400, "the first line is no request" if not _FIRST_LINE.match(raw) else "a header is malformed"
            )
        name, target, version, block = found.groups()
        if version[:1] != b"1":
            raise Refusal(505, "HTTP/1.1 is spoken here")
        method = _METHODS.get(name)
        if method is None:
            raise Refusal(501, "the method is not known here")
        if block.count(b"\n") > MAX_HEADERS + 1:
            raise Refusal(431, f"more than {MAX_HEADERS} headers")
        low = block.lower()
        head = Head(raw, method, target, 1)
        head.logs = b"\r\nx-nuclio-log-level:" in low
        head.cloud = may_be_cloud(low)
        if (
            version == b"1.1"
            and target[:1] == b"/"
            and low.count(b"\r\nhost:") == 1
            and b"\r\ntransfer-encoding:" not in low
            and b"\r\nexpect:" not in low
            and b"\r\nupgrade:" not in low
            and self._common(head, low)
        ):
            return head
        return self._uncommon(raw, head, target, version, low)

    def _common(self, head: Head, low: bytes) -> bool:
        """Read the two headers that a head of the common shape may have."""
        if b"\r\nconnection:" in low:
            found = _CONNECTION.search(low)
            said = found[1].strip() if found and low.count(b"\r\nconnection:") == 1 else b"?"
            if said not in (b"keep-alive", b"close"):
                return False
            head.keep_alive = said != b"close"
            head.plain = head.plain and head.keep_alive
        if b"\r\ncontent-length:" in low:
            found = _LENGTH.search(low)
            if found is None or low.count(b"\r\ncontent-length:") != 1 or len(found[1]) > _MAX_DIGITS:
                return False
            head.length = int(found[1])
        return True

    def _uncommon(self, raw: bytes, head: Head, target: bytes, version: bytes, low: bytes) -> Head:
        fields = headers(raw)
        by_name: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            by_name.setdefault(name.lower(), []).append(value)
        if version not in (b"1.0", b"1.1"):
            raise Refusal(505, "HTTP/1.1 is spoken here")
        head.minor = int(version[2:])
        _frame(head, by_name)
        if target[:1] != b"/":
            head = _other_form(head, target)
        if self.strict is None:
            from nuclio_edge.sources.http_strict import opinion

            self.strict = opinion()
        said = self.strict(raw)
        if (said[0], said[1]) != (head.method.encode(), target) or _comparable(said[2]) != _comparable(fields):
            raise Refusal(400, "the head is ambiguous")
        return head


def may_be_cloud(low: bytes) -> bool:
    """Whether a request whose head is this, in lower case, may be a CloudEvent."""
    return b"\r\nce-specversion:" in low or b"application/cloudevents" in low


def _comparable(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Without what libraries put in lower case, each in its own way."""
    return [(name.lower(), value.lower() if name.lower() == b"transfer-encoding" else value) for name, value in fields]


def headers(raw: bytes) -> list[tuple[bytes, bytes]]:
    """Names and values of an accepted head, in order and as they came, without the white space around values."""
    found = []
    for line in raw[raw.index(b"\n") + 1 : -4].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found.append((name, value.strip(b" \t")))
    return found


def _frame(head: Head, by_name: dict[bytes, list[bytes]]) -> None:
    """How long the body is, and whether the connection goes on (RFC 9112, 6.3, 9.3); Refusal where it is not clear."""
    hosts = by_name.get(b"host", [])
    if len(hosts) > 1 or (head.minor and not hosts):
        raise Refusal(400, "one Host is needed")
    lengths, encodings = by_name.get(b"content-length"), by_name.get(b"transfer-encoding")
    if encodings is not None:
        if lengths is not None:
            raise Refusal(400, "both Content-Length and Transfer-Encoding")
        if not head.minor:
            raise Refusal(400, "Transfer-Encoding in HTTP/1.0")
        if len(encodings) > 1 or encodings[0].lower() != b"chunked":
            raise Refusal(501, "the only Transfer-Encoding is chunked, once")
        head.length = CHUNKED
    elif lengths is not None:
        if len(lengths) > 1 or not (lengths[0].isdigit() and len(lengths[0]) <= _MAX_DIGITS):
            raise Refusal(400, "Content-Length is one number")
        head.length = int(lengths[0])
    said = {word.strip().lower() for value in by_name.get(b"connection", ()) for word in value.split(b",")}
    head.keep_alive = b"close" not in said and (head.minor > 0 or b"keep-alive" in said)
    head.plain = head.plain and head.keep_alive and head.minor > 0
    expects = by_name.get(b"expect")
    if expects is not None and head.minor:
        if [value.lower() for value in expects] != [b"100-continue"]:
            raise Refusal(417, "the only expectation is 100-continue")
        head.expects = True


def _other_form(head: Head, target: bytes) -> Head:
    """A target that is no path: `*` of OPTIONS, or the absolute form that proxies are sent (RFC 9112, 3.2)."""
    found = _ABSOLUTE.match(target)
    if found is not None:
        rest = target[found.end() :]
        path = rest if rest[:1] == b"/" else b"/" + rest
    elif target == b"*" and head.method == "OPTIONS":
        path = target
    else:
        raise Refusal(400, "the target is no path")
    made = Head(head.raw, head.method, path, head.minor)
    for name in ("length", "keep_alive", "plain", "expects", "logs", "cloud"):
        setattr(made, name, getattr(head, name))
    return made
