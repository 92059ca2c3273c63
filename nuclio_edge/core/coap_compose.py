"""CoAP messages and block options into datagrams, sans-IO. Law: what is composed here, coap_codec reads unchanged."""

from .port import const

TYPE_CHECKING = const(0)  # folded away by mpy-cross, with what stands below it
if TYPE_CHECKING:
    from collections.abc import Iterable

    Options = Iterable[tuple[int, bytes]]

_LAST = const(65535)


def compose(
    kind: int, code: int, message_id: int, token: bytes = b"", options: "Options" = (), payload: bytes = b""
) -> bytes:
    """A datagram; options in any order, those of one number stay in theirs. ValueError for what cannot be said."""
    if len(token) > 8:
        raise ValueError("a token has 8 bytes at most")
    head = bytes((64 | kind << 4 | len(token), code, message_id >> 8 & 255, message_id & 255))
    rest = pack_options(options)
    return head + token + (rest + b"\xff" + payload if payload else rest)


def pack_options(options: "Options") -> bytes:
    """Options as they stand in a message."""
    parts = []
    last = 0
    # The order within a number says something, and MicroPython's sort is not stable.
    for number, _, value in sorted([(option[0], at, option[1]) for at, option in enumerate(options)]):
        length = len(value)
        if not last <= number <= _LAST or length > _LAST:
            raise ValueError("an option that cannot be said: %d with %d bytes" % (number, length))
        delta = number - last
        last = number
        parts.append(bytes((_nibble(delta) << 4 | _nibble(length),)) + _extra(delta) + _extra(length) + value)
    return b"".join(parts)


def _nibble(value: int) -> int:
    return value if value < 13 else 13 if value < 269 else 14


def _extra(value: int) -> bytes:
    if value < 13:
        return b""
    if value < 269:
        return bytes((value - 13,))
    value -= 269
    return bytes((value >> 8, value & 255))


def uint(value: int) -> bytes:
    """A number as an option's value (3.2): no leading zeros, 0 is empty."""
    made = b""
    while value:
        made = bytes((value & 255,)) + made
        value >>= 8
    return made


def pack_block(number: int, more: bool, size: int) -> bytes:
    """A block option's value; `size` is a power of two from 16 to 1024."""
    exponent = 0
    while 16 << exponent < size:
        exponent += 1
    return uint(number << 4 | (8 if more else 0) | exponent)
