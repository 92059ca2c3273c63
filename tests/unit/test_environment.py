"""os.environ as a function sees it, and as everybody else goes on seeing it."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.context import Context
from nuclio_edge.functions import environment, imports, running
from nuclio_edge.functions.loader import load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FUNCTIONS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "functions")


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("BASE", "process")
    before = set(os.environ)
    environment.install()
    yield
    running.bind(None)
    environment.uninstall()
    imports.uninstall()
    assert set(os.environ) == before and os.environ["BASE"] == "process"


def function(name: str = "f", **env: str) -> running.Running:
    made = environment.function_environment(name, env, description="d", version="3", handler="main:handler")
    return running.Running(name, made, Context())


def in_thread(work: Callable[[], Any], who: running.Running | None = None) -> Any:
    """Run this on a thread bound to `who`, and return what it returned or raise what it raised."""
    done: list[Any] = []

    def run() -> None:
        running.bind(who)
        try:
            done.append((work(), None))
        except BaseException as error:  # noqa: BLE001 - handed on
            done.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = done[0]
    if error is not None:
        raise error
    return value


def test_a_function_sees_the_process_below_its_own_and_ours_above_both() -> None:
    who = function("f", BASE="mine", NUCLIO_HANDLER="theirs")
    assert in_thread(lambda: (os.environ["BASE"], os.environ["NUCLIO_HANDLER"]), who) == ("mine", "main:handler")


def test_a_function_is_told_who_it_is_as_nuclio_tells_it() -> None:
    names = ["NUCLIO_FUNCTION_NAME", "NUCLIO_FUNCTION_DESCRIPTION", "NUCLIO_FUNCTION_VERSION"]
    names += ["NUCLIO_FUNCTION_HANDLER", "NUCLIO_HANDLER"]
    told = in_thread(lambda: [os.getenv(name) for name in names], function("door"))
    assert told == ["door", "d", "3", "main:handler", "main:handler"]


def test_two_functions_at_once_see_each_their_own() -> None:
    red, blue = function("red", COLOUR="red"), function("blue", COLOUR="blue")
    met = threading.Barrier(2)

    def look() -> list[str]:
        seen = [os.environ["COLOUR"] for _ in range(50)]
        met.wait(20)
        return seen

    seen: dict[str, Any] = {}
    threads = [threading.Thread(target=lambda w=w: seen.__setitem__(w.name, in_thread(look, w))) for w in (red, blue)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"red": ["red"] * 50, "blue": ["blue"] * 50}
    assert "COLOUR" not in os.environ


def test_what_a_function_writes_is_its_own() -> None:
    who = function()

    def write() -> None:
        os.environ["WRITTEN"] = "1"
        os.environ["BASE"] = "changed"
        os.environ.setdefault("ALSO", "2")
        os.environ.update(MORE="3")

    in_thread(write, who)
    assert in_thread(lambda: [os.environ[k] for k in ("WRITTEN", "BASE", "ALSO", "MORE")], who) == [
        "1",
        "changed",
        "2",
        "3",
    ]
    assert in_thread(lambda: "WRITTEN" in os.environ, function("other")) is False
    assert (os.environ["BASE"], "WRITTEN" in os.environ) == ("process", False)


def test_what_a_function_deletes_is_gone_for_it_alone() -> None:
    who = function()

    def delete() -> tuple[Any, ...]:
        del os.environ["BASE"]
        with pytest.raises(KeyError):
            del os.environ["BASE"]
        with pytest.raises(KeyError):
            os.environ["BASE"]
        return os.environ.get("BASE"), "BASE" in os.environ, "BASE" in dict(os.environ), os.environ.pop("BASE", None)

    assert in_thread(delete, who) == (None, False, False, None)
    assert os.environ["BASE"] == "process"


def test_iteration_length_copy_and_repr_agree() -> None:
    def look() -> None:
        copy = os.environ.copy()
        assert type(copy) is dict
        assert set(copy) == set(os.environ) == set(os.environ.keys())
        assert len(copy) == len(os.environ) == len(list(os.environ.values()))
        assert copy["MINE"] == "1" and "'MINE': '1'" in repr(os.environ)
        assert (os.environ | {"x": "y"})["x"] == "y"

    in_thread(look, function("f", MINE="1"))


@pytest.mark.parametrize(("key", "value"), [("A", 1), (1, "a"), ("", "a"), ("A=B", "a"), ("A", "\0")])
def test_what_no_environment_can_hold_is_refused_as_python_refuses_it(key: Any, value: Any) -> None:
    def write() -> None:
        os.environ[key] = value

    for who in (None, function()):
        with pytest.raises((TypeError, ValueError, OSError)):
            in_thread(write, who)


def test_a_subprocess_of_a_thread_sees_the_environment_of_the_process() -> None:
    def run() -> str:
        os.environ["BASE"] = "changed"
        return subprocess.run(["sh", "-c", "echo $BASE $MINE"], capture_output=True, text=True, check=True).stdout

    assert in_thread(run, function("f", MINE="1")) == "process\n"


def test_a_subprocess_can_be_given_the_functions_environment() -> None:
    def run() -> str:
        done = subprocess.run(
            ["sh", "-c", "echo $MINE"], capture_output=True, text=True, check=True, env=os.environ.copy()
        )
        return done.stdout

    assert in_thread(run, function("f", MINE="1")) == "1\n"


def test_the_processor_reads_and_writes_the_environment_of_the_process() -> None:
    os.environ["PROCESSORS"] = "1"
    assert os.environ.pop("PROCESSORS") == "1"
    assert os.getenv("BASE") == "process"


def test_who_kept_the_object_before_sees_the_function_too() -> None:
    kept = os.environ
    environment.uninstall()
    environment.install()
    assert in_thread(lambda: kept["MINE"], function("f", MINE="1")) == "1"


def test_the_context_has_the_same_mapping() -> None:
    who = function("f", MINE="1")
    in_thread(lambda: os.environ.__setitem__("LATER", "2"), who)
    assert (who.env["MINE"], who.env["LATER"], who.env["BASE"], who.env.get("NONE")) == ("1", "2", "process", None)


def test_import_and_handler_see_it() -> None:
    who = function("greeter", GREETING="hello")
    folder = os.path.join(FUNCTIONS, "reads_environment")
    loaded = in_thread(lambda: load("greeter", module="main", folder=folder), who)
    assert in_thread(lambda: loaded.handler(None, None), who) == ("hello", "hello", "greeter", True)


def test_a_thread_that_the_function_starts_sees_it() -> None:
    who = function("f", MINE="1")
    code = """
import os, threading
def look(seen):
    seen.append(os.environ.get("MINE"))
def handler(context, event):
    seen = []
    thread = threading.Thread(target=look, args=(seen,))
    thread.start()
    thread.join()
    return seen
"""
    loaded = in_thread(lambda: load("f", module="f", folder="/nowhere", code=code), who)
    who.space = loaded.package
    running.register(who)
    assert in_thread(lambda: loaded.handler(None, None), who) == ["1"]
    loaded.unload()
    assert running.current() is None
