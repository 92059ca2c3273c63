"""Stock paho as another client of a broker: how it leaves without anything of it left."""

from __future__ import annotations

from typing import Any

from tests.waiting import LIMIT


def leave(client: Any) -> None:
    """Disconnect a client that runs on a thread of its own, wait for the thread, and close its wake-up pair.

    `loop_stop()` trips over a thread that ends, and forgets itself, in that very moment. The pair is left to paho's
    finalizer; in a reference cycle (a traceback is enough) the collector may finalize the sockets first, which then say
    that nobody closed them.
    """
    thread = client._thread
    client.disconnect()
    if thread is not None:
        client._thread_terminate = True
        thread.join(LIMIT)
    client._reset_sockets()
