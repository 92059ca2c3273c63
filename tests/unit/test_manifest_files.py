"""The manifests of tests/data: an invalid one has its exact text beside it, a good one the JSON schema takes too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]  # for two calls, its stubs are not worth a dependency
import pytest
import tomli

from nuclio_edge.errors import ManifestError
from nuclio_edge.manifest import check, json_schema, load
from nuclio_edge.manifest.problems import render, render_warnings

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
INVALID = sorted((DATA / "invalid").glob("*.toml"))
GOOD = sorted((DATA / "good").glob("*.toml"))
DOCUMENTED = set(re.findall(r"^\| ([EW][0-9]{3}) ", (ROOT / "docs" / "manifest.md").read_text(), re.MULTILINE))


def told(path: Path) -> str:
    """Return the codes and the text that `check` gives, in the form of the files beside the manifests."""
    problems = check(str(path))[1]
    if not problems:
        return ""
    parts = [render(problems, path.name)] if any(p.severity == "error" for p in problems) else []
    parts += [render_warnings(problems, path.name)] if any(p.severity == "warning" for p in problems) else []
    return " ".join(p.code for p in problems) + "\n\n" + "\n\n".join(parts) + "\n"


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_manifest_is_told_whole_and_to_the_letter(path: Path) -> None:
    assert told(path) == path.with_suffix(".txt").read_text()


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_an_invalid_manifest_is_never_loaded(path: Path) -> None:
    with pytest.raises(ManifestError, match=r"nothing was started\.$") as caught:
        load(str(path))
    lines = [problem.line for problem in caught.value.problems]
    assert lines == sorted(lines)


@pytest.mark.parametrize("path", INVALID + GOOD, ids=lambda path: path.stem)
def test_no_message_repeats_a_secret(path: Path) -> None:
    manifest, problems = check(str(path))
    assert "hunter2" not in json.dumps([problem.as_dict(str(path)) for problem in problems])
    assert "hunter2" not in render(problems, str(path)) + render_warnings(problems, str(path))
    if manifest is not None:
        assert "hunter2" not in repr(manifest.sources)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_good_manifest_is_loaded_with_exactly_its_warnings(path: Path) -> None:
    manifest = load(str(path))
    beside = path.with_suffix(".txt")
    assert told(path) == (beside.read_text() if beside.exists() else "")
    assert [p.code for p in manifest.warnings] == told(path).partition("\n")[0].split()


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_the_json_schema_takes_every_good_manifest(path: Path) -> None:
    schema = json_schema.build()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(tomli.loads(path.read_text()), schema)


@pytest.mark.parametrize("name", ["unknown_key", "wrong_type", "choices", "out_of_range", "durations_sizes_rates"])
def test_the_json_schema_refuses_what_an_editor_can_know(name: str) -> None:
    content = tomli.loads((DATA / "invalid" / f"{name}.toml").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, json_schema.build())


def test_every_code_is_documented_and_shown_by_a_manifest_of_the_tests() -> None:
    source = "".join(path.read_text() for path in (ROOT / "nuclio_edge").rglob("*.py"))
    used = set(re.findall(r'"([EW][0-9]{3})"', source))
    shown = {code for path in INVALID + GOOD for code in told(path).partition("\n")[0].split()}
    shown.add("E101")  # a file that is not there cannot be among them: see test_manifest.py
    assert used == DOCUMENTED
    assert used == shown


def test_every_name_of_the_reference_manifest_is_known() -> None:
    text = (ROOT / "docs" / "manifest.md").read_text()
    reference = re.findall(r"```toml\n# edge.toml\n(.*?)```", text, re.DOTALL)
    assert reference
    for manifest in reference:
        jsonschema.validate(tomli.loads(manifest), json_schema.build())


def test_each_problem_has_a_json_form(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text('[device]\nnam = "a"\n')
    problems = check(str(path))[1]
    assert [problem.as_dict("edge.toml") for problem in problems] == [
        {
            "file": "edge.toml",
            "line": 2,
            "column": 0,
            "key": "device.nam",
            "severity": "error",
            "code": "E110",
            "message": "unknown key",
            "hint": 'did you mean "name"?',
        }
    ]
