"""How a function's code is found and imported, and what is said when it cannot be."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.core.encode import to_response
from nuclio_edge.core.event import Event
from nuclio_edge.core.response import ExceptionWithResponse
from nuclio_edge.errors import LoadError
from nuclio_edge.functions import imports
from nuclio_edge.functions.loader import CodeError, Loaded, format_user_error, load
from nuclio_edge.functions.running import ROOT
from nuclio_edge.nuclio_sdk.context import Context

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FUNCTIONS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "functions")


@pytest.fixture(autouse=True)
def _import_is_left_as_it_was() -> Iterator[None]:
    path = list(sys.path)
    yield
    imports.uninstall()
    assert sys.path == path
    assert not [name for name in sys.modules if name.startswith(ROOT)]


def case(name: str, callable_name: str = "handler", module: str = "main") -> Loaded:
    folder = os.path.join(FUNCTIONS, *name.split("/"))
    return load(name, module=module, callable=callable_name, folder=folder, file=os.path.join(folder, module + ".py"))


def inline(code: str, folder: str = "/nowhere") -> Loaded:
    return load("f", module="f", folder=folder, code=code)


def call(loaded: Loaded) -> Any:
    return loaded.handler(None, None)


def test_two_functions_may_both_have_a_helper() -> None:
    red, blue = case("two_helpers/red"), case("two_helpers/blue")
    assert (call(red), call(blue)) == ("red", "blue")


def test_a_helper_is_found_lazily_and_in_any_thread() -> None:
    red, blue = case("two_helpers/red", "lazily"), case("two_helpers/blue", "lazily")
    found: dict[str, int] = {}
    threads = [
        threading.Thread(target=lambda: found.__setitem__("red", call(red))),
        threading.Thread(target=lambda: found.__setitem__("blue", call(blue))),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"red": 0xFF0000, "blue": 0x0000FF}


def test_the_same_folder_loaded_twice_shares_no_module() -> None:
    first, second = case("two_helpers/red"), case("two_helpers/red")
    first.module.helper.NAME = "changed"  # type: ignore[union-attr]
    assert call(second) == "red"


def test_every_form_of_import_finds_the_folder() -> None:
    assert call(case("every_import")) == [True] * 9


@pytest.mark.parametrize("name", ["missing_module", "missing_name"])
def test_what_is_not_in_the_folder_is_named_as_the_author_wrote_it(name: str) -> None:
    with pytest.raises(ImportError) as caught:
        call(case("every_import", name))
    text = format_user_error(caught.value)
    assert ROOT not in text and "nothing" in text


def test_the_folders_modules_come_first_but_no_built_in_module_and_no_folder_of_data_does() -> None:
    assert call(case("shadows")) == ("the folder's own", True, True, True)


def test_other_modules_still_get_the_real_one() -> None:
    case("shadows")
    import json

    assert not hasattr(json, "MINE")


def test_dataclasses_type_hints_and_pickle_work() -> None:
    assert call(case("classes")) is True


def test_nuclio_sdk_is_ours() -> None:
    loaded = case("sdk")
    context = Context()
    assert loaded.init_context is not None
    loaded.init_context(context)
    answer = to_response(loaded.handler(context, Event(body=b"x")))
    assert (answer.status_code, answer.body, answer.headers) == (201, b'{"seen":1}', {"n": "1"})
    with pytest.raises(ExceptionWithResponse) as caught:
        loaded.handler(context, Event(body=b"stop"))
    assert to_response(caught.value).status_code == 409


def test_a_relative_import_of_the_folder_itself_runs_its_init() -> None:
    assert call(case("with_init")) == "hello"


def test_a_dotted_module_is_found_in_the_folder() -> None:
    folder = os.path.join(FUNCTIONS, "every_import")
    assert load("f", module="pkg.deep.leaf", callable="read", folder=folder).handler() == 1


@pytest.mark.parametrize(
    ("handler", "where"),
    [("pk.d:go", "pk/d.py"), ("pk/d.py:go", "pk/d.py"), ("pk:go", "pk/__init__.py"), ("deep.pk.d:go", "deep/pk/d.py")],
)
def test_a_handler_in_a_package_imports_what_lies_beside_it(tmp_path: Path, handler: str, where: str) -> None:
    from nuclio_edge.manifest import load as load_manifest

    file = tmp_path / where
    file.parent.mkdir(parents=True)
    (file.parent / "__init__.py").write_text("")
    (file.parent / "helper.py").write_text("WORD = 'beside'\n")
    file.write_text("from . import helper\nfrom .helper import WORD\ndef go(c, e): return helper.WORD, WORD\n")
    (tmp_path / "edge.toml").write_text(f'[function.f]\nhandler = "{handler}"\n')
    spec = load_manifest(str(tmp_path / "edge.toml")).functions["f"]
    loaded = load("f", module=spec.module, callable=spec.callable, folder=spec.path, file=spec.file)
    assert call(loaded) == ("beside", "beside")


def test_async_handlers_are_told_apart() -> None:
    names = ["handler", "plain", "partial", "instance"]
    assert [case("asynchronous", name).is_async for name in names] == [True, False, True, True]
    assert case("asynchronous").init_is_async


def test_the_name_of_a_file_need_not_be_an_identifier(tmp_path: Path) -> None:
    file = tmp_path / "01-door.v2.py"
    file.write_text("def handler(context, event): return __file__\n")
    assert call(load("d", module="x", folder=str(tmp_path), file=str(file))) == str(file)


def test_a_script_guard_is_not_entered() -> None:
    assert call(case("script")) == "handled"


def test_an_edit_within_the_same_second_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "main.py"
    for value in range(5):
        file.write_text(f"def handler(context, event): return {value}\n")
        loaded = load("f", module="main", folder=str(tmp_path), file=str(file))
        assert call(loaded) == value
        loaded.unload()


def test_unloading_frees_the_code_and_reloading_does_not_grow(tmp_path: Path) -> None:
    shutil.copytree(os.path.join(FUNCTIONS, "two_helpers", "red"), tmp_path / "red")
    file = str(tmp_path / "red" / "main.py")

    def once() -> weakref.ref[Any]:
        loaded = load("f", module="main", callable="lazily", folder=str(tmp_path / "red"), file=file)
        call(loaded)
        gone = weakref.ref(loaded.module)
        loaded.unload()
        return gone

    for _ in range(5):
        once()
    gc.collect()
    modules, objects = len(sys.modules), len(gc.get_objects())
    refs = [once() for _ in range(200)]
    gc.collect()
    assert [ref for ref in refs if ref() is not None] == []
    assert len(sys.modules) == modules
    assert len(gc.get_objects()) - objects < 300


def test_an_unloaded_function_says_so() -> None:
    loaded = case("script")
    loaded.unload()
    loaded.unload()
    with pytest.raises(LoadError, match="unloaded"):
        call(loaded)


def test_a_file_that_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(CodeError, match="there is no such file") as caught:
        case("two_helpers/red", module="man")
    assert "colour.py, helper.py, main.py" in str(caught.value.hint)


def test_a_module_that_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(CodeError, match="there is no such module") as caught:
        load("f", module="man.deep", folder=os.path.join(FUNCTIONS, "two_helpers", "red"))
    assert "main.py" in str(caught.value.hint)


def test_a_missing_callable_is_said_with_what_was_found() -> None:
    with pytest.raises(CodeError, match="expected a function named handler; found handel, helper"):
        case("wrong_name")


def test_something_that_cannot_be_called_is_no_handler() -> None:
    with pytest.raises(CodeError, match="handler is a int, not a function"):
        case("not_callable")


@pytest.mark.parametrize(("name", "file", "line"), [("bad_syntax", "main.py", 2), ("bad_helper", "helper.py", 1)])
def test_bad_syntax_is_said_with_its_line_and_a_caret(name: str, file: str, line: int) -> None:
    with pytest.raises(CodeError) as caught:
        case(name)
    first, text, caret = str(caught.value).split("\n")
    assert first.startswith(os.path.join(FUNCTIONS, name, file) + f":{line}: ")
    assert text.strip() and caret.strip("^ ") == "" and "^" in caret


def test_what_an_import_raises_is_said_with_the_authors_frames_only() -> None:
    with pytest.raises(LoadError) as caught:
        case("raises_at_import")
    text = str(caught.value)
    assert not isinstance(caught.value, CodeError)
    assert 'File "main.py", line 1' in text and 'File "helper.py", line 5, in read' in text
    assert "json" not in text.replace("json.loads(", "").replace("json.decoder.JSONDecodeError", "")
    assert "loader.py" not in text and "importlib" not in text and ROOT not in text


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(LoadError, match="No module named 'bme280_that_nobody_has'") as caught:
        case("missing_package")
    assert "bme280_that_nobody_has" in str(caught.value.hint)


def test_sys_exit_at_import_does_not_end_the_processor() -> None:
    with pytest.raises(LoadError, match=r"calls sys.exit\(3\) while it is imported"):
        case("exits_at_import")


def test_code_of_the_manifest_has_lines_in_its_tracebacks() -> None:
    loaded = inline("def handler(context, event):\n    return 1 / event\n")
    with pytest.raises(TypeError) as caught:
        call(loaded)
    assert 'File "function.f.code", line 2, in handler\n    return 1 / event' in format_user_error(caught.value)


@pytest.mark.parametrize("code", ["def handler(:", "x = '\0'", "handler = 1", ""])
def test_bad_code_of_the_manifest_is_refused(code: str) -> None:
    with pytest.raises(CodeError):
        inline(code)


def test_a_failed_import_leaves_nothing_behind() -> None:
    before = set(sys.modules)
    for name in ("raises_at_import", "bad_helper", "exits_at_import"):
        with pytest.raises(LoadError):
            case(name)
    assert {name for name in set(sys.modules) - before if name != ROOT} == set()


def test_a_handlers_exception_shows_its_own_frames_and_its_cause() -> None:
    with pytest.raises(ValueError, match="outer") as caught:
        call(case("raises"))
    text = format_user_error(caught.value, os.path.join(FUNCTIONS, "raises"))
    assert text.index("KeyError: 'missing'") < text.index("direct cause") < text.index("ValueError: outer")
    assert 'File "main.py", line 9, in inner' in text and "test_loader" not in text


def test_an_exception_without_a_frame_of_the_author_is_one_line() -> None:
    with pytest.raises(TypeError) as caught:
        call(case("raises", "wrong_arguments"))
    text = format_user_error(caught.value)
    assert text.startswith("TypeError: wrong_arguments()") and "\n" not in text


def test_an_exception_that_cannot_show_itself_is_named() -> None:
    class SilentError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert "SilentError" in format_user_error(SilentError())


def test_a_huge_exception_is_cut_in_the_middle() -> None:
    assert len(format_user_error(ValueError("x" * 100_000))) < 9000


def test_loggers_of_unloaded_modules_are_forgotten() -> None:
    import logging

    loaded = inline("import logging\nlogging.getLogger(__name__)\ndef handler(c, e): pass\n")
    package = loaded.package
    assert [name for name in logging.root.manager.loggerDict if name.startswith(package)]
    loaded.unload()
    assert not [name for name in logging.root.manager.loggerDict if name.startswith(package)]
