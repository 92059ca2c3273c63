"""The only file that asks which interpreter this is: clocks, JSON, readiness and wake-up for the rest of core."""

import sys

const = int  # for `X = const(1)`, which MicroPython's compiler puts in where X is used
TYPE_CHECKING = False
if TYPE_CHECKING or sys.implementation.name != "micropython":
    from .port_cpython import *
else:
    from .port_micropython import *
