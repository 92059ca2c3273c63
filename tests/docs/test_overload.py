"""docs/overload.md: its manifest runs, its figures are those of the code."""

from __future__ import annotations

import subprocess
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from nuclio_edge.core.inbox import EVENT_COST
from nuclio_edge.core.overflow import GRACE_MS, LARGE
from nuclio_edge.manifest.tables import WHEN_FULL
from nuclio_edge.sources.http_connection import HIGH
from nuclio_edge.sources.mqtt_room import LIMIT_BYTES
from nuclio_edge.workers.ordered import Order
from tests.cli import Running
from tests.docs.pages import DOCS, tables, write_out
from tests.mosquitto import program
from tests.system.test_http_clients import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto

PAGE = "overload.md"


def test_the_page_has_every_policy_and_the_numbers_of_the_code() -> None:
    assert [row[0].strip("`") for row in tables(PAGE)[0]] == list(WHEN_FULL)
    text = (DOCS / PAGE).read_text()
    for wanted in (
        f"for up to {GRACE_MS} ms", f"below {LARGE}", f"and {EVENT_COST} bytes", f"({Order.cost} more",
        f"({LIMIT_BYTES >> 20} MiB and one message", f"({HIGH >> 10} KiB a connection)",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_the_page_runs(tmp_path: Path, mosquitto: Mosquitto) -> None:
    write_out(PAGE, tmp_path)
    manifest = tmp_path / "edge.toml"
    port = free_port()
    text = manifest.read_text().replace("mqtt://192.168.1.10", mosquitto.url).replace(":8080", f":{port}")
    manifest.write_text(text)
    with Running(tmp_path) as running:
        running.ready()
        for machine in ("a", "b"):
            lines = "".join(f"{number}\n" for number in range(40)).encode()
            at = ("-h", "127.0.0.1", "-p", str(mosquitto.port), "-t", f"plant/{machine}/power", "-l")
            subprocess.run([program("mosquitto_pub"), *at], input=lines, check=True)
        running.wait_for(80, message="archived")
        records = [r["with"] for r in running.records if r["message"] == "archived"]
        for machine in ("a", "b"):
            assert [r["number"] for r in records if r["topic"] == f"plant/{machine}/power"] == list(range(40))
        statuses, later = [], ""
        for _ in range(12):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/report") as answer:
                    statuses.append(answer.status)
            except urllib.error.HTTPError as refused:
                statuses.append(refused.code)
                later = refused.headers["Retry-After"]
                refused.close()
        assert statuses[:5] == [200] * 5 and 503 in statuses and int(later) >= 1
        running.stop()
        assert "rate-limit" in running.wait_for(event="stopped")["message"]
