"""docs/manifest.md says of every key what the tables say that check a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from nuclio_edge import registry
from nuclio_edge.manifest import tables

if TYPE_CHECKING:
    from nuclio_edge.manifest.schema import Field, Fields

PAGE = (Path(__file__).parents[2] / "docs" / "manifest.md").read_text()

SECTIONS: dict[str, Fields] = {
    "device": tables.DEVICE,
    "log": tables.LOG,
    "function": tables.FUNCTION,
    "trigger": tables.TRIGGER,
    "retry": tables.RETRY,
    "inbox": tables.INBOX,
    "batch": tables.BATCH,
    "limits": tables.LIMITS,
    "output": tables.OUTPUT,
    "mqtt source": registry.tables("mqtt").PARAMS,
    "mqtt trigger": registry.tables("mqtt").TRIGGER,
    "mqtt output": registry.tables("mqtt").OUTPUT,
    "coap source": registry.tables("coap").PARAMS,
    "coap trigger": registry.tables("coap").TRIGGER,
    "coap output": registry.tables("coap").OUTPUT,
    "http source": registry.tables("http").PARAMS,
    "http trigger": registry.tables("http").TRIGGER,
    "http cors": registry.tables("http").CORS,
    "timer trigger": registry.tables("timer").TRIGGER,
    "serial source": registry.tables("serial").PARAMS,
    "serial rs485": registry.tables("serial").RS485,
    "serial trigger": registry.tables("serial").TRIGGER,
    "serial output": registry.tables("serial").OUTPUT,
    "sensor source": registry.tables("sensor").PARAMS,
    "sensor trigger": registry.tables("sensor").TRIGGER,
    "gpio source": registry.tables("gpio").PARAMS,
    "gpio line": registry.tables("gpio").LINE,
    "gpio trigger": registry.tables("gpio").TRIGGER,
    "gpio output": registry.tables("gpio").OUTPUT,
    "memory trigger": registry.tables("memory").TRIGGER,
    "memory output": registry.tables("memory").OUTPUT,
    "spool": tables.SPOOL,
    "admin": tables.ADMIN,
    "record": tables.RECORD,
    "sync": tables.SYNC,
}


def shown(field: Field) -> str:
    """Return a default as one would write it."""
    value = field.default
    if field.required:
        return "**required**"
    if value in (None, (), {}, ""):
        return ""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    if isinstance(value, tuple):
        return "`[" + ", ".join(f'"{one}"' for one in value) + "]`"
    if field.type == "duration":
        units = (("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
        unit, factor = next((unit, factor) for unit, factor in units if value % factor == 0) if value else ("s", 1)
        return f'`"{value // factor}{unit}"`'
    if field.type == "size":
        return f'`"{value >> 20}MiB"`' if value >> 20 else f'`"{value >> 10}KiB"`'
    return f"`{str(value).lower()}`" if not isinstance(value, str) else f'`"{value}"`'


def row(key: str, field: Field) -> str:
    """Return the line of a key in its table."""
    kind = field.type
    if field.either:
        kind = " or ".join(either.type for either in field.either)
    elif field.secret:
        kind += " or secret"
    elif field.choices:
        kind = ", ".join(f"`{choice}`" if isinstance(choice, int) else f'`"{choice}"`' for choice in field.choices)
    elif field.of is not None:
        kind += f" of {field.of.type}s"
    return f"| `{key}` | {kind} | {shown(field)} | {field.doc} |"


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_has_every_key_with_its_type_default_and_meaning(section: str) -> None:
    missing = [row(key, field) for key, field in SECTIONS[section].items() if row(key, field) not in PAGE]
    assert not missing, "not on the page:\n" + "\n".join(missing)
