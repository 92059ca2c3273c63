"""Feeds a CoAP source with datagrams of libFuzzer's making, whose options it takes, e.g. -max_total_time=20.

The first byte of an input says how long the datagrams are. Nothing may raise, the books must balance after each, and
what is sent back must be CoAP.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["nuclio_edge.sources", "nuclio_edge.core"]):
    from nuclio_edge.core.coap_codec import parse
    from nuclio_edge.sources import coap_peer
    from tests.coap_peer import MANIFEST, function
    from tests.rig import Rig

HANDLER = "def handler(context, event):\n    event.to_json()\n    return event.raw_body * 40 or 'x' * 1500"


class Wire:
    """Stands for the socket: what is sent is read as CoAP."""

    group = ""
    gathers = False

    def __init__(self) -> None:
        self.unsent = 0
        self.peers = coap_peer.Peers(self)

    def sendto(self, datagram: bytes, _address: Any) -> None:
        parse(datagram)

    def send(self, datagram: bytes, _peer: Any) -> None:
        parse(datagram)


def main() -> None:
    """Run until libFuzzer has enough."""
    with tempfile.TemporaryDirectory() as folder:
        tables = MANIFEST + function("f", "/*") + function("exact", "/a", trigger='method = "GET"')
        rig = Rig(Path(folder), tables, f=HANDLER, exact=HANDLER)
        source = rig.processor.sources["lan"]
        wire: Any = Wire()

        def one(data: bytes) -> None:
            size = data[0] % 64 + 4 if data else 4
            for at in range(1, len(data), size):
                source.intake.take(wire, data[at : at + size], ("192.0.2.1", 5683), None)
                rig.processor.loop.turn(0)
            assert source.received == source.routed + source.unrouted + sum(source.rejected.values())
            assert rig.processor.exit_code == 0, rig.records.text()

        atheris.Setup(sys.argv, one)
        atheris.Fuzz()


main()
