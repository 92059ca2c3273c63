"""A processor that serves HTTP, and the clients of others: curl, wrk, Python's; TLS, unix sockets, one port for two."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.cli import Running, call, write
from tests.docs.pages import write_out
from tests.mosquitto import SEARCHED
from tests.waiting import LIMIT, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.certificates import Certificates

ECHO = """
def handler(context, event):
    if event.path == "/parts":
        return (f"part {number} " for number in range(3))
    return {"method": event.method, "size": event.size, "identity": event.source_identity, "version": context.worker_id}
"""
MANIFEST = """
[source.api]
kind = "http"
listen = "{listen}"
{params}

[function.f]
handler = "f.py"
isolation = "{isolation}"

[[function.f.trigger]]
path = "/*"
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def manifest(listen: str, params: str = "", isolation: str = "thread") -> str:
    return MANIFEST.format(listen=listen, params=params, isolation=isolation)


def program(name: str) -> str:
    found = shutil.which(name, path=SEARCHED)
    assert found, f"{name} is not there; .ci/setup/debian-programs sees to it"
    return found


def curl(*arguments: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        [program("curl"), "--silent", "--show-error", "--max-time", "30", *arguments],
        input=stdin, capture_output=True, check=False, timeout=2 * LIMIT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_curl_gets_and_puts_in_every_way_that_it_knows(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    write(tmp_path, manifest(f"127.0.0.1:{port}"), f=ECHO)
    with Running(tmp_path) as run:
        run.ready()
        assert '"method":"GET"' in curl(url)
        assert '"size":300000' in curl(url, "--data-binary", "@-", stdin=bytes(300_000))  # asks with Expect
        chunked = curl(url, "-T", "-", "-H", "Transfer-Encoding: chunked", stdin=bytes(100_000))
        assert '"method":"PUT","size":100000' in chunked
        assert curl(url + "/parts", "--no-buffer") == "part 0 part 1 part 2 "
        assert "HTTP/1.1 200 OK" in curl("--head", url)
        assert curl("-0", url + "/parts") == "part 0 part 1 part 2 "
        assert '"method":"GET"' in curl("--proxy", url, "http://elsewhere.example/x")  # the absolute form
        assert curl(url + "/[1-3]", "-o", str(tmp_path / "#1"), "-w", "%{num_connects}") == "100"  # one connection
        assert run.stop() == 0


def test_pythons_own_client_keeps_its_connection(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    write(tmp_path, manifest(f"unix:{path}"), f=ECHO)
    with Running(tmp_path) as run:
        run.ready()
        client = http.client.HTTPConnection("localhost")
        client.sock = socket.socket(socket.AF_UNIX)
        client.sock.connect(str(path))
        kept = client.sock
        for number in range(5):
            client.request(
                "POST",
                "/",
                body=iter([b"a", b"b" * number]),
                encode_chunked=True,
                headers={"Transfer-Encoding": "chunked"},
            )
            answer = client.getresponse()
            assert (answer.status, f'"size":{number + 1}' in answer.read().decode()) == (200, True)
            assert client.sock is kept
        client.close()
        assert run.stop() == 0
    assert not path.exists()


def test_tls_shows_its_certificate_and_asks_for_the_clients(tmp_path: Path, certificates: Certificates) -> None:
    port = free_port()
    params = f'cert = "{certificates.server}"\nkey = "{certificates.server_key}"\nclient_ca = "{certificates.ca}"'
    write(tmp_path, manifest(f"127.0.0.1:{port}", params), f=ECHO)
    with Running(tmp_path) as run:
        run.ready()
        url = f"https://localhost:{port}"
        mine = ("--cert", str(certificates.client), "--key", str(certificates.client_key))
        assert '"identity":"nuclio-edge test client"' in curl("--cacert", str(certificates.ca), *mine, url)
        big = curl("--cacert", str(certificates.ca), *mine, url, "--data-binary", "@-", stdin=bytes(1_000_000))
        assert '"size":1000000' in big
        refused = subprocess.run(
            [program("curl"), "--silent", "--cacert", str(certificates.ca), url], capture_output=True, check=False
        )
        assert refused.returncode != 0
        with socket.create_connection(("127.0.0.1", port)) as plain:  # not TLS at all, and one that says nothing
            plain.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            with socket.create_connection(("127.0.0.1", port)):
                with contextlib.suppress(ConnectionResetError):
                    assert plain.recv(100)[:1] in (b"\x15", b"")  # an alert, or nothing
                assert '"size":0' in curl("--cacert", str(certificates.ca), *mine, url)
        assert run.stop() == 0


def test_a_key_in_a_secret_is_never_a_file_of_ours(tmp_path: Path, certificates: Certificates) -> None:
    port = free_port()
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "api.key").write_bytes(certificates.server_key.read_bytes())
    device = '[device]\nsecrets_dir = "secrets"\n'
    params = f'cert = "{certificates.server}"\nkey = {{ secret = "api.key" }}'
    write(tmp_path, device + manifest(f"127.0.0.1:{port}", params), f=ECHO)
    with Running(tmp_path) as run:
        run.ready()
        context = ssl.create_default_context(cafile=certificates.ca)
        client = http.client.HTTPSConnection("localhost", port, context=context)
        client.request("GET", "/")
        assert client.getresponse().status == 200
        client.close()
        assert run.stop() == 0


def test_two_processors_share_a_port_when_both_say_so(tmp_path: Path) -> None:
    port = free_port()
    code = "import os\ndef handler(context, event): return str(os.getpid())"
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        write(folder, manifest(f"127.0.0.1:{port}", "reuse_port = true"), f=code)
    with Running(folders[0]) as one, Running(folders[1]) as two:
        one.ready()
        two.ready()
        pids = {str(one.process.pid), str(two.process.pid)}
        seen: set[str] = set()

        def both_seen() -> bool:
            seen.add(curl(f"http://127.0.0.1:{port}/"))
            return seen == pids

        wait_until(both_seen, lambda: f"{seen} of {pids}")
        assert one.stop() == 0
        assert curl(f"http://127.0.0.1:{port}/") == str(two.process.pid)
        assert two.stop() == 0


@pytest.mark.parametrize("isolation", ["inline", "thread"])
def test_a_load_of_many_connections_is_answered_without_an_error_and_the_ledger_balances(
    tmp_path: Path, isolation: str
) -> None:
    port = free_port()
    write(tmp_path, manifest(f"127.0.0.1:{port}", isolation=isolation), f=ECHO)
    with Running(tmp_path) as run:
        run.ready()
        done = subprocess.run(
            [program("wrk"), "-t", "1", "-c", "50", "-d", "2", f"http://127.0.0.1:{port}/"],
            capture_output=True, text=True, check=True, timeout=2 * LIMIT,
        )  # fmt: skip
        assert "Non-2xx" not in done.stdout
        assert "Socket errors" not in done.stdout
        count = re.search(r"(\d+) requests in", done.stdout)
        assert count is not None
        run.send(signal.SIGTERM)
        assert run.wait() == 0
        [stopped] = [record for record in run.records if record.get("event") == "stopped"]
        assert stopped["with"]["received"] >= int(count[1])
        assert stopped["with"]["failed"] == 0


def test_invoke_makes_the_request_that_a_trigger_takes(tmp_path: Path) -> None:
    code = "def handler(context, event): return [event.method, event.path, event.fields, event.get_header('x-a')]"
    write(tmp_path, manifest("127.0.0.1:0"), f=code)
    done = call("invoke", "f", "-p", "/a b?c=d", "-b", '{"e": 1}', "-d", "X-A=1", "-l", "none", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(json.loads(done.stdout)["body"]) == ["POST", "/a b", {"e": 1, "c": "d"}, "1"]


def test_the_page_about_the_source_is_true(tmp_path: Path) -> None:
    write_out("sources/http.md", tmp_path)
    path = tmp_path / "edge.toml"
    port = free_port()
    text = path.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}").replace("/run/nuclio-edge", str(tmp_path))
    path.write_text(text)
    with Running(tmp_path) as run:
        run.ready()
        url = f"http://127.0.0.1:{port}"
        assert curl(url + "/rooms/hall?temperature=20") == '{"room":"hall","heating":true}'
        assert curl(
            "--unix-socket", str(tmp_path / "api.sock"), "http://x/rooms/hall", "-d", '{"temperature": 22}'
        ).endswith('"heating":false}')
        assert curl(url + "/rooms/hall", "-w", "%{http_code}") == "no temperature400"
        assert curl(url + "/ticks", "-H", "Origin: https://app.example", "-i").endswith("tick 0\ntick 1\ntick 2\n")
        assert "204" in curl(url + "/ticks", "-X", "OPTIONS", "-i")
        assert run.stop() == 0
