"""What users install: the wheel has what it must and nothing else, and works with its base dependencies alone."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SOURCES = ("LICENSE", "README.md", ".gitignore", "pyproject.toml", "boards", "nuclio_edge", "sync")

pytestmark = pytest.mark.timeout(300)


def copied(target: Path, without: str = "") -> Path:
    """Copy what the build reads; not the whole checkout, in which it would also find .venv."""
    target.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir() and name != without:
            shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif (ROOT / name).is_file():
            shutil.copy(ROOT / name, target / name)
    return target


def built(tree: Path, kind: str = "wheel") -> Path:
    """Build it without the network: hatchling is among the development packages."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(tree / "dist")]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (tree / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return built(copied(tmp_path_factory.mktemp("wheel") / "tree"))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin/ of an environment that holds the wheel and its base dependencies, copied from this one: no network."""
    venv = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True, timeout=200)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "install", "--quiet"]
    subprocess.run([*pip, "--no-index", "--no-deps", str(wheel)], check=True, timeout=200)
    (site,) = venv.glob("lib/python*/site-packages")
    for line in importlib.metadata.requires("nuclio-edge") or []:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
            install_from_here(wanted.name, site)
    return venv / "bin"


def install_from_here(name: str, site: Path) -> None:
    distribution = importlib.metadata.distribution(name)
    further = [Requirement(line) for line in distribution.requires or []]
    assert not [found for found in further if not found.marker or found.marker.evaluate({"extra": ""})], (
        f"{name} has dependencies of its own now: {further}; is it still small?"
    )
    for file in distribution.files or []:
        if ".." not in file.parts and "__pycache__" not in file.parts:
            target = site / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(file.locate()), target)


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_has_two_packages_and_its_metadata_at_the_top(wheel: Path) -> None:
    top = {name.split("/")[0] for name in names_in(wheel)}
    metadata = {name for name in top if name.endswith(".dist-info")}
    assert len(metadata) == 1
    assert top - metadata == {"nuclio_edge", "nuclio_edge_sync"}


def test_the_wheel_has_every_module_every_board_and_the_marker_of_types(wheel: Path) -> None:
    names = set(names_in(wheel))
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "nuclio_edge").rglob("*.py")}
    modules |= {str(path.relative_to(ROOT / "sync")) for path in (ROOT / "sync/nuclio_edge_sync").rglob("*.py")}
    boards = {f"nuclio_edge/boards/{path.relative_to(ROOT / 'boards')}" for path in (ROOT / "boards").rglob("*.toml")}
    assert (modules | boards | {"nuclio_edge/py.typed"}) - names == set()


def test_the_wheel_is_data_and_modules_only(wheel: Path) -> None:
    allowed = (".py", ".toml", ".md", "py.typed", ".json")
    odd = [name for name in names_in(wheel) if ".dist-info/" not in name and not name.endswith(allowed)]
    assert odd == []


def test_the_wheel_of_the_sdist_is_the_wheel(wheel: Path, tmp_path: Path) -> None:
    source = built(copied(tmp_path / "tree"), "sdist")
    with tarfile.open(source) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(tmp_path / "out", filter="data")
        else:
            archive.extractall(tmp_path / "out")
    (tree,) = (tmp_path / "out").iterdir()
    assert sorted(names_in(built(tree))) == sorted(names_in(wheel))


def test_without_sync_the_runtime_still_builds(tmp_path: Path) -> None:
    names = names_in(built(copied(tmp_path / "tree", without="sync")))
    assert "nuclio_edge/__init__.py" in names
    assert not [name for name in names if name.startswith(("sync", "nuclio_edge_sync"))]


def test_the_runtime_never_imports_sync() -> None:
    wrong = []
    for path in (ROOT / "nuclio_edge").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = [found.name for found in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            wrong += [f"{path}:{node.lineno}" for name in named if name.startswith("nuclio_edge_sync")]  # type: ignore[attr-defined]
    assert wrong == []


def test_a_clean_install_tells_its_version(clean: Path, wheel: Path) -> None:
    done = subprocess.run([clean / "nuclio-edge", "version"], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert wheel.name.split("-")[1] in done.stdout


def test_a_clean_install_imports_both_packages(clean: Path, tmp_path: Path) -> None:
    code = "import nuclio_edge, nuclio_edge_sync, nuclio_edge.core.loop; print(nuclio_edge.__version__)"
    done = subprocess.run(
        [clean / "python", "-I", "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
