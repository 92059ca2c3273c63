"""What the HTTP source does when there is no more: time for a handshake, memory, descriptors, an interface."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import threading
from typing import TYPE_CHECKING, Any

from tests.certificates import HERE, Certificates
from tests.rig import Rig
from tests.unit.test_http_source import ECHO, GET, MANIFEST, Wire, source
from tests.waiting import LIMIT

if TYPE_CHECKING:
    from pathlib import Path


def rig(folder: Path, params: str = "", listen: str = "127.0.0.1:0") -> Rig:
    text = MANIFEST.format(params=params, isolation="inline", function="", trigger="")
    return Rig(folder, text.replace("127.0.0.1:0", listen), f=ECHO)


def test_a_client_that_does_not_shake_hands_is_not_waited_for(tmp_path: Path) -> None:
    made = Certificates(tmp_path / "tls")
    params = f'cert = "{made.server}"\nkey = "{made.server_key}"\nheader_timeout = "100ms"'
    with rig(tmp_path, params) as running:
        server = source(running).server
        with Wire(running) as silent, Wire(running) as half:
            half.send(b"\x16\x03\x01\x02\x00\x01")  # a ClientHello that does not go on
            assert silent.closed() == b""
            assert half.closed() == b""
        assert server.counters == {"handshake failed": 2}
        assert not server.connections


def test_a_renewed_certificate_is_used_from_the_next_connection_on_and_a_broken_one_never(tmp_path: Path) -> None:
    made = Certificates(tmp_path / "tls")
    params = f'cert = "{made.server}"\nkey = "{made.server_key}"'

    def shown() -> bytes:
        """The certificate that a new client is shown."""
        trust = ssl.create_default_context(cafile=str(made.ca))
        found: list[bytes | None] = []

        def connect() -> None:
            host, _, port = source(running).addresses()[0].rpartition(":")
            plain = socket.create_connection((host, int(port)), LIMIT)
            with trust.wrap_socket(plain, server_hostname="localhost") as client:
                found.append(client.getpeercert(binary_form=True))

        thread = threading.Thread(target=connect)
        thread.start()
        running.until(lambda: not thread.is_alive(), "a handshake")
        thread.join()
        return found[0] or b""

    def complaints() -> int:
        return running.records.text().count("a renewed certificate cannot be used")

    with rig(tmp_path, params) as running:
        first = shown()
        assert shown() == first
        old_key = made.server_key.read_bytes()
        made.issue("server", HERE)  # in the same two files
        new_key = made.server_key.read_bytes()
        second = shown()
        assert second != first
        made.server_key.write_bytes(old_key)  # no pair
        assert shown() == shown() == second
        assert complaints() == 1
        made.server_key.unlink()
        assert shown() == second
        assert complaints() == 2
        made.server_key.write_bytes(new_key)
        made.issue("server", HERE)
        assert shown() not in (first, second)
        assert complaints() == 2


def test_bodies_on_their_way_in_have_one_bound_and_one_too_many_is_refused(tmp_path: Path) -> None:
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 800000\r\n\r\n"
    with rig(tmp_path) as running:
        server: Any = source(running).server
        server.max_held = 1_000_000
        with Wire(running) as one, Wire(running) as two, Wire(running) as three:
            one.send(post)
            for _ in range(7):
                one.send(bytes(100_000))
                running.turn_for(5)
            running.until(lambda: server._held == 700_000, "what is there of the first body to be held")
            two.send(post)
            for _ in range(4):  # it is refused as soon as it is too much, and not when it is whole
                two.send(bytes(100_000))
                running.turn_for(5)
            assert two.answers(1)[0][0] == 503
            one.send(bytes(100_000))
            assert one.answers(1)[0] == (200, bytes(800_000))
            assert server._held == 0
            three.send(post + bytes(800_000)[:8])
            running.turn_for(5)
            three.send(bytes(799_992)[:100_000])
            running.until(lambda: server._held > 0, "room again")
        running.until(lambda: not server.connections, "the ends of all")
        assert server._held == 0


def test_bodies_on_their_way_in_take_memory_of_the_common_budget_and_are_refused_when_it_is_used_up(
    tmp_path: Path,
) -> None:
    post = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 800000\r\n\r\n"
    with rig(tmp_path) as running:
        budget = running.processor.budget
        source(running).server.max_body = 1_000_000
        with Wire(running) as one, Wire(running) as two:
            one.send(post + bytes(10))
            for _ in range(5):
                one.send(bytes(100_000))
                running.turn_for(5)
            running.until(lambda: budget.used == 500_010, "what is there of the body to be counted")
            budget.used += budget.limit  # as if inboxes had taken the rest
            for piece in (post, *(bytes(100_000) for _ in range(6))):  # the first body of all has room in any case
                two.send(piece)
                running.turn_for(5)
            assert two.answers(1)[0][0] == 503
            budget.used -= budget.limit
            one.send(bytes(299_990))
            assert one.answers(1)[0] == (200, bytes(800_000))
        assert budget.used == 0


def test_without_descriptors_who_connects_waits_and_is_served_when_there_are_some(tmp_path: Path) -> None:
    with rig(tmp_path) as running:
        server = source(running).server
        running.until(lambda: source(running).state == "open")
        host, _, port = source(running).addresses()[0].rpartition(":")
        with Wire(running) as before, socket.socket() as waiting:
            before.send(GET % b"/before").answers(1)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            free = os.dup(0)  # the lowest number that is free
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                waiting.connect((host, int(port)))
                running.until(lambda: server.counters.get("not accepted"), "the system to refuse a descriptor")
                running.turn_for(200)
                assert server.counters == {"not accepted": 1}  # it rests, and does not try again and again
                before.send(GET % b"/still")
                assert before.answers(2)[1] == (200, b"/still")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            waiting.sendall(GET % b"/late")
            running.until(lambda: source(running).received == 3, "the one that waited")
        assert running.records.text().count("cannot take connections for a moment") == 1


def test_an_address_of_ipv6_may_name_its_interface(tmp_path: Path) -> None:
    with rig(tmp_path, listen="[::1%lo]:0") as running:
        running.until(lambda: source(running).state == "open")
        with Wire(running) as wire:
            assert wire.send(GET % b"/zone").answers(1) == [(200, b"/zone")]


def test_an_interface_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    with rig(tmp_path, listen="[::1%nosuch0]:0") as running:
        running.turn_for(20)
        assert source(running).state == "connecting"
        assert "nosuch0" in running.records.text()
