"""A child parses TOML while a processor starts; whatever it cannot do is done, and told, by the process itself."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from nuclio_edge import toml

# A process of its own, because a child is only made where there are no other threads, and a test's process has some.
START = """
import json, os, signal, sys
from nuclio_edge import toml
{before}
def work():
    {work}
found = toml.apart(work)
try:
    os.waitpid(-1, os.WNOHANG)
    left = True
except ChildProcessError:
    left = False
print(json.dumps([found, "tomli" in sys.modules, left, not toml._children, len(os.listdir("/proc/self/fd"))]))
"""


def start(work: str, text: str = "", before: str = "") -> tuple[Any, bool]:
    """Run the body of a function by `toml.apart`; what it returned, and whether the process itself had to parse."""
    program = START.replace("{work}", work.replace("\n", "\n    ")).replace("{before}", before)
    program = program.replace("TEXT", "sys.stdin.read()")
    done = subprocess.run(
        [sys.executable, "-c", program], input=text, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    found, by_itself, left, forgotten, descriptors = json.loads(done.stdout)
    assert not left, "a child is left"
    assert forgotten
    assert descriptors <= 5, "descriptors are left"
    return found, by_itself


def test_a_child_parses_and_the_process_never_loads_the_parser() -> None:
    assert start("return toml.parse(TEXT)", 'a = 1\nb = [1.5, "ü", { c = true }]\n') == (
        {"a": 1, "b": [1.5, "ü", {"c": True}]},
        False,
    )


def test_one_child_parses_several_texts_larger_than_a_pipe_holds() -> None:
    sizes, by_itself = start('return [len(toml.parse("a = \'" + "x" * size + "\'")["a"]) for size in (1, 1 << 20, 0)]')
    assert (sizes, by_itself) == ([1, 1 << 20, 0], False)


def test_an_empty_text_is_no_tables() -> None:
    assert start('return [toml.parse(""), toml.parse("a = 1")]')[0] == [{}, {"a": 1}]


def test_a_mistake_is_told_as_by_the_parser_itself() -> None:
    work = "import tomli\ntry:\n    toml.parse(TEXT)\nexcept tomli.TOMLDecodeError as error:\n    return str(error)"
    with pytest.raises(tomli.TOMLDecodeError) as told:
        tomli.loads("a = 1\nb = = 2\n")
    assert start(work, "a = 1\nb = = 2\n")[0] == str(told.value)


def test_a_date_which_the_child_cannot_hand_over_is_parsed_by_the_process() -> None:
    assert start("return str(toml.parse(TEXT)['day'])", "day = 2026-11-27\n") == ("2026-11-27", True)


def test_a_child_that_was_killed_is_done_without() -> None:
    kill = "os.kill(toml._children[0]._pid, signal.SIGKILL)\nreturn toml.parse(TEXT)"
    assert start(kill, "a = 1\n") == ({"a": 1}, True)


def test_a_process_with_threads_is_not_forked() -> None:
    thread = "import threading\nend = threading.Event()\nthreading.Thread(target=end.wait, daemon=True).start()\n"
    assert start("alone = not toml._children\nreturn [alone, toml.parse(TEXT)]", "a = 1\n", thread) == (
        [True, {"a": 1}],
        True,
    )


def test_where_fork_is_refused_the_process_parses_itself() -> None:
    refused = "def fork():\n    raise BlockingIOError(11, 'Resource temporarily unavailable')\nos.fork = fork\n"
    assert start("return [bool(toml._children), toml.parse(TEXT)]", "a = 1\n", refused) == ([False, {"a": 1}], True)


def test_without_room_for_descriptors_the_process_parses_itself() -> None:
    for more in range(4):
        limit = (
            "import os, resource\nused = len(os.listdir('/proc/self/fd')) - 1\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, (used + {more}, 4096))\n"
        )
        lift = "resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))\n"
        work = f"had = bool(toml._children)\n{lift}return [had, toml.parse(TEXT)]"
        assert start(work, "a = 1\n", limit)[0] == [False, {"a": 1}]


def test_a_process_whose_children_nobody_waits_for_starts_too() -> None:
    ignored = "import signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    assert start("return toml.parse(TEXT)", "a = 1\n", ignored) == ({"a": 1}, False)


@given(st.binary(max_size=300_000) | st.just(b"x" * 70_000))
def test_what_goes_over_a_pipe_comes_out_whole(content: bytes) -> None:
    import os
    import threading

    out, into = os.pipe()
    sender = threading.Thread(target=toml._send, args=(into, content))
    sender.start()
    try:
        assert toml._receive(out) == content
    finally:
        sender.join()
        os.close(into)
        os.close(out)
