"""An aiocoap server that answers POST /f with 2.04 and "ok": `aiocoap_server.py PORT`."""

import asyncio
import sys

import aiocoap  # type: ignore[import-untyped]
from aiocoap import resource


class Function(resource.Resource):  # type: ignore[misc]  # it is not typed
    """Answers at once."""

    async def render_post(self, request: aiocoap.Message) -> aiocoap.Message:
        """Say ok."""
        return aiocoap.Message(code=aiocoap.CHANGED, payload=b"ok")


async def main() -> None:
    """Serve for ever."""
    site = resource.Site()
    site.add_resource(["f"], Function())
    await aiocoap.Context.create_server_context(site, bind=("127.0.0.1", int(sys.argv[1])))
    await asyncio.get_running_loop().create_future()


asyncio.run(main())
