"""Kinds are found by name: ours without an import of their library, other people's by an entry point."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from nuclio_edge import registry
from nuclio_edge.errors import UnknownKindError
from nuclio_edge.manifest import check, load

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = """
from nuclio_edge.manifest.schema import Field

class SmokeSource:
    kind = "smoke"
    PARAMS = {"bus": Field("integer", required=True)}
    TRIGGER = {"level": Field("integer", 3, minimum=1)}

    @staticmethod
    def check_params(params):
        if params.bus == 13:
            yield "bus", "is unlucky", None
"""


@pytest.fixture
def smoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package that offers the kinds "smoke", and "broken", which cannot be imported."""
    site = tmp_path / "site"
    info = site / "smoke_source-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "smoke_source.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: smoke-source\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{registry.GROUP}]\nsmoke = smoke_source:SmokeSource\nbroken = smoke_nowhere:Source\n"
    )
    monkeypatch.syspath_prepend(str(site))
    yield tmp_path
    sys.modules.pop("smoke_source", None)


@pytest.mark.parametrize("kind", registry.SOURCES)
def test_every_kind_of_ours_declares_its_tables(kind: str) -> None:
    tables = registry.tables(kind)
    assert isinstance(tables.PARAMS, dict)
    assert isinstance(tables.TRIGGER, dict)
    assert tables.OUTPUT is None or isinstance(tables.OUTPUT, dict)


@pytest.mark.parametrize("kind", registry.SOURCES)
def test_the_class_of_a_kind_is_importable_without_its_library(kind: str) -> None:
    program = "import sys; from nuclio_edge.registry import source_class\n"
    program += f"assert source_class({kind!r}).kind == {kind!r}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"paho", "aiocoap", "h11", "cronsim", "ssl", "asyncio"} & set(run.stdout.split())


def test_a_kind_of_another_package_is_checked_like_ours(smoke: Path) -> None:
    (smoke / "alarm.py").write_text("def handler(context, event): pass\n")
    path = smoke / "edge.toml"
    text = '[source.hall]\nkind = "smoke"\nbus = 3\n'
    text += '[function.alarm]\nhandler = "alarm.py"\n[[function.alarm.trigger]]\nlevel = 2\n'
    path.write_text(text)
    manifest = load(str(path))
    assert manifest.sources["hall"].params.bus == 3
    trigger = manifest.functions["alarm"].triggers[0]
    assert (trigger.source, trigger.address.level, trigger.when_full) == ("hall", 2, "block")
    path.write_text(text.replace("= 3", "= 13").replace("level = 2", "levl = 2\nsource = 'hall'"))
    assert [(problem.line, problem.code) for problem in check(str(path))[1]] == [(3, "E205"), (7, "E110")]


def test_an_unknown_kind_is_told_with_everything_that_is_there(smoke: Path) -> None:
    with pytest.raises(UnknownKindError, match='no source is of kind "smok"') as caught:
        registry.tables("smok")
    assert caught.value.hint == 'did you mean "smoke"?'
    with pytest.raises(UnknownKindError) as caught:
        registry.tables("carrier-pigeon")
    assert caught.value.hint is not None
    assert "smoke" in caught.value.hint
    assert "mqtt" in caught.value.hint


def test_a_package_that_cannot_be_imported_is_the_reason_that_is_told(smoke: Path) -> None:
    with pytest.raises(UnknownKindError, match="cannot be loaded from smoke_nowhere:Source: No module named"):
        registry.source_class("broken")
