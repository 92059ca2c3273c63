"""CoAP CON POST -> handler -> response, inline, deduplicated: beside libcoap's C server and aiocoap's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nuclio_edge.sources.coap_formats import POST, PUT
from tests.bench.coap_load import Load, free_port
from tests.bench.subject import Subject, processor, python
from tests.mosquitto import program

if TYPE_CHECKING:
    from tests.bench.bench import Bench

WARM = 2000
RATE = 40_000


def run(bench: Bench) -> None:
    """A window of 16; libcoap's server has a PUT for a body, which it keeps.

    The bare server, recvfrom and sendto for each request and nothing else, shows what the system calls alone cost.
    """
    many, few = bench.many(100_000), bench.many(10_000)
    found = bench.interleave({
        "libcoap coap-server": lambda: libcoap(bench, many),
        "ours, inline": lambda: ours(bench, many, "127.0.0.1", "inline"),
        "ours, inline, all addresses": lambda: ours(bench, many, "[::]", "inline"),
        "ours, thread": lambda: ours(bench, many, "127.0.0.1", "thread"),
        "aiocoap": lambda: aiocoap(bench, few),
        "bare system calls in Python": lambda: bare(bench, many),
    })  # fmt: skip
    for name, measures in found.items():
        bench.report.value(f"{name}: CPU", measures["cpu"], "µs/request")
        rates = [1e6 / wall for wall in measures["wall"]]
        bench.report.value(f"{name}: rate", rates, "requests/s", note=f"best of {len(rates)}: {max(rates):,.0f}/s")
    bench.ratio("inline to aiocoap, CPU", found, "ours, inline", "aiocoap", bar=1 / 25)
    bench.ratio("inline to libcoap's C server, CPU", found, "ours, inline", "libcoap coap-server", bar=1.5)


def ours(bench: Bench, count: int, host: str, isolation: str) -> dict[str, float]:
    """A processor with one function."""
    port = free_port()
    text = f"""
[device]
name = "bench"
state_dir = "state"
[source.lan]
kind = "coap"
listen = "{host}:{port}"
[function.f]
handler = "{{functions}}/ok.py"
isolation = "{isolation}"
[[function.f.trigger]]
path = "/f"
"""
    with processor(bench.folder(), text) as subject:
        return load(subject, port, POST, b"f", count)


def aiocoap(bench: Bench, count: int) -> dict[str, float]:
    """The library's own server."""
    port = free_port()
    with python("aiocoap_server", bench.folder(), str(port)) as subject:
        return load(subject, port, POST, b"f", count)


def bare(bench: Bench, count: int) -> dict[str, float]:
    """No server, but what one of Python cannot do without."""
    port = free_port()
    with python("bare_coap", bench.folder(), str(port)) as subject:
        return load(subject, port, POST, b"f", count)


def libcoap(bench: Bench, count: int) -> dict[str, float]:
    """The C library's example server."""
    port = free_port()
    command = [program("coap-server-notls"), "-A", "127.0.0.1", "-p", str(port), "-v", "3"]
    with Subject("coap-server", command, bench.folder()) as subject:
        return load(subject, port, PUT, b"example_data", count)


def load(subject: Subject, port: int, code: int, path: bytes, count: int) -> dict[str, float]:
    """Warm up, then measure."""
    with Load(port, code, path) as client:
        client.until_it_answers(subject)
        client.run(subject, WARM)
        return client.run(subject, count)
