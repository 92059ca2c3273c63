"""A real processor inside the test process: manifest and functions as text, the loop turned until something is true."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from nuclio_edge.functions import running
from nuclio_edge.manifest import load
from nuclio_edge.processor import Processor
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nuclio_edge.core.event import Event
    from nuclio_edge.core.inbox import Trigger
    from nuclio_edge.core.response import Response

MEMORY = """
[source.mem]
kind = "memory"
"""


class Records:
    """A log sink that keeps the records; the place of a terminal."""

    level = 0

    def __init__(self) -> None:
        self.records: list[Any] = []

    def put(self, record: Any, mask: Any) -> None:
        self.records.append(record)

    def write(self, loop: Any) -> None:
        pass

    def finish(self, loop: Any, limit_ms: int) -> None:
        pass

    def text(self) -> str:
        return "\n".join(f"{record[3]} {record[4]}" for record in self.records)


class Settled:
    """What came of events that a test handed in: (event, response, error) each."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[Event, Response | None, BaseException | None]] = []

    def __call__(self, event: Event, response: Response | None, error: BaseException | None) -> None:
        self.outcomes.append((event, response, error))

    def statuses(self) -> list[int]:
        return [200 if response is None else response.status_code for _, response, _ in self.outcomes]

    def bodies(self) -> list[bytes]:
        return [b"" if response is None else response.body for _, response, _ in self.outcomes]


class Rig:
    """A processor of a manifest text, opened; use as a context manager, so that it is closed however the test ends."""

    def __init__(self, folder: Path, manifest: str, **files: str) -> None:
        from nuclio_edge.logs import Log

        for name, text in files.items():
            (folder / f"{name}.py").write_text(text)
        path = folder / "edge.toml"
        path.write_text(f'[device]\nname = "rig"\nstate_dir = "{folder}/state"\n' + manifest)
        self.folder = folder
        self.path = path
        self.records = Records()
        self.processor = Processor(load(str(path)), Log(self.records))
        self.processor.open()

    def __enter__(self) -> Rig:
        return self

    def __exit__(self, *_: object) -> None:
        self.processor.stop()
        self.until(lambda: not self.processor.sources)
        self.processor.loop.close()
        running.bind(None)  # of an inline function, whose last turn ended with the loop

    def deliver(self, path: str, body: bytes = b"", settled: Any = None, **about: Any) -> None:
        self.processor.sources["mem"].deliver(path, body, settled, **about)

    def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Turn the loop until the condition is true."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            self.processor.loop.turn(10)
            assert time.monotonic() < deadline, f"waited in vain: {what or condition}\n{self.records.text()}"

    def turn_for(self, ms: int) -> None:
        """Turn the loop for a while: to show that something does not happen."""
        end = self.processor.loop.now + ms
        while self.processor.loop.now < end:
            self.processor.loop.turn(max(end - self.processor.loop.now, 1))

    def ask(self, path: str, body: bytes = b"", **about: Any) -> tuple[int, bytes]:
        """Hand an event in and wait for its outcome: (status, body)."""
        settled = Settled()
        self.deliver(path, body, settled, **about)
        self.until(lambda: settled.outcomes, f"an answer on {path}")
        return settled.statuses()[0], settled.bodies()[0]

    def stopped(self) -> bool:
        """Whether the processor has closed everything."""
        return not self.processor.sources

    def trigger(self, function: str, index: int = 0) -> Trigger:
        return self.processor.functions[function].triggers[index]

    def balanced(self) -> bool:
        """Whether the ledger adds up at this moment."""
        return not self.processor.tally().wrong
