"""What the manifest says of an HTTP source and its triggers."""

from __future__ import annotations

import os.path

from nuclio_edge.manifest.problems import quote
from nuclio_edge.manifest.schema import Field, Secret, known, separately

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nuclio_edge.manifest.schema import Fields, Values
    from nuclio_edge.registry import Fault

_METHOD = Field("string", choices=("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))

CORS = {
    "allow_origins": Field(
        "list", required=True, of=Field("string", minimum=1), single=True, doc='who may ask; "*": all'
    ),
    "allow_methods": Field("list", (), of=_METHOD, single=True, doc="default: those that the path has"),
    "allow_headers": Field(
        "list", (), of=Field("string", minimum=1), single=True, doc="default: whatever is asked for"
    ),
    "allow_credentials": Field("boolean", default=False, doc="cookies and the like may be sent"),
    "expose_headers": Field("list", (), of=Field("string", minimum=1), single=True, doc="what scripts may read"),
    "max_age": Field("duration", 600_000, minimum=0, maximum=86_400_000, doc="how long a browser remembers it"),
}
_CORS = Field("table", fields=CORS, doc="which web pages of other origins may ask")

PARAMS = {
    "listen": Field(
        "list",
        ("127.0.0.1:8080",),
        of=Field("string", minimum=1),
        single=True,
        minimum=1,
        doc="address:port, [v6]:port, unix:/path; one or a list",
    ),
    "max_body": Field("size", 4 << 20, minimum=0, maximum=1 << 30, doc="larger ones are refused with 413"),
    "max_connections": Field("integer", 512, minimum=1, maximum=65_535, doc="clients at a time"),
    "reuse_port": Field("boolean", default=False, doc="several processors share the port"),
    "socket_mode": Field("string", "0660", minimum=3, doc="of a unix socket's file, octal"),
    "cert": Field("path", doc="the server's certificate chain: https"),
    "key": Field("path", secret=True, doc="its key: a path, or a secret with its content"),
    "client_ca": Field("path", doc="clients must show a certificate of these"),
    "header_timeout": Field("duration", 10_000, minimum=100, doc="for a request's head"),
    "body_timeout": Field(
        "duration", 20_000, minimum=100, doc="for a body, and a second more for each 500 bytes of it"
    ),
    "idle_timeout": Field("duration", 75_000, minimum=100, doc="between two requests"),
    "write_timeout": Field("duration", 20_000, minimum=100, doc="for a client that does not read its answer"),
    "cors": _CORS,
}

TRIGGER = {
    "path": Field("string", required=True, minimum=1, wildcards="*", doc="exact, or everything below: /things/*"),
    "method": Field("list", (), of=_METHOD, single=True, doc="one or a list; default: all"),
    "cors": _CORS,
}

OUTPUT: Fields | None = None


def check_params(params: Values) -> Iterator[Fault]:
    """What a single field cannot know: the addresses, halves of a pair, missing files."""
    yield from separately(params, _check_listen, _check_halves, _check_authority, _check_pair, _check_mode, _check_cors)
    for key, path in known(params, "cert", "key", "client_ca"):
        if path is not None and not isinstance(path, Secret) and not os.path.isfile(path):
            yield key, "there is no such file", None


def _check_listen(params: Values) -> Iterator[Fault]:
    from nuclio_edge.sources.http_listen import parse

    seen: dict[tuple[str, int, str], str] = {}
    for at, text in enumerate(params.listen):
        try:
            address = parse(text)
        except ValueError as error:
            yield f"listen.{at}", f"{quote(text)} is no address to listen at: {error}", None
            continue
        place = (address.host, address.port, address.path)
        if place in seen:
            yield f"listen.{at}", f"{quote(text)} is there twice", None
        seen[place] = text


def _check_halves(params: Values) -> Iterator[Fault]:
    if (params.cert is None) != (params.key is None):
        there, missing = ("cert", "key") if params.key is None else ("key", "cert")
        yield there, f"needs {missing} beside it", None


def _check_authority(params: Values) -> Iterator[Fault]:
    if params.client_ca is not None and params.cert is None:
        yield "client_ca", "means nothing without TLS", "cert and key make it https"


def _check_mode(params: Values) -> Iterator[Fault]:
    if mode(params.socket_mode) is None:
        yield "socket_mode", f"{quote(params.socket_mode)} is not a mode", 'write e.g. "0660"'


def check_trigger(address: Values) -> Iterator[Fault]:
    """Whether the path is one, and what CORS says."""
    yield from separately(address, _check_path, _check_methods, _check_cors)


def _check_path(address: Values) -> Iterator[Fault]:
    path = address.path
    if not path.startswith("/"):
        yield "path", f"{quote(path)} does not begin with /", f"write {quote('/' + path)}"
    elif "*" in path[:-1] or (path.endswith("*") and not path.endswith("/*")):
        yield "path", f"{quote(path)}: * stands alone at the end, behind a /", 'e.g. "/things/*"'
    elif "?" in path or "#" in path or "\0" in path:
        yield "path", f"{quote(path)} is no path: a query is no part of it", None


def _check_methods(address: Values) -> Iterator[Fault]:
    if len(set(address.method)) != len(address.method):
        yield "method", "names one twice", None


def trigger_claims(address: Values) -> Iterator[tuple[str, str]]:
    """A path and a method go to one function."""
    for method in address.method or ("every method",):
        yield "path", f"{method} of {address.path}"


def claims(params: Values) -> Iterator[tuple[str, str]]:
    """An address is one source's, unless it is shared with other processors."""
    from nuclio_edge.sources.http_listen import parse

    for text in params.listen:
        address = parse(text)
        if address.path or address.port:
            yield "listen", f"the address {address.path or f'{address.host}:{address.port}'}"


def when_full(address: Values) -> str:
    """Who asks gets 503 rather than an answer that comes too late."""
    return "reject"


def mode(text: str) -> int | None:
    """An octal mode, None when it is none."""
    try:
        number = int(text, 8)
    except ValueError:
        return None
    return number if 0 <= number <= 0o777 else None


def _check_pair(params: Values) -> Iterator[Fault]:
    """Whether certificate and key are what they should be, and belong together."""
    if not isinstance(params.cert, str) or not os.path.isfile(params.cert) or params.key is None:
        return
    import ssl

    from nuclio_edge.sources.http_tls import context

    ca = params.client_ca if params.client_ca is not None and os.path.isfile(params.client_ca) else None
    try:
        context(params.cert, params.key, ca)
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None)
        said = str(reason).replace("_", " ").lower() if reason else "one of them is not in PEM form, or not readable"
        yield "cert", f"certificate and key cannot be used: {said}", None


def _check_cors(of: Values) -> Iterator[Fault]:
    cors = of.cors
    if cors is None:
        return
    for origin in cors.allow_origins:
        scheme, separator, rest = origin.partition("://")
        if origin not in ("*", "null") and not (separator and scheme and rest and not set(rest) & set("/?#*, ")):
            yield "cors.allow_origins", f"{quote(origin)} is no origin", 'e.g. "https://app.example", or "*"'
    if "*" in cors.allow_origins and cors.allow_credentials:
        yield "cors.allow_credentials", 'cannot be with allow_origins = "*": name the origins', None
