"""Asking a processor at its admin socket as any HTTP client would, without the command line's own."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

from tests.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Unix(http.client.HTTPConnection):
    """A connection over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=LIMIT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(LIMIT)
        self.sock.connect(str(self.path))


def request(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """(status, headers in lower case, body)."""
    try:
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        return response.status, {key.lower(): value for key, value in response.headers.items()}, response.read()
    finally:
        connection.close()


def get(path: Path, target: str) -> Any:
    """What GET answers, which is 200: JSON as a value, else text."""
    status, headers, body = request(Unix(path), "GET", target)
    assert status == 200, (status, body)
    return json.loads(body) if headers["content-type"] == "application/json" else body.decode()
