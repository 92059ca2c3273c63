"""The same answer by uvicorn with uvloop and httptools: `uvicorn_hello.py PORT`."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Take the whole request, as an event has it, and answer."""
    while (await receive())["more_body"]:
        pass
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"hello"})


if __name__ == "__main__":
    uvicorn.run(
        app, host="127.0.0.1", port=int(sys.argv[1]), loop="uvloop", http="httptools", interface="asgi3",
        lifespan="off", log_level="error", access_log=False,
    )  # fmt: skip
