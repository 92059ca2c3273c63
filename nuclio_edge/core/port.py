"""The only file that asks which interpreter this is: clocks, JSON, readiness and wake-up for the rest of core."""

import os
import sys

const = int  # for `X = const(1)`, which MicroPython's compiler puts in where X is used
TYPE_CHECKING = False
if TYPE_CHECKING or sys.implementation.name != "micropython":
    from .port_cpython import *
else:
    from .port_micropython import *


try:
    _raw = os.urandom(4)
except (AttributeError, OSError):  # the webassembly build has none
    _raw = (now_ms() * 2_654_435_761 & 0xFFFFFFFF).to_bytes(4, "big")
boot = _raw.hex()  # 8 hex digits that tell the events of one boot from those of another
