"""The only file that asks which interpreter this is: clocks, JSON, readiness and wake-up for the rest of core."""

import os
import sys

const = int  # for `X = const(1)`, which MicroPython's compiler puts in where X is used
TYPE_CHECKING = False
if TYPE_CHECKING or sys.implementation.name != "micropython":
    from .port_cpython import (
        IN as IN,
    )
    from .port_cpython import (
        OUT as OUT,
    )
    from .port_cpython import (
        TICKS_PER_MS as TICKS_PER_MS,
    )
    from .port_cpython import (
        Poller as Poller,
    )
    from .port_cpython import (
        bucket as bucket,
    )
    from .port_cpython import (
        clock as clock,
    )
    from .port_cpython import (
        current_error as current_error,
    )
    from .port_cpython import (
        error_text as error_text,
    )
    from .port_cpython import (
        json_dumps as json_dumps,
    )
    from .port_cpython import (
        json_loads as json_loads,
    )
    from .port_cpython import (
        key_of as key_of,
    )
    from .port_cpython import (
        msgpack_library as msgpack_library,
    )
    from .port_cpython import (
        next_number as next_number,
    )
    from .port_cpython import (
        now_ms as now_ms,
    )
    from .port_cpython import (
        queue as queue,
    )
    from .port_cpython import (
        slots as slots,
    )
    from .port_cpython import (
        ticks_ms as ticks_ms,
    )
    from .port_cpython import (
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
