"""The only file that asks which interpreter this is: clocks, JSON, readiness and wake-up for the rest of core."""

import os
import sys

const = int  # for `X = const(1)`, which MicroPython's compiler puts in where X is used
TYPE_CHECKING = False
if TYPE_CHECKING or sys.implementation.name != "micropython":
    from .port_cpython import (
        IN as IN,
        OUT as OUT,
        TICKS_PER_MS as TICKS_PER_MS,
        Poller as Poller,
        bucket as bucket,
        clock as clock,
        current_error as current_error,
        error_text as error_text,
        json_dumps as json_dumps,
        json_loads as json_loads,
        key_of as key_of,
        msgpack_library as msgpack_library,
        next_number as next_number,
        now_ms as now_ms,
        queue as queue,
        slots as slots,
        ticks_ms as ticks_ms,
        utc as utc,
    )
else:
    from .port_micropython import *


def _nonce() -> str:
    try:
        raw = os.urandom(4)
    except (AttributeError, OSError):  # the webassembly build has none
        raw = ((now_ms() * 2_654_435_761) & 0xFFFFFFFF).to_bytes(4, "big")
    return "".join(["%02x" % byte for byte in raw])


boot = _nonce()  # 8 hex digits that tell the events of one boot from those of another
