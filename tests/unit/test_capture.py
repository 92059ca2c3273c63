"""What handlers print and log in Python's own way arrives in the processor's log, and nowhere else."""

# ruff: noqa: T201 - printing is what is tested

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.context import Context
from nuclio_edge.core.event import Event
from nuclio_edge.core.loop import Loop
from nuclio_edge.functions import capture, environment, imports, running
from nuclio_edge.functions.loader import load
from nuclio_edge.logs import FunctionLogger, Log
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTIONS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "functions")


class Kept:
    """A sink that keeps the records of a log."""

    level = 0

    def __init__(self, records: list[Any]) -> None:
        self.records = records

    def put(self, record: Any, _mask: Any) -> None:
        self.records.append(record)

    def write(self, _loop: Any) -> None:
        pass


class Rig:
    """A function whose records are kept, and streams that stand for the processor's real ones."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        self.err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)

    def function(self, name: str = "f", level: str = "info", event_id: str = "e-1") -> running.Running:
        context = Context()
        context.function_name = name
        context.logger = FunctionLogger(level, name, self.records.append, context)
        context._event = Event(_id=event_id)
        return running.Running(name, environment.function_environment(name, {}), context)

    def run(self, work: Callable[[], Any], who: running.Running) -> None:
        def bound() -> None:
            running.bind(who)
            work()

        thread = threading.Thread(target=bound)
        thread.start()
        thread.join()

    @property
    def said(self) -> list[tuple[int, str, str]]:
        return [(record[1], record[2], record[3]) for record in self.records]

    @property
    def real(self) -> tuple[bytes, bytes]:
        return self.out.buffer.getvalue(), self.err.buffer.getvalue()


def captured(test: Callable[[Rig], None]) -> Callable[[], None]:
    """Run a test with a rig: not a fixture, as pytest exchanges the streams between set-up and call."""

    def wrapper() -> None:
        made = Rig()
        kept = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = made.out, made.err
        running.bind(None)  # an inline function of another test may have been the last on this thread
        capture.install()
        try:
            test(made)
        finally:
            running.bind(None)
            capture.uninstall()
            imports.uninstall()
            found = sys.stdout, sys.stderr
            sys.stdout, sys.stderr = kept
        assert found == (made.out, made.err)

    wrapper.__name__ = test.__name__
    return wrapper


@captured
def test_what_a_handler_prints_is_a_record_of_its_function_with_the_events_id(rig: Rig) -> None:
    rig.run(lambda: print("hello", 3), rig.function("door", event_id="e-9"))
    assert rig.said == [(20, "door.stdout", "hello 3")]
    assert rig.records[0][5:] == ("door", "e-9")
    assert rig.real == (b"", b"")


@captured
def test_what_it_writes_to_stderr_is_a_warning(rig: Rig) -> None:
    rig.run(lambda: print("oh", file=sys.stderr), rig.function())
    assert rig.said == [(30, "f.stderr", "oh")]


@captured
def test_the_processors_own_output_goes_to_the_real_stream(rig: Rig) -> None:
    print("mine")
    print("warned", file=sys.stderr)
    sys.stdout.buffer.write(b"bytes\n")
    assert rig.real == (b"mine\nbytes\n", b"warned\n") and rig.records == []


@captured
def test_two_functions_printing_at_once_are_told_apart(rig: Rig) -> None:
    red, blue = rig.function("red"), rig.function("blue")

    def work(who: running.Running) -> None:
        running.bind(who)
        for number in range(200):
            print(who.name, number)

    threads = [threading.Thread(target=work, args=(who,)) for who in (red, blue)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name in ("red", "blue"):
        mine = [record for record in rig.records if record[5] == name]
        assert [record[3] for record in mine] == [f"{name} {number}" for number in range(200)]


@captured
def test_several_lines_are_several_records_and_empty_ones_none(rig: Rig) -> None:
    rig.run(lambda: print("a\n\nb\r\nc"), rig.function())
    assert [text for _, _, text in rig.said] == ["a", "b", "c"]


@captured
def test_a_line_in_pieces_is_one_record(rig: Rig) -> None:
    def work() -> None:
        print("a", end="")
        sys.stderr.write("between\n")
        sys.stdout.writelines(["b", "c\n"])

    rig.run(work, rig.function())
    assert rig.said == [(30, "f.stderr", "between"), (20, "f.stdout", "abc")]


@captured
def test_an_unfinished_line_ends_with_its_event(rig: Rig) -> None:
    who = rig.function(event_id="first")

    def work() -> None:
        print("one", end="")
        who.context._event = Event(_id="second")
        print("two")

    rig.run(work, who)
    assert [(record[3], record[6]) for record in rig.records] == [("one", "first"), ("two", "second")]


@captured
def test_an_unfinished_line_is_said_by_the_loop_when_nothing_follows(rig: Rig) -> None:
    loop = Loop()
    log = Log()
    log.open(loop)
    capture.install(log)
    rig.run(lambda: print("last words", end=""), rig.function())
    assert rig.records == []

    def said() -> bool:
        loop.turn(50)
        return bool(rig.records)

    wait_until(said, "the line")
    assert rig.said == [(20, "f.stdout", "last words")]
    log.close()
    loop.close()


@captured
def test_an_unfinished_line_is_said_at_the_stop(rig: Rig) -> None:
    rig.run(lambda: print("last words", end=""), rig.function())
    capture.flush()
    assert rig.said == [(20, "f.stdout", "last words")]


@captured
def test_a_line_without_end_does_not_fill_the_memory(rig: Rig) -> None:
    who = rig.function()
    rig.run(lambda: [sys.stdout.write("x" * 1000) for _ in range(100)], who)
    assert all(len(text) <= capture.LONGEST for _, _, text in rig.said)
    assert who.partial is not None and len(who.partial["stdout"][1]) <= capture.LONGEST
    capture.flush()
    assert sum(len(text) for _, _, text in rig.said) == 100_000


@captured
def test_the_functions_level_holds_for_prints_too(rig: Rig) -> None:
    rig.run(lambda: (print("quiet"), print("loud", file=sys.stderr)), rig.function(level="warn"))
    assert [text for _, _, text in rig.said] == ["loud"]


@captured
def test_libraries_find_a_stream_that_has_what_streams_have(rig: Rig) -> None:
    def work() -> None:
        assert sys.stdout.encoding == "utf-8" and sys.stdout.errors == "strict" and not sys.stdout.closed
        assert sys.stdout.isatty() is False and sys.stdout.writable()
        with pytest.raises(io.UnsupportedOperation):
            sys.stdout.fileno()  # of the real one, which has none here
        with pytest.raises(TypeError):
            sys.stdout.write(b"bytes")  # type: ignore[arg-type]
        assert sys.stdout.write("four") == 4
        sys.stdout.flush()
        assert sys.stdout.buffer.write(b"\xff\n") == 2
        sys.stdout.buffer.flush()

    rig.run(work, rig.function())
    assert [text for _, _, text in rig.said] == ["four\\xff"]


@captured
def test_pythons_logging_arrives_with_level_logger_and_traceback(rig: Rig) -> None:
    who = rig.function("f")
    folder = os.path.join(FUNCTIONS, "prints")

    def work() -> None:
        loaded = load("f", module="main", folder=folder)
        capture.install_hooks()
        loaded.handler(who.context, who.context._event)

    rig.run(work, who)
    assert rig.said[0] == (20, "f.stdout", "imported")
    assert rig.said[1:4] == [(20, "f.stdout", "a line"), (30, "f.stderr", "a complaint"), (20, "f.stdout", "bytes")]
    assert rig.said[4:] == [(30, "f.pump", "pressure 3"), (40, "f.root", "sum")]
    pairs = rig.records[-1][4]
    assert pairs[:2] == ("exc", "ZeroDivisionError('division by zero')") and "1 / 0" in pairs[3]
    assert rig.real == (b"", b"")


@captured
def test_a_thread_that_the_handler_starts_prints_for_its_function(rig: Rig) -> None:
    who = rig.function("f")

    def work() -> None:
        loaded = load("f", module="main", callable="in_a_thread", folder=os.path.join(FUNCTIONS, "prints"))
        who.space = loaded.package
        running.register(who)
        loaded.handler(who.context, who.context._event)

    rig.run(work, who)
    assert (20, "f.stdout", "from a thread of its own") in rig.said


@captured
def test_what_a_function_puts_in_the_place_of_a_stream_is_found_by_itself_alone(rig: Rig) -> None:
    red, blue = rig.function("red"), rig.function("blue")
    own = io.StringIO()

    def replace() -> None:
        sys.stdout = own
        print("printed")
        sys.stdout.write("written\n")

    rig.run(replace, red)
    rig.run(lambda: print("heard"), blue)
    print("mine")
    rig.run(lambda: print("again"), red)
    assert own.getvalue() == "printed\nwritten\nagain\n"
    assert rig.said == [(20, "blue.stdout", "heard")]
    assert rig.real[0] == b"mine\n"


@captured
def test_redirections_that_overlap_leave_every_stream_as_it_was(rig: Rig) -> None:
    workers = [rig.function(f"f{number}") for number in range(3)]
    inside = threading.Barrier(3)
    caught: dict[str, str] = {}

    def work(who: running.Running) -> None:
        running.bind(who)
        with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.redirect_stderr(text):
            inside.wait()
            print("out of", who.name)
            print("err of", who.name, file=sys.stderr)
            inside.wait()
        caught[who.name] = text.getvalue()
        print("after", who.name)

    threads = [threading.Thread(target=work, args=(who,)) for who in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert caught == {f"f{n}": f"out of f{n}\nerr of f{n}\n" for n in range(3)}
    assert sorted(rig.said) == [(20, f"f{n}.stdout", f"after f{n}") for n in range(3)]
    assert rig.real == (b"", b"")


@captured
def test_a_stream_that_writes_to_the_one_before_it_reaches_the_log(rig: Rig) -> None:
    class Shouting(io.StringIO):
        def __init__(self, before: Any) -> None:
            super().__init__()
            self.before = before

        def write(self, text: str) -> int:
            self.before.write(text.upper())
            return len(text)

    def work() -> None:
        before = sys.stdout
        sys.stdout = Shouting(before)
        print("oh")
        sys.stdout = before
        print("well")

    rig.run(work, rig.function())
    assert [text for _, _, text in rig.said] == ["OH", "well"]


@captured
def test_giving_the_streams_back_is_giving_them_to_the_log(rig: Rig) -> None:
    def work() -> None:
        sys.stdout = sys.stderr = io.StringIO()
        sys.stdout, sys.stderr = rig.out, rig.err  # what sys.__stdout__ and sys.__stderr__ are in a process of ours
        print("out")
        print("err", file=sys.stderr)

    rig.run(work, rig.function())
    assert rig.said == [(20, "f.stdout", "out"), (30, "f.stderr", "err")]
    assert rig.real == (b"", b"")


@captured
def test_a_function_without_a_stream_has_what_python_has_then(rig: Rig) -> None:
    def work() -> None:
        sys.stdout = None
        print("nowhere", flush=True)
        del sys.stdout
        assert not hasattr(sys, "stdout")
        with pytest.raises(RuntimeError, match=r"lost sys\.stdout"):
            print("nowhere")
        with pytest.raises(AttributeError):
            del sys.stdout

    rig.run(work, rig.function("red"))
    rig.run(lambda: print("heard"), rig.function("blue"))
    assert rig.said == [(20, "blue.stdout", "heard")]


@captured
def test_no_function_closes_a_stream_for_the_others(rig: Rig) -> None:
    def work() -> None:
        sys.stdout.close()
        sys.stdout.buffer.close()
        sys.stdout.reconfigure(encoding="ascii")  # type: ignore[union-attr]  # of a TextIOWrapper
        io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8").write("wrapped\n")  # closes it when it is forgotten
        io.TextIOWrapper(sys.stdout.detach(), encoding="utf-8").write("detached\n")  # type: ignore[union-attr]
        print("still", "\xe9")

    rig.run(work, rig.function())
    print("mine", "\xe9")
    assert [text for _, _, text in rig.said] == ["wrapped", "detached", "still \xe9"]
    assert rig.real[0] == "mine \xe9\n".encode()


@captured
def test_an_exception_that_ends_a_thread_of_a_handler_is_a_record_of_its_function(rig: Rig) -> None:
    who = rig.function("f")

    def work() -> None:
        loaded = load("f", module="main", callable="in_a_thread_that_fails", folder=os.path.join(FUNCTIONS, "prints"))
        who.space = loaded.package
        running.register(who)
        loaded.handler(who.context, who.context._event)

    rig.run(work, who)
    assert rig.said[1:] == [(20, "f.stdout", "from mine"), (40, "f.thread", "an exception has ended a thread")]
    pairs = rig.records[2][4]
    assert pairs[:4] == ("thread", "mine", "exc", "ValueError('in mine')")
    assert "main.py" in pairs[5] and "threading.py" not in pairs[5]
    assert rig.records[2][5:] == ("f", "e-1")
    assert rig.real == (b"", b"")


@captured
def test_an_exception_that_ends_nobodys_thread_is_a_record_of_the_processors_log(rig: Rig) -> None:
    records: list[Any] = []
    log = Log()
    log.add(Kept(records))
    kept, threading.excepthook = threading.excepthook, threading.__excepthook__  # not pytest's
    try:
        capture.uninstall()
        capture.install(log)
        thread = threading.Thread(target=divmod, args=(1, 0), name="library")
        thread.start()
        thread.join()
    finally:
        capture.uninstall()
        assert threading.excepthook is threading.__excepthook__
        threading.excepthook = kept
    assert [(record[1], record[2], record[4][:2]) for record in records] == [(40, "thread", ("thread", "library"))]
    assert rig.real == (b"", b"")


@captured
def test_records_of_nobodys_thread_go_the_way_python_sends_them(rig: Rig) -> None:
    import logging

    kept, logging.root.handlers = logging.root.handlers, []
    try:
        capture.install_hooks()
        logging.getLogger("lib").warning("careful")
        logging.getLogger("lib").info("chatter")
    finally:
        logging.root.handlers = kept
    assert rig.real[1] == b"careful\n"
    assert rig.records == []


@captured
def test_a_record_that_cannot_be_formatted_does_not_raise_into_the_handler(rig: Rig) -> None:
    import logging

    kept, logging.root.handlers = logging.root.handlers, []  # pytest's own raises
    try:
        capture.install_hooks()
        rig.run(lambda: logging.getLogger("x").warning("%d", "no number"), rig.function())
    finally:
        logging.root.handlers = kept
    assert rig.said == [(30, "f.x", "%d ('no number',)")]


@captured
def test_a_stream_that_a_test_runner_exchanged_is_stood_in_for_anew(rig: Rig) -> None:
    kept = sys.stdout
    sys.stdout = other = io.StringIO()
    capture.install()
    rig.run(lambda: print("x"), rig.function())
    assert [text for _, _, text in rig.said] == ["x"] and other.getvalue() == ""
    sys.stdout = kept


@captured
def test_stdout_can_be_sent_to_stderr(rig: Rig) -> None:
    def work() -> None:
        with contextlib.redirect_stdout(sys.stderr):
            print("redirected")
        print("as before")

    rig.run(work, rig.function())
    work()
    assert [name for _, name, _ in rig.said] == ["f.stderr", "f.stdout"]
    assert rig.real == (b"as before\n", b"redirected\n")


@captured
def test_a_thread_that_a_handler_has_started_prints_where_its_function_has_sent_prints_to(rig: Rig) -> None:
    first, second = (running.Running("f", *_parts(rig), "nuclio_edge_functions.f_1") for _ in range(2))
    seen = io.StringIO()
    code: dict[str, Any] = {"__name__": "nuclio_edge_functions.f_1", "print": print}
    exec("def helper():\n    print('from the helper')\n", code)

    def work() -> None:
        with contextlib.redirect_stdout(seen):
            thread = threading.Thread(target=code["helper"])
            thread.start()
            thread.join()

    running.register(first)
    running.register(second)  # the newest worker stands for all
    try:
        rig.run(work, first)
    finally:
        running.forget("nuclio_edge_functions.f_1")
    assert (seen.getvalue(), rig.said) == ("from the helper\n", [])


def _parts(rig: Rig) -> tuple[Any, Any]:
    who = rig.function()
    return who.env, who.context


@captured
def test_a_print_that_is_under_way_when_the_streams_are_given_back_goes_to_the_real_one(rig: Rig) -> None:
    class Slow:
        def __str__(self) -> str:
            capture.uninstall()
            return "late"

    print(Slow())
    assert rig.real == (b"late\n", b"")


@captured
def test_who_puts_our_stream_and_hook_back_too_late_has_the_real_ones(rig: Rig) -> None:
    kept, hook = vars(sys)["stdout"], threading.excepthook
    capture.uninstall()
    before = threading.excepthook
    seen: list[Any] = []
    try:
        sys.stdout = kept
        print("afterwards")
        assert rig.real == (b"afterwards\n", b"")
        capture.install()
        print("and with another processor")
        assert rig.real == (b"afterwards\nand with another processor\n", b"")
        capture.uninstall()
        threading.__excepthook__, real = seen.append, threading.__excepthook__
        try:
            threading.excepthook = hook
            thread = threading.Thread(target=lambda: 1 / 0)
            thread.start()
            thread.join()
        finally:
            threading.__excepthook__ = real
    finally:
        threading.excepthook = before
    assert [args.exc_type for args in seen] == [ZeroDivisionError]


@captured
def test_a_program_that_has_the_processor_in_it_keeps_what_it_has_made_of_sys(rig: Rig) -> None:
    capture.uninstall()
    before: Any = type(sys)

    class Own(before):  # type: ignore[misc]  # a module's class
        extra = 42

    sys.__class__ = Own
    try:
        capture.install()
        assert sys.extra == 42  # type: ignore[attr-defined]  # of the class above
        sys.stdout.reconfigure(encoding="latin-1")  # type: ignore[union-attr]  # it is the program's own
        assert rig.out.encoding == "latin-1"
        rig.run(lambda: sys.stdout.reconfigure(encoding="utf-8"), rig.function())  # type: ignore[union-attr]  # as above
        assert rig.out.encoding == "latin-1"
        capture.uninstall()
        assert type(sys) is Own
    finally:
        sys.__class__ = before


@captured
def test_what_a_function_prints_is_caught_where_there_is_no_stdout(rig: Rig) -> None:
    capture.uninstall()
    sys.stdout = None
    try:
        capture.install()
        assert sys.stdout is None
        seen = io.StringIO()
        with contextlib.redirect_stdout(seen):
            print("caught")
        print("nowhere")
        rig.run(lambda: print("logged"), rig.function())
        assert (seen.getvalue(), [text for _, _, text in rig.said]) == ("caught\n", ["logged"])
        capture.uninstall()
        assert sys.stdout is None
    finally:
        sys.stdout = rig.out
