"""Fixtures for all tests, and the rule that a test leaves nothing behind."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest

from tests.certificates import Certificates
from tests.leaks import Held, left_behind, remove_mappings
from tests.mosquitto import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# No deadlines: a test shares the machine with others and must not fail because they are busy.
hypothesis.settings.register_profile(
    "shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("shared")

# A suite that a script starts in the background has Ctrl-C ignored, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves threads, descriptors, processes or asyncio tasks; set up first, hence torn down last."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    before = Held()
    yield
    if folder is not None:
        remove_mappings(folder)
    left = left_behind(before)
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Keys and certificates, made once a session."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


class StartBroker(Protocol):
    """Start another broker; the options are those of tests.mosquitto.Mosquitto."""

    def __call__(self, **options: object) -> Mosquitto:
        """Return it running; it is stopped at the end of the test."""


@pytest.fixture
def start_mosquitto(tmp_path: Path) -> Iterator[StartBroker]:
    """Start brokers with options: `start_mosquitto(tls=certificates, persistence=True)`."""
    started: list[Mosquitto] = []

    def start(**options: object) -> Mosquitto:
        broker = Mosquitto(tmp_path / f"mosquitto-{len(started)}", **options)  # type: ignore[arg-type]
        started.append(broker)
        return broker.start()

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture
def mosquitto(start_mosquitto: StartBroker) -> Mosquitto:
    """A running broker without TLS, users or persistence."""
    return start_mosquitto()
