"""The README's first function works as it is written there, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli import call

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The one code block of a language that contains this text, without its indentation."""
    found = [
        "\n".join(line.removeprefix(indent) for line in body.splitlines()) + "\n"
        for indent, name, body in re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)
        if name == language and containing in body
    ]
    (one,) = found
    return one


def test_the_first_function_is_right_and_answers_what_the_readme_shows(tmp_path: Path) -> None:
    assert "nuclio-edge new door" in block("sh", "nuclio-edge new")
    assert call("new", "door", cwd=tmp_path).returncode == 0
    folder = tmp_path / "door"
    (folder / "limit.py").write_text(block("python", "def handler"))
    with (folder / "edge.toml").open("a") as manifest:
        manifest.write(block("toml", "[function.limit]"))
    shown = block("console", "invoke")
    first, second = shown.split("$ nuclio-edge ")[1:]
    done = call("check", cwd=folder)
    assert done.stderr == ""
    assert first == "check\n" + done.stdout
    answer = call("invoke", "limit", "--topic", "sensors/oven", "-b", '{"temperature": 31.5}', "-l", "none", cwd=folder)
    assert answer.returncode == 0
    took = re.compile(r"\(\d+\.\d ms\)")
    command, _, printed = second.partition("\n")
    assert command == "invoke limit --topic sensors/oven -b '{\"temperature\": 31.5}' -l none"
    assert took.sub("", answer.stdout) == took.sub("", printed)
    refused = call("invoke", "limit", "--topic", "sensors/oven", "-b", "{}", "-l", "none", cwd=folder)
    assert refused.returncode == 3
    assert "no temperature" in refused.stdout


def test_links_inside_the_repository_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "examples/demo/README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
