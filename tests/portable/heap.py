"""What core costs in MicroPython's heap: tests/unit/test_core_budgets.py calls this line by line.

Collecting and reading are two calls, because the WebAssembly build collects only when no Python is running.
"""

import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SAMPLE = 50
before = 0
state: "dict[str, Any]" = {}


def begin() -> None:
    """What is in use from here on is counted."""
    global before
    before = gc.mem_alloc()  # type: ignore[attr-defined]  # MicroPython only


def load(module: str) -> None:
    """Import a module of core."""
    __import__("nuclio_edge.core." + module)


def tell(name: str) -> None:
    """Print what was taken since the last reading, and begin anew."""
    print(name, gc.mem_alloc() - before)  # type: ignore[attr-defined]  # MicroPython only
    begin()


def prepare() -> None:
    """Make a trigger of a function that runs inline, and the events for it."""
    from nuclio_edge.core.context import Context
    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.loop import Loop
    from nuclio_edge.core.worker import InlineRunner

    class Received(Event):
        """What a source makes: it stores what it has at hand."""

        def __init__(self, trigger: Trigger, raw_body: bytes, token: int) -> None:
            self._trigger = trigger
            self.raw_body = raw_body
            self._token = token

    class Function:
        """A function without outputs and retries."""

        name = "f"
        loop = None
        suspended = False
        outputs = ()
        timeout_ms = 30_000

        def handler(self, context: Context, event: Event) -> None:
            """Read nothing."""

        def bind(self, context: Context) -> None:
            """There is nothing to bind."""

        def prepare(self, context: Context) -> None:
            """Nothing to import."""

        def on_started(self) -> None:
            """Not here."""

        def may_retry(self) -> bool:
            """Never."""
            return False

        def on_failure(self, event: Event, error: object, status: int, result: object) -> None:
            """Not here."""

        def on_late(self, event: Event, ticks: int) -> None:
            """Not here."""

    class Source:
        """Settles by counting."""

        kind = "memory"
        name = "m"
        settled = 0

        def settle(self, event: Event, response: object, error: object) -> None:
            """Count."""
            self.settled += 1

    function = Function()
    state["source"] = source = Source()
    state["trigger"] = trigger = Trigger(function, source, Loop())
    state["event"] = Received
    InlineRunner(function, lambda worker: Context()).attach(trigger)


def run(count: int) -> None:
    """Bring so many events in."""
    trigger = state["trigger"]
    received = state["event"]
    body = b'{"t": 21.5}'
    for number in range(count):
        trigger.submit(received(trigger, body, number))


def sample() -> None:
    """Print what an event allocates."""
    gc.disable()
    start = gc.mem_alloc()  # type: ignore[attr-defined]  # MicroPython only
    run(SAMPLE)
    print("garbage", (gc.mem_alloc() - start) // SAMPLE)  # type: ignore[attr-defined]  # MicroPython only
    gc.enable()


def ledger() -> None:
    """Print what came of the events."""
    print("handled", state["trigger"].handled)
    print("settled", state["source"].settled)
