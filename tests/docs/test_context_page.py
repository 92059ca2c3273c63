"""docs/context.md against the classes, and by running its functions."""

from __future__ import annotations

import inspect
import re
import subprocess
from typing import TYPE_CHECKING, Any

from nuclio_edge.core.context import Context
from nuclio_edge.core.response import Response
from nuclio_edge.logs import FunctionLogger
from nuclio_edge.sources.coap_publish import CoapBinding
from nuclio_edge.sources.gpio_binding import Pins
from nuclio_edge.sources.memory import MemoryBinding
from nuclio_edge.sources.mqtt_publish import MqttBinding
from nuclio_edge.sources.mqtt_text import _PROPERTIES
from nuclio_edge.sources.serial_write import SerialBinding
from tests.cli import Running, call
from tests.docs.pages import DOCS, tables, write_out
from tests.mosquitto import program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.mosquitto import Mosquitto

ATTRIBUTES, LOGGER, RESPONSE, BINDINGS, PUBLISH = tables("context.md")


def names(table: list[list[str]]) -> set[str]:
    """What stands in the first column."""
    return {name for row in table for name in re.findall(r"`(\w+)[`(]", row[0])}


def public(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def written(method: Any) -> str:
    """A method as the page has it: names and defaults."""
    parts = []
    for name, parameter in list(inspect.signature(method).parameters.items())[1:]:
        before = "**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is inspect.Parameter.empty else f"={parameter.default!r}".replace("'", '"')
        parts.append(before + name + default.replace("30.0", "30"))
    return f"{method.__name__}({', '.join(parts)})"


def test_the_page_has_every_attribute_of_a_context_and_every_method_of_its_logger() -> None:
    assert names(ATTRIBUTES) == public(Context) - {"revoke"}
    assert names(LOGGER) == public(FunctionLogger) - {"level", "name"}


def test_the_arguments_of_an_answer_are_in_their_order_with_their_defaults() -> None:
    wanted = list(inspect.signature(Response).parameters.values())
    assert [row[0] for row in RESPONSE] == [f"`{one.name}`" for one in wanted]
    assert [row[1].strip("`") for row in RESPONSE] == [
        "text/plain" if one.name == "content_type" else str(one.default) for one in wanted
    ]


def test_every_method_of_every_binding_is_there_with_its_arguments() -> None:
    kinds = {"memory": MemoryBinding, "coap": CoapBinding, "gpio": Pins, "serial": SerialBinding}
    rows = {row[0]: row[1] for row in BINDINGS}
    assert set(rows) == {*kinds, "mqtt"}
    for kind, made in kinds.items():
        assert rows[kind] == ", ".join(f"`{written(getattr(made, name))}`" for name in vars(made) if name[0] != "_")
    assert f"`{written(MqttBinding.publish)}`" in (DOCS / "context.md").read_text()
    fixed = [name for name in inspect.signature(MqttBinding.publish).parameters if name not in ("self", "properties")]
    assert [row[0].strip("`") for row in PUBLISH][: len(fixed)] == fixed
    assert names(PUBLISH) == {*fixed, *_PROPERTIES}


def test_the_functions_on_the_page_do_what_it_says(tmp_path: Path, mosquitto: Mosquitto) -> None:
    write_out("context.md", tmp_path)
    manifest = tmp_path / "edge.toml"
    manifest.write_text(manifest.read_text().replace("mqtt://192.168.1.10", mosquitto.url))
    shown = call("invoke", "ask", cwd=tmp_path).stdout
    assert (
        "broker.publish('rooms/hall/measure', {'what': 'celsius'}, qos=1, response_topic='answers/gateway', " in shown
    )

    def send(topic: str, text: str) -> None:
        at = ("-h", "127.0.0.1", "-p", str(mosquitto.port))
        subprocess.run([program("mosquitto_pub"), *at, "-t", topic, "-m", text], check=True)

    with Running(tmp_path) as run:
        run.ready().wait_for(message="connected")
        send("hall/button", "pressed")
        said = run.wait_for(message="answered")["with"]
        assert said == {"room": "hall", "status": "200", "celsius": 19.5}

        send("readings/a", '{"t": 21.5}')
        said = run.wait_for(message="reading")
        assert list(said) == ["datetime", "level", "message", "with", "logger", "function", "event_id"]
        assert (said["with"], said["logger"]) == ({"celsius": 21.5, "unit": "C"}, "reading")
        assert run.wait_for(message="read 11 bytes from readings/a")
        send("readings/b", '{"t": "warm"}')
        said = run.wait_for(message="no number in readings/b")
        assert (said["level"], "ValueError" in said["with"]["traceback"]) == ("error", True)
        assert run.wait_for(message="left out")["logger"] == "reading.parser"

        for number in range(4):
            send("mean", f'{{"t": {number}}}')
        said = run.wait_for(4, message="mean")
        assert said["with"] == {"worker": "0", "of": 3}
        assert run.stop() == 0
