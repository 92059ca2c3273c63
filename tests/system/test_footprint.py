"""What a processor without MQTT has loaded, and what it takes beside the bare interpreter."""

from __future__ import annotations

import compileall
import subprocess
import sys
from pathlib import Path

import pytest

import nuclio_edge
from tests import cli
from tests.bench.measure import rss_kib
from tests.waiting import wait_until

MANIFEST = """
[device]
name = "small"
board = "generic/linux"
state_dir = "state"
[source.pins]
kind = "gpio"
chip = "no-such-chip"
[source.pins.lines]
in = { pin = "17", edge = "both" }
[source.lan]
kind = "coap"
listen = "127.0.0.1:0"
[function.f]
handler = "f.py"
[[function.f.trigger]]
line = "in"
[[function.f.trigger]]
every = "EVERY"
[[function.f.trigger]]
source = "lan"
path = "/f"
"""
# Of the standard library, whatever else the interpreter has of itself. `re`, `json`, `enum`, `datetime`, `socket`,
# `tomli`, `logging` and `zlib` are what it is there to keep out.
ALLOWED = set(
    "__future__ _bisect _collections _contextvars _functools _heapq _json _operator _sha2 _sha256 _socket _struct"
    " _thread _weakref _weakrefset array atexit collections collections.abc contextlib errno faulthandler"
    " fcntl functools gc heapq importlib importlib._abc importlib._bootstrap importlib._bootstrap_external"
    " importlib.machinery importlib.util itertools keyword math mmap nuclio_edge_functions"
    " operator reprlib runpy select struct threading types"
    " warnings _warnings".split()
)
OURS = tuple("nuclio_edge.sources." + kind for kind in ("coap", "gpio", "timer"))
NOT_OURS = ("nuclio_edge.sim", "nuclio_edge.testing", "nuclio_edge.workers.processes", "nuclio_edge.workers.aio")
BARE = [sys.executable, "-I", "-c", "import time; print(flush=True); time.sleep(600)"]


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """As by who installs it: what compiles modules while it starts needs 1.3 MiB for that."""
    assert compileall.compile_dir(Path(nuclio_edge.__file__).parent, quiet=2)


def test_a_processor_without_mqtt_has_loaded_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    told = tmp_path / "modules"
    code = (
        "import sys\ndef handler(context, event):\n"
        f"    open({str(told)!r} + '~', 'w').write('\\n'.join(sys.modules))\n"
        f"    __import__('posix').rename({str(told)!r} + '~', {str(told)!r})\n"
    )
    cli.write(tmp_path, MANIFEST.replace("EVERY", "200ms"), f=code)
    with cli.Running(tmp_path):
        wait_until(told.exists, "a tick")
    bare = subprocess.check_output([sys.executable, "-c", "import sys; print(*sys.modules)"], text=True).split()
    more = set(told.read_text().split()) - set(bare) - ALLOWED
    theirs = {name for name in more if not name.startswith(("nuclio_edge", "encodings."))}
    assert not theirs
    sources = {name for name in more if name.startswith("nuclio_edge.sources.")}
    assert {name for name in sources if not name.startswith(OURS)} == set()
    assert {name for name in more if name.startswith(NOT_OURS)} == set()


def test_a_processor_without_mqtt_takes_at_most_6_mib_more_than_the_bare_interpreter(tmp_path: Path) -> None:
    cli.write(tmp_path, MANIFEST.replace("EVERY", "1h"), f="def handler(context, event):\n    pass\n")
    with subprocess.Popen(BARE, stdout=subprocess.PIPE) as bare, cli.Running(tmp_path) as running:
        try:
            running.ready()
            assert bare.stdout is not None
            bare.stdout.readline()
            more = (rss_kib(running.process.pid) - rss_kib(bare.pid)) / 1024
        finally:
            bare.kill()
    assert more <= 6.0
