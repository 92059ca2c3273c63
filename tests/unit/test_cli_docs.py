"""docs/cli.md says of the command line what the parsers say: no option more, none less."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from nuclio_edge import cli, processor, stop

TEXT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SECTIONS = {part.partition("\n")[0]: part for part in TEXT.split("\n## ")[1:]}
_OPTION = re.compile(r"`(--?[a-z][a-z-]*)`")


def test_every_command_has_a_section_and_its_own_words_in_the_list() -> None:
    assert [name for name in SECTIONS if name != "Exit codes"] == list(cli.COMMANDS)
    for name, purpose in cli.COMMANDS.items():
        assert f"| [`{name}`](#{name}) | {purpose} |" in TEXT


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_the_options_of_a_command_are_those_of_its_parser(name: str) -> None:
    rows = [line for line in SECTIONS[name].splitlines() if line.startswith("| `-")]
    told = {option for row in rows for option in _OPTION.findall(row.split("|")[1])}
    module = importlib.import_module(f"nuclio_edge.cli.{name.replace('-', '_')}")
    if name == "version":  # has no parser, to be quick
        there = {option for option in ("--json",) if option in module.HELP}
    else:
        actions = module.parser()._actions
        there = {option for action in actions for option in action.option_strings} - {"-h", "--help"}
    assert told == there


def test_the_exit_codes_are_those_of_the_code() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", SECTIONS["Exit codes"], re.MULTILINE)}
    known = {cli.OK, cli.FAULT, cli.USAGE, cli.ANSWERED, cli.ABSENT, cli.UNDRAINED, cli.RESTART, cli.INTERRUPTED}
    assert told == known
    assert {processor.OK, processor.FAULT, stop.UNDRAINED, processor.RESTART} <= known


@pytest.mark.parametrize("name", [name for name in cli.COMMANDS if name != "version"])
def test_a_usage_line_shows_what_the_parser_takes(name: str) -> None:
    usage = next(line for line in SECTIONS[name].splitlines() if line.startswith("    nuclio-edge "))
    parser = importlib.import_module(f"nuclio_edge.cli.{name.replace('-', '_')}").parser()
    for action in parser._actions:
        if not action.option_strings:
            assert str(action.metavar) in usage
