"""For tests of functions and of sources: nothing here needs pytest, nothing here is imported by a running processor.

Clock, Recorder, run_handler    tests of handlers and of what waits for a time       docs/testing.md
sim_board                       tests of what drives pins                             docs/sources/gpio.md
check_source, SourceRig         one behaviour suite for every kind of source          docs/writing-a-source.md
"""

from nuclio_edge.sim import board as sim_board
from nuclio_edge.testing.checks import check_source
from nuclio_edge.testing.clock import Clock
from nuclio_edge.testing.handlers import Call, Recorder, make_event, run_handler
from nuclio_edge.testing.rig import SourceRig

__all__ = ["Call", "Clock", "Recorder", "SourceRig", "check_source", "make_event", "run_handler", "sim_board"]
