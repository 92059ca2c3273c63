"""CoAP messages (RFC 7252, 3) and block options (RFC 7959, 2.2) of datagrams, sans-IO; coap_compose is the way back.

Law: whatever the bytes, `parse`, `Message.options` and `walk` raise MessageError or nothing. Nothing is copied before
it is asked for: a Message keeps the datagram.
"""

from .port import const

CON, NON, ACK, RST = 0, 1, 2, 3  # types (3)
EMPTY = 0
# Options (RFC 7252 12.2, 7641, 7959, 7967).
IF_MATCH, URI_HOST, ETAG, IF_NONE_MATCH, OBSERVE, URI_PORT, LOCATION_PATH = 1, 3, 4, 5, 6, 7, 8
URI_PATH, CONTENT_FORMAT, MAX_AGE, URI_QUERY, ACCEPT, LOCATION_QUERY = 11, 12, 14, 15, 17, 20
BLOCK2, BLOCK1, SIZE2, PROXY_URI, PROXY_SCHEME, SIZE1, NO_RESPONSE = 23, 27, 28, 35, 39, 60, 258
_LAST = const(65535)


class MessageError(ValueError):
    """A datagram that is no CoAP message, or a message that breaks the format (3 and 4.2); the text says how."""


class Message:
    """One message in its datagram: `kind` (CON …), `code`, `message_id`, `token`; the rest when it is asked for."""

    __slots__ = ("_after", "_options", "at", "code", "data", "kind", "message_id", "token")

    def __init__(self, data: bytes) -> None:
        if len(data) < 4 or data[0] >> 6 != 1:
            raise MessageError("not a CoAP message of version 1")
        self.data = data
        self.kind = data[0] >> 4 & 3
        self.code = data[1]
        self.message_id = data[2] << 8 | data[3]
        self.at = 4 + (data[0] & 15)  # where the options begin
        if self.at > 12 or self.at > len(data):
            raise MessageError("a token that is too long or cut short")
        if self.code == EMPTY and len(data) > 4:
            raise MessageError("an empty message that is not empty")
        self.token = data[4 : self.at]
        self._options: "list[tuple[int, bytes]] | None" = None
        self._after = 0

    @property
    def options(self) -> "list[tuple[int, bytes]]":
        """The options as (number, value), in their order; MessageError when they are broken."""
        if self._options is None:
            self._options, self._after = walk(self.data, self.at)
        return self._options

    @property
    def payload(self) -> bytes:
        """What follows the options; MessageError when they are broken."""
        if self._options is None:
            self.options  # noqa: B018 - it finds where they end
        return self.data[self._after :]

    def option(self, number: int) -> "bytes | None":
        """The first value of an option, None without one."""
        for found, value in self.options:
            if found == number:
                return value
        return None


def parse(data: bytes) -> Message:
    """The message of a datagram, whole: MessageError when anything in it is broken."""
    made = Message(data)
    made.options  # noqa: B018 - they are checked on the way
    return made


def walk(data: bytes, at: int) -> "tuple[list[tuple[int, bytes]], int]":
    """The options that begin at `at`, and where the payload begins (the end when there is none)."""
    found: "list[tuple[int, bytes]]" = []
    number = 0
    end = len(data)
    while at < end:
        first = data[at]
        at += 1
        if first == 255:
            if at == end:
                raise MessageError("a payload marker without a payload")
            return found, at
        delta = first >> 4
        length = first & 15
        if delta == 15 or length == 15:
            raise MessageError("a reserved option delta or length")
        if delta > 12:
            delta, at = _more(data, at, delta)
        if length > 12:
            length, at = _more(data, at, length)
        number += delta
        if at + length > end:
            raise MessageError("an option that is cut short")
        if number > _LAST:
            raise MessageError("an option number above 65535")
        found.append((number, data[at : at + length]))
        at += length
    return found, end


def _more(data: bytes, at: int, nibble: int) -> "tuple[int, int]":
    size = nibble - 12
    if at + size > len(data):
        raise MessageError("an option that is cut short")
    if size == 1:
        return data[at] + 13, at + 1
    return (data[at] << 8 | data[at + 1]) + 269, at + 2


def number(value: bytes) -> int:
    """The number that an option's value is."""
    made = 0
    for byte in value:
        made = made << 8 | byte
    return made


def block(value: bytes) -> "tuple[int, bool, int]":
    """(number, more, size in bytes) of a block option (RFC 7959, 2.2); MessageError for the reserved size."""
    raw = number(value)
    if raw & 7 == 7 or len(value) > 3:
        raise MessageError("a block of a reserved size")
    return raw >> 4, raw & 8 != 0, 16 << (raw & 7)


def is_critical(number: int) -> bool:
    """Whether who does not understand an option must refuse the message (5.4.1)."""
    return number & 1 != 0
