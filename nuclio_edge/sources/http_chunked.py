"""The chunked coding of a request's body (RFC 9112, 7.1), without I/O: bytes in any pieces -> the body.

Extensions are read over, trailers too: nothing here asks for them. Both are bounded, like the body.
"""

from __future__ import annotations

import re

from nuclio_edge.sources.http_head import Refusal

LONGEST_LINE = 256
MAX_TRAILERS = 4096

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[\t -~\x80-\xff]*)?[ \t]*\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n")

_LINE, _DATA, _END, _TRAILERS = range(4)


class Chunked:
    """One body on its way in: `take` bytes until `done`, then `body` is whole."""

    __slots__ = ("_left", "_limit", "_state", "_trailers", "body", "done")

    def __init__(self, limit: int) -> None:
        self.body = bytearray()  # grown in place: a million chunks of one byte cost a million bytes
        self.done = False
        self._limit = limit
        self._state = _LINE
        self._left = 0
        self._trailers = 0

    def take(self, data: bytes, at: int) -> int:
        """Read on from `at`; returns up to where: what is left is to be given again, with more behind it.

        Refusal 400 for what is no chunk, 413 when the body would be longer than the limit.
        """
        while True:
            if self._state == _DATA:
                piece = data[at : at + self._left]
                self.body += piece
                at += len(piece)
                self._left -= len(piece)
                if self._left:
                    return at
                self._state = _END
            if self._state == _END:
                if len(data) - at < 2:
                    if data[at : at + 1] not in (b"", b"\r"):
                        raise Refusal(400, "a chunk does not end where it says")
                    return at
                if data[at : at + 2] != b"\r\n":
                    raise Refusal(400, "a chunk does not end where it says")
                at += 2
                self._state = _LINE
            end = data.find(b"\n", at, at + LONGEST_LINE) + 1
            if not end:
                if len(data) - at >= LONGEST_LINE:
                    raise Refusal(400, "a line of the chunked body is too long")
                return at
            if self._state == _LINE:
                self._size(data[at:end])
            elif self._trailer(data[at:end]):
                return end
            at = end

    def _size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise Refusal(400, "a chunk does not say its size")
        self._left = int(found[1], 16)
        if len(self.body) + self._left > self._limit:
            raise Refusal(413, f"the body is longer than {self._limit} bytes")
        self._state = _DATA if self._left else _TRAILERS

    def _trailer(self, line: bytes) -> bool:
        """Whether this line ends the body."""
        if line == b"\r\n":
            self.done = True
            return True
        self._trailers += len(line)
        if self._trailers > MAX_TRAILERS or not _TRAILER.fullmatch(line):
            raise Refusal(400, "a trailer is malformed, or they are too long")
        if line.partition(b":")[0].lower() in (b"content-length", b"transfer-encoding"):  # RFC 9110, 6.5.1
            raise Refusal(400, "a trailer says how the body is framed")
        return False
