"""What is wrong with TLS is said once, in the words of who can mend it; and the source is there when it is mended."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from nuclio_edge.manifest.schema import Secret
from nuclio_edge.sources import mqtt_outage
from tests.certificates import HERE
from tests.fake_broker import FakeBroker, Peer
from tests.mqtt_rig import Rig
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.certificates import Certificates
    from tests.conftest import StartBroker
    from tests.mosquitto import Mosquitto


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_outage, "FIRST_PAUSE_MS", 20)
    monkeypatch.setattr(mqtt_outage, "LONGEST_PAUSE_MS", 50)


def said_once_then_open(rig: Rig, words: str, mend: Callable[[], Any]) -> None:
    """The words are in the log once, however often it is tried; after `mend` the source opens."""
    with rig:
        wait_until(lambda: words in rig.log, lambda: rig.log)
        tried = rig.source.attempts
        wait_until(lambda: rig.source.attempts > tried + 3)
        assert rig.log.count(words) == 1, rig.log
        assert len(rig.host.log.lines) == 1, rig.log
        mend()
        rig.wait_open()
        assert "_ssl.c" not in rig.log


def presenting(certificates: Certificates, name: str, extension: str, **more: Any) -> Any:
    """The same, but with another certificate of the server."""
    cert, key = certificates.issue(name, extension, **more)
    return SimpleNamespace(ca=certificates.ca, server=cert, server_key=key)


def mend_server(broker: Mosquitto, certificates: Certificates) -> Callable[[], None]:
    """Give the broker the certificate that is right."""

    def mend() -> None:
        broker.tls = certificates
        broker.restart()

    return mend


SERVERS = {
    "another authority": (
        {"extension": HERE, "by": "stranger"},
        "its authority is not known here (unable to get local issuer certificate); ca does not hold it",
    ),
    "expired": (
        {"extension": HERE, "days": 0},
        "it has expired; this device's clock says 2",
    ),
    "another name": (
        {"extension": "subjectAltName=DNS:broker.example"},
        "it is for another name than localhost; write in url the name that it is for",
    ),
}


@pytest.mark.parametrize("wrong", SERVERS)
def test_a_certificate_of_the_server_that_is_wrong(
    tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates, wrong: str
) -> None:
    about, words = SERVERS[wrong]
    shown = presenting(certificates, wrong.replace(" ", "-"), **about)  # type: ignore[arg-type]
    broker = start_mosquitto(tls=shown)
    if wrong == "expired":  # in the next second
        _wait_for_expiry(broker, certificates)
    words = f"the server's certificate is not accepted: {words}"
    rig = Rig(broker.tls_url, tmp_path, ca=str(certificates.ca))
    said_once_then_open(rig, words, mend_server(broker, certificates))


def _wait_for_expiry(broker: Mosquitto, certificates: Certificates) -> None:
    import socket
    import ssl

    context = ssl.create_default_context(cafile=str(certificates.ca))

    def expired() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", broker.tls_port)) as tcp:
                context.wrap_socket(tcp, server_hostname="localhost").close()
        except ssl.SSLCertVerificationError as error:
            return error.verify_code == 10
        return False

    wait_until(expired)


def test_an_authority_of_the_system_that_does_not_know_the_broker(
    tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(tls=certificates)
    with Rig(broker.tls_url, tmp_path) as rig:
        wait_until(lambda: "; set ca to its certificate" in rig.log, lambda: rig.log)


def test_a_ca_file_that_is_put_right_on_the_device_is_read_again(
    tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(tls=certificates)
    ca = tmp_path / "ca.pem"
    ca.write_text("not yet")
    said_once_then_open(
        Rig(broker.tls_url, tmp_path, ca=str(ca)),
        "cannot connect: ca holds no certificate in PEM",
        lambda: shutil.copy(certificates.ca, ca),
    )


def test_tls_on_a_plain_port(tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates) -> None:
    broker = start_mosquitto(tls=certificates)

    def swap() -> None:
        broker.stop()
        broker.port, broker.tls_port = broker.tls_port, broker.port
        broker.start()

    said_once_then_open(
        Rig(f"mqtts://localhost:{broker.port}", tmp_path, ca=str(certificates.ca)),
        f"the server hangs up on TLS: if port {broker.port} speaks none, write mqtt:// in url",
        swap,
    )


@pytest.mark.parametrize("version", [3, 5])
def test_no_tls_on_a_tls_port(
    tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates, version: int
) -> None:
    broker = start_mosquitto(tls=certificates)

    def swap() -> None:
        broker.stop()
        broker.port, broker.tls_port = broker.tls_port, broker.port
        broker.start()

    rig = Rig(f"mqtt://localhost:{broker.tls_port}", tmp_path, version=version)
    said_once_then_open(rig, f"before it answered; if port {broker.tls_port} wants TLS, write mqtts:// in url", swap)
    assert "cannot connect: " in rig.log and "Connection" not in rig.log


def test_a_websocket_on_a_plain_port(tmp_path: Path, start_mosquitto: StartBroker) -> None:
    broker = start_mosquitto()
    words = f"cannot connect: the server hangs up on HTTP: if port {broker.port} speaks none, write mqtt:// in url"
    with Rig(f"ws://localhost:{broker.port}/mqtt", tmp_path) as rig:
        wait_until(lambda: words in rig.log, lambda: rig.log)


def test_a_websocket_port_and_a_tls_alert_are_known_by_their_answers(tmp_path: Path) -> None:
    def alerts(peer: Peer) -> None:
        peer.expect("CONNECT")
        peer.send(b"\x15\x03\x01\x00\x02\x02\x46")

    def http(peer: Peer) -> None:
        peer.expect("CONNECT")
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + b" " * 100)

    def good(peer: Peer) -> None:
        peer.serve()

    with FakeBroker(alerts, http, good) as broker, Rig(broker.url, tmp_path) as rig:
        rig.wait_open()
        assert "it answers in TLS; write mqtts:// in url" in rig.log
        assert "it answers in HTTP; write ws:// in url" in rig.log


def test_a_server_that_wants_a_client_certificate(
    tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(tls=certificates, client_certificates=True)

    def mend() -> None:
        broker._client_certificates = False
        broker.restart()

    rig = Rig(broker.tls_url, tmp_path, ca=str(certificates.ca))
    said_once_then_open(rig, "the server wants a client certificate: set cert and key", mend)


@pytest.mark.parametrize("tls_version", ["tlsv1.2", "tlsv1.3"])
@pytest.mark.parametrize("wrong", ["stranger", "expired"])
def test_a_client_certificate_that_is_refused_until_it_is_renewed_on_the_device(
    tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates, wrong: str, tls_version: str
) -> None:
    broker = start_mosquitto(tls=certificates, client_certificates=True, tls_version=tls_version)
    days, by = (0, "ca") if wrong == "expired" else (30, "stranger")
    cert, key = certificates.issue(f"{wrong}-{tls_version}", "extendedKeyUsage=clientAuth", days=days, by=by)
    ours, our_key = tmp_path / "gw.crt", tmp_path / "gw.key"
    shutil.copy(cert, ours)
    shutil.copy(key, our_key)

    def renew() -> None:
        shutil.copy(certificates.client_key, our_key)
        shutil.copy(certificates.client, ours)

    rig = Rig(broker.tls_url, tmp_path, ca=str(certificates.ca), cert=str(ours), key=str(our_key))
    words = "unknown ca" if wrong == "stranger" else "certificate expired"
    with rig:
        wait_until(lambda: f"the server does not accept our certificate (cert): {words}" in rig.log, lambda: rig.log)
        renew()
        rig.wait_open()
        assert rig.log.count("does not accept our certificate") == 1


def test_a_pair_that_does_not_belong_together_and_a_key_with_a_pass_phrase(
    tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(tls=certificates, client_certificates=True)
    about: dict[str, Any] = {"ca": str(certificates.ca), "cert": str(certificates.client)}
    locked = certificates.folder / "locked.key"
    certificates._openssl("ec", "-in", "client.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key")

    def says(key: Any, words: str) -> None:
        with Rig(broker.tls_url, tmp_path, key=key, **about) as rig:
            wait_until(lambda: words in rig.log, lambda: rig.log)

    says(str(certificates.server_key), "cert and key do not belong together")
    says(str(locked), "the key has a pass phrase")
    says(Secret("gw.key", locked.read_bytes()), "the key has a pass phrase")


def test_a_file_that_is_no_pem_is_told_in_plain_words(
    tmp_path: Path, start_mosquitto: StartBroker, certificates: Certificates
) -> None:
    broker = start_mosquitto(tls=certificates, client_certificates=True)
    right: dict[str, Any] = {
        "ca": str(certificates.ca),
        "cert": str(certificates.client),
        "key": str(certificates.client_key),
    }
    (tmp_path / "text").write_text("no certificate, no key\n")
    whole = certificates.ca.read_text().splitlines(keepends=True)
    (tmp_path / "half").write_text("".join([*whole[:2], whole[-1]]))

    def says(name: str, file: str, words: str) -> None:
        folder = tmp_path / f"{name}-{file}"
        folder.mkdir()
        with Rig(broker.tls_url, folder, **{**right, name: str(tmp_path / file)}) as rig:
            wait_until(lambda: words in rig.log, lambda: rig.log)
            assert "_ssl.c" not in rig.log

    says("key", "text", "cert or key is no PEM, or not whole")
    says("cert", "text", "cert or key is no PEM, or not whole")
    says("ca", "text", "ca holds no certificate in PEM")
    says("ca", "half", "ca is no PEM, or not whole")
