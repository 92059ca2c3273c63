"""Cross-origin requests of browsers, by a trigger's or source's table (https://fetch.spec.whatwg.org/#cors-protocol)."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.manifest.schema import Values

    Headers = dict[str, str]


def header_of(raw: bytes, name: bytes) -> str:
    """The value of a header of an accepted head, by its name in lower case; empty when it is not there."""
    at = raw.lower().find(b"\r\n" + name + b":")
    if at < 0:
        return ""
    at += len(name) + 3
    return raw[at : raw.index(b"\r", at)].strip(b" \t").decode("latin-1")


def of_answer(cors: Values, raw: bytes) -> Headers:
    """The headers by which the answer to a request may be read by the page that asked; Vary alone when it may not."""
    headers: Headers = {}
    every = "*" in cors.allow_origins
    if not every:
        headers["Vary"] = "Origin"  # caches must not give the answer for one page to another
    origin = header_of(raw, b"origin")
    if not origin or not (every or origin in cors.allow_origins):
        return headers
    headers["Access-Control-Allow-Origin"] = "*" if every else origin
    if cors.allow_credentials:
        headers["Access-Control-Allow-Credentials"] = "true"
    if cors.expose_headers:
        headers["Access-Control-Expose-Headers"] = ", ".join(cors.expose_headers)
    return headers


def is_preflight(raw: bytes) -> bool:
    """Whether an OPTIONS request asks for another request's sake."""
    return bool(header_of(raw, b"access-control-request-method") and header_of(raw, b"origin"))


def of_preflight(cors: Values, raw: bytes, methods: str) -> Headers:
    """The headers of the answer to a preflight; `methods` are those that the path has."""
    headers = of_answer(cors, raw)
    if "Access-Control-Allow-Origin" not in headers:
        return headers
    headers.pop("Access-Control-Expose-Headers", None)
    headers["Access-Control-Allow-Methods"] = ", ".join(cors.allow_methods) or methods
    wanted = ", ".join(cors.allow_headers) or header_of(raw, b"access-control-request-headers")
    if wanted:
        headers["Access-Control-Allow-Headers"] = wanted
        if not cors.allow_headers:
            headers["Vary"] = ", ".join(filter(None, (headers.get("Vary"), "Access-Control-Request-Headers")))
    headers["Access-Control-Max-Age"] = str(cors.max_age // 1000)
    return headers
