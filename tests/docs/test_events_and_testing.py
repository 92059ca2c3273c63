"""docs/events.md against the classes, docs/testing.md by running its tests."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from nuclio_edge import testing
from nuclio_edge.core import event_sdk
from nuclio_edge.core.event import Event
from nuclio_edge.sources.mqtt_event import MqttEvent
from nuclio_edge.testing import SourceRig, make_event
from tests.docs.pages import DOCS, tables, write_out

if TYPE_CHECKING:
    from pathlib import Path


def names(table: list[list[str]]) -> set[str]:
    found = [name for row in table for name in re.findall(r"`(\w+)[`(]", row[0])]
    assert len(found) == len(set(found)), "a name stands there twice"
    return set(found)


def test_the_page_of_events_has_every_attribute_and_accessor_once_and_no_other() -> None:
    attributes, accessors, mqtt = tables("events.md")
    public = {name for name in dir(Event) if not name.startswith("_")}
    of_clock = ("boot_id", "clock_quality", "monotonic_ms")
    known = {name for name in ("raw_body", *of_clock, *Event._lazy, *event_sdk._RARE) if not name.startswith("_")}
    assert names(attributes) == known
    assert names(accessors) == public - known | set(event_sdk._METHODS)
    assert names(mqtt) == {name for name in set(MqttEvent._lazy) - set(Event._lazy) if name[0] != "_"}


def test_every_attribute_of_the_page_has_the_type_that_it_says() -> None:
    event = make_event(b'{"a": 1}')
    for row in tables("events.md")[0]:
        for name in re.findall(r"`(\w+)`", row[0]):
            value = getattr(event, name)
            said = row[1].replace(" or None", "").partition(",")[0]
            assert type(value).__name__ == said or (value is None and "or None" in row[1]), (name, value)


def test_the_tests_on_the_page_about_testing_pass(tmp_path: Path) -> None:
    write_out("testing.md", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", str(tmp_path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_everything_that_testing_offers_is_on_a_page() -> None:
    text = (DOCS / "testing.md").read_text() + (DOCS / "writing-a-source.md").read_text()
    missing = [
        name for name in (*testing.__all__, *vars(SourceRig)) if not name.startswith("_") and f"`{name}" not in text
    ]
    assert set(missing) <= {"Call", "can"}
