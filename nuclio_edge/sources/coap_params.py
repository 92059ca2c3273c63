"""What the manifest says of a CoAP source, its triggers and its outputs; read without a socket.

listen      "host:port" with a numeric host; "[::]:5683" serves IPv4 as well; the port may be left out
path        exact ("/door"), or everything below ("/doors/*")
method      one or several; none: all of them
observe     instead of path: a resource of another device, coap://host/path, whose changes become events
"""

from __future__ import annotations

from nuclio_edge.manifest.problems import quote
from nuclio_edge.manifest.schema import Field, known, separately

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from nuclio_edge.manifest.schema import Values
    from nuclio_edge.registry import Fault

PORT = 5683
WELL_KNOWN = "/.well-known/core"
METHODS = ("GET", "POST", "PUT", "DELETE", "FETCH", "PATCH", "iPATCH")

PARAMS = {
    "listen": Field(
        "list",
        ("127.0.0.1:5683",),
        of=Field("string", minimum=1),
        single=True,
        doc='addresses with ports; "[::]:5683" is everywhere, IPv6 and IPv4; [] is none',
    ),
    "multicast": Field("list", (), of=Field("string", minimum=1), doc='groups to join, e.g. "224.0.1.187", "ff02::fd"'),
    "max_body": Field("size", 1 << 20, minimum=1024, maximum=64 << 20, doc="of a request that comes in blocks"),
    "block_size": Field("integer", 1024, choices=(16, 32, 64, 128, 256, 512, 1024), doc="longer replies go in blocks"),
    "max_observers": Field("integer", 256, minimum=0, maximum=65_535, doc="further ones get a plain reply"),
}

TRIGGER = {
    "path": Field("string", wildcards="*", doc='a path, or everything below one: "/doors/*"'),
    "method": Field(
        "list", (), of=Field("string", choices=METHODS), single=True, doc="which methods; default: all of them"
    ),
    "rt": Field("string", minimum=1, doc="resource type, for discovery; default: the function's name"),
    "observe": Field("string", doc="instead of path: a resource of another device, coap://host/path"),
}

OUTPUT = {
    "path": Field("string", required=True, doc="the resource whose value it becomes; observers are told"),
}


def parse_listen(text: str) -> tuple[str, int]:
    """Return (host, port) of an address to listen at; ValueError says what is wrong."""
    if "://" in text:
        scheme = text.partition("://")[0]
        if scheme == "coaps":
            raise ValueError("coaps (DTLS) comes with a later version")
        raise ValueError('an address is written without a scheme: "[::]:5683"')
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError("an IPv6 address is written [::1]:5683")
        port = port[1:] if port else str(PORT)
    else:
        host, colon, port = text.partition(":")
        if ":" in port:
            raise ValueError("an IPv6 address is written in brackets: [::1]:5683")
        port = port if colon else str(PORT)
    if not (port.isascii() and port.isdigit() and int(port) <= 65_535):
        raise ValueError(f"{quote(port)} is not a port")
    if host == "localhost":
        host = "127.0.0.1"
    if not _is_numeric(host):
        raise ValueError(f"{quote(host)} is not an IP address; the interface's own, 0.0.0.0 or [::] is expected")
    return host, int(port)


def parse_uri(uri: str) -> str:
    """Return a coap:// URI as it is; ValueError says what is wrong with it."""
    scheme, separator, rest = uri.partition("://")
    if scheme in ("coaps", "coaps+tcp") and separator:
        raise ValueError("coaps (DTLS) comes with a later version; OSCORE too")
    if scheme not in ("coap", "coap+tcp") or not separator:
        raise ValueError("it begins with coap://")
    authority, _, _ = rest.partition("/")
    if not authority.partition("?")[0]:
        raise ValueError("the host is missing")
    if "@" in authority or "#" in rest or any(char.isspace() or not char.isprintable() for char in rest):
        raise ValueError("no @, # or blank may stand in it")
    return uri


def check_params(params: Values) -> Iterator[Fault]:
    """The addresses."""
    yield from separately(params, _check_listen, _check_multicast)


def _check_listen(params: Values) -> Iterator[Fault]:
    for text in params.listen:
        try:
            parse_listen(text)
        except ValueError as error:
            yield "listen", f"not an address to listen at: {error}", None


def _check_multicast(params: Values) -> Iterator[Fault]:
    for text in params.multicast:
        if not is_multicast(text):
            yield "multicast", f"{quote(text)} is not a multicast address", 'e.g. "224.0.1.187" or "ff02::fd%eth0"'


def claims(params: Values) -> Iterator[tuple[str, str]]:
    """A UDP port is one source's."""
    for text in dict.fromkeys(params.listen):
        host, port = parse_listen(text)
        if port:
            yield "listen", f"UDP port {port} at {host}"


def check_trigger(address: Values) -> Iterator[Fault]:
    """A path that requests can have, or a resource to observe."""
    if (address.path is None) == (address.observe is None):
        yield "path" if address.observe is None else "observe", "either path or observe is expected", None
        return
    if address.observe is not None:
        try:
            parse_uri(address.observe)
        except ValueError as error:
            yield "observe", f"not a resource to observe: {error}", None
        for key, value in known(address, "method", "rt"):
            if value:
                yield key, "means nothing beside observe", None
        return
    wrong = _path_fault(address.path, prefix=True)
    if wrong:
        yield "path", wrong, None


def trigger_claims(address: Values) -> Iterator[tuple[str, str]]:
    """A path and method is one trigger's."""
    if address.path is not None:
        for method in dict.fromkeys(address.method or METHODS):
            yield "path", f"{method} {address.path}"


def check_output(output: Values) -> Iterator[Fault]:
    """A path that a resource can have."""
    wrong = _path_fault(output.path, prefix=False)
    if wrong:
        yield "path", wrong, None


def when_full(address: Values) -> str:
    """A request is told to come again later (5.03); of observed values the newest counts."""
    return "reject" if address.path is not None else "drop-oldest"


def is_multicast(text: str) -> bool:
    """Whether it is the address of a group, perhaps with an interface: ff02::fd%eth0."""
    import _socket as socket

    host = text.partition("%")[0]
    try:
        return 224 <= socket.inet_pton(socket.AF_INET, host)[0] <= 239
    except OSError:
        pass
    try:
        return socket.inet_pton(socket.AF_INET6, host)[0] == 255
    except OSError:
        return False


def _is_numeric(host: str) -> bool:
    import _socket as socket

    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
            return True
        except OSError:
            pass
    return False


def _path_fault(path: str, *, prefix: bool) -> str | None:
    if not path.startswith("/"):
        return f"{quote(path)} is not a path: it begins with /"
    if "?" in path or "#" in path or any(char.isspace() or not char.isprintable() for char in path):
        return "no ?, # or blank may stand in a path"
    body = path[:-1] if prefix and path.endswith("/*") else path
    if "*" in body:
        return f"{quote(path)}: * stands alone, after the last /" if prefix else "no * may stand in it"
    if path == WELL_KNOWN:
        return f"{WELL_KNOWN} lists the functions and is not a function's own"
    if any(part in (".", "..") for part in path.split("/")):
        return "no . and no .. may stand in a path (RFC 7252, 5.10.1)"
    if any(len(part.encode()) > 255 for part in path.split("/")):
        return "a part of a path has 255 bytes at most"
    return None
