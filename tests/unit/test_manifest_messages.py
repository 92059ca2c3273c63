"""What `check` says of a trigger, a handler or an address that is wrong: all of it at once, and what is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from nuclio_edge.manifest import check

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Said = list[tuple[int, str, str, str, "str | None"]]

BROKER = '[source.broker]\nkind = "mqtt"\nurl = "mqtt://localhost"\n'
FUNCTION = '[function.f]\nhandler = "f.py"\n'
TRIGGER = "[[function.f.trigger]]\n"
CODE = "def handler(context, event):\n    return 1\n"


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., Said]:
    """(line, code, key, message, hint) of each problem of a manifest, beside which f.py holds the code."""

    def said(text: str, code: str = CODE) -> Said:
        (tmp_path / "f.py").write_text(code)
        path = tmp_path / "edge.toml"
        path.write_text(text)
        return [(p.line, p.code, p.key_path, p.message, p.hint) for p in check(str(path))[1]]

    return said


@pytest.mark.parametrize(
    ("url", "write"),
    [
        ("http://x", "mqtt://…, or ws://… for MQTT over WebSocket"),
        ("https://x", "mqtts://…, or wss://… for MQTT over WebSocket"),
        ("tcp://x", "mqtt://…"),
        ("ssl://x", "mqtts://…"),
    ],
)
def test_another_scheme_of_a_broker_is_told_with_what_is_meant(said: Callable[..., Said], url: str, write: str) -> None:
    ((_, code, _, message, _),) = said(f'[source.b]\nkind = "mqtt"\nurl = "{url}"\n')
    assert (code, message) == ("E205", f"not the address of a broker: write {write}")


def test_a_key_that_only_mqtt_5_has_is_warned_of_beside_version_3(said: Callable[..., Said]) -> None:
    keys = 'session_expiry = "1h"\nreceive_maximum = 10\n'
    assert said(BROKER + keys) == []
    assert said(BROKER + "version = 3\n") == []
    message, hint = "is not told to the broker: MQTT 3.1.1 has no place for it", "the broker's own setting holds"
    assert said(BROKER + "version = 3\n" + keys) == [
        (5, "W508", "source.broker.session_expiry", message, hint),
        (6, "W508", "source.broker.receive_maximum", message, hint),
    ]


@pytest.mark.parametrize(
    ("name", "wildcard", "trigger"),
    [
        ("a/+", "+", BROKER + FUNCTION + TRIGGER + 'topic = "{device.name}/x"\n'),
        ("#", "#", BROKER + FUNCTION + TRIGGER + 'topic = "x/{device.name}"\n'),
        ("*", "*", '[source.api]\nkind = "http"\n' + FUNCTION + TRIGGER + 'path = "/x/{device.name}"\n'),
        ("*", "*", '[source.api]\nkind = "coap"\n' + FUNCTION + TRIGGER + 'path = "/x/{device.name}"\n'),
    ],
)
def test_a_placeholder_brings_no_wildcard_into_an_address(
    said: Callable[..., Said], name: str, wildcard: str, trigger: str
) -> None:
    found = said(
        f'[device]\nname = "{name}"\n' + trigger.replace("[source.broker]", "[source.broker]\nclient_id = 'x'")
    )
    ((line, code, _, message, _),) = found
    assert (code, message) == ("E304", f'{{device.name}} is "{name}", whose {wildcard} would be a wildcard here')
    assert line > 2
    assert said('[device]\nname = "gw"\n' + trigger) == []
