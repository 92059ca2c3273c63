"""Runs the functions of a module that are sentences, and prints a line of JSON for each; standard library only."""

from __future__ import annotations

import json
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def run(*sentences: Callable[[], Any]) -> int:
    """Try each; 1 when one of them does not hold. What a sentence returns is printed as its figures."""
    failed = 0
    for sentence in sentences:
        begun = time.monotonic()
        said: dict[str, Any] = {"sentence": sentence.__name__.replace("_", " "), "holds": True}
        try:
            figures = sentence()
            if figures is not None:
                said["figures"] = figures
        except Exception as error:  # noqa: BLE001 - whatever is wrong with one, the others are tried
            failed = 1
            said.update(holds=False, why=f"{error!r}", trace=traceback.format_exc())
        said["seconds"] = round(time.monotonic() - begun, 2)
        print(json.dumps(said), flush=True)
    return failed


def until(condition: Callable[[], Any], what: str, limit: float = 30.0) -> None:
    """Wait for something that another thread or the kernel does."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.002)


def main(module: str) -> None:
    """Run the module's SENTENCES and end the process."""
    sys.exit(run(*sys.modules[module].SENTENCES))
