"""Content-Formats and content types, HTTP's statuses and CoAP's codes: what handlers say, as CoAP says it."""

from __future__ import annotations

# IANA, "CoAP Content-Formats"; those that devices send.
FORMATS = {
    0: "text/plain",
    40: "application/link-format",
    41: "application/xml",
    42: "application/octet-stream",
    47: "application/exi",
    50: "application/json",
    51: "application/json-patch+json",
    52: "application/merge-patch+json",
    60: "application/cbor",
    61: "application/cwt",
    63: "application/cbor-seq",
    110: "application/senml+json",
    111: "application/sensml+json",
    112: "application/senml+cbor",
    113: "application/sensml+cbor",
    114: "application/senml-exi",
    115: "application/sensml-exi",
    310: "application/senml+xml",
    311: "application/sensml+xml",
    21: "image/gif",
    22: "image/jpeg",
    23: "image/png",
    432: "application/td+json",
}
TEXT, OCTETS, LINKS = 0, 42, 40
PRIVATE = range(65000, 65536)  # for experiments: their meaning is between handler and peer
_numbers = {name: number for number, name in FORMATS.items()}

GET, POST, PUT, DELETE, FETCH, PATCH, IPATCH = 1, 2, 3, 4, 5, 6, 7
METHODS = {GET: "GET", POST: "POST", PUT: "PUT", DELETE: "DELETE", FETCH: "FETCH", PATCH: "PATCH", IPATCH: "iPATCH"}


def code(text: str) -> int:
    """A code as a number: "4.04" is 132."""
    return int(text[0]) << 5 | int(text[2:])


def dotted(number: int) -> str:
    """A code as people write it: 132 is "4.04"."""
    return f"{number >> 5}.{number & 31:02}"


CREATED, DELETED, VALID, CHANGED, CONTENT = map(code, ("2.01", "2.02", "2.03", "2.04", "2.05"))
CONTINUE, INCOMPLETE = code("2.31"), code("4.08")
BAD_REQUEST, BAD_OPTION, NOT_FOUND, NOT_ALLOWED = map(code, ("4.00", "4.02", "4.04", "4.05"))
NOT_ACCEPTABLE, TOO_LARGE, UNSUPPORTED = map(code, ("4.06", "4.13", "4.15"))
INTERNAL, UNAVAILABLE, TIMED_OUT, NO_PROXY = map(code, ("5.00", "5.03", "5.04", "5.05"))

# 408 is what the runtime says of a handler past its timeout: towards a CoAP client that is a gateway's 5.04.
_CODES = {
    201: CREATED, 304: VALID, 401: code("4.01"), 403: code("4.03"), 404: NOT_FOUND, 405: NOT_ALLOWED,
    406: NOT_ACCEPTABLE, 408: TIMED_OUT, 409: code("4.09"), 412: code("4.12"), 413: TOO_LARGE, 415: UNSUPPORTED,
    422: code("4.22"), 429: code("4.29"), 501: code("5.01"), 502: code("5.02"), 503: UNAVAILABLE, 504: TIMED_OUT,
}  # fmt: skip


def code_of(status: int, method: int) -> int:
    """The response code for a handler's status: 200 is 2.05 Content, 2.04 Changed or 2.02 Deleted, by the method."""
    found = _CODES.get(status)
    if found is not None:
        return found
    if 200 <= status < 300:
        return CONTENT if method in (GET, FETCH) else DELETED if method == DELETE else CHANGED
    return BAD_REQUEST if 400 <= status < 500 else INTERNAL


def status_of(number: int) -> int:
    """HTTP's status for a response code: 2.05, 2.04 and 2.02 are 200."""
    if number in (CONTENT, CHANGED, DELETED):
        return 200
    if number == VALID:
        return 304
    return (number >> 5) * 100 + (number & 31)


def format_of(content_type: str | None) -> int | None:
    """The Content-Format of a content type, parameters aside; None for one that has no number."""
    if not content_type:
        return None
    return _numbers.get(content_type.partition(";")[0].strip().lower())


def type_of(number: int) -> str:
    """The content type of a Content-Format; "application/octet-stream" for one that is not listed."""
    return FORMATS.get(number, FORMATS[OCTETS])
