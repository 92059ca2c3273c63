"""Keys and certificates for tests, made at run time by openssl; none is ever committed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HERE = "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"


class Certificates:
    """An authority, a server certificate for localhost and 127.0.0.1, a client certificate; a stranger's authority."""

    def __init__(self, folder: Path) -> None:
        """Make them in `folder` (about 0.1 s)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        (folder / "openssl.cnf").write_text("[req]\ndistinguished_name = name\n[name]\n")  # the system's may be missing
        self.ca = self._authority("ca")
        self.stranger_ca = self._authority("stranger")
        self.server, self.server_key = self.issue("server", HERE)
        self.client, self.client_key = self.issue("client", "extendedKeyUsage=clientAuth")

    def _authority(self, name: str) -> Path:
        # From 3.13 on Python verifies strictly: an authority must say that it is one and what its key is for.
        self._request(
            name,
            *("-x509", "-days", "30", "-addext", "basicConstraints=critical,CA:TRUE"),
            *("-addext", "keyUsage=critical,keyCertSign,cRLSign", "-addext", "subjectKeyIdentifier=hash"),
            *("-out", f"{name}.pem"),
        )
        return self.folder / f"{name}.pem"

    def issue(self, name: str, extension: str, *, days: int = 30, by: str = "ca") -> tuple[Path, Path]:
        """Another certificate and its key; with 0 days it has expired in the next second. `by`: ca or stranger."""
        self._request(name, "-out", f"{name}.csr")
        extensions = [
            "basicConstraints=CA:FALSE",
            "subjectKeyIdentifier=hash",
            "authorityKeyIdentifier=keyid",
            extension,
        ]
        (self.folder / f"{name}.ext").write_text("\n".join(extensions) + "\n")
        self._openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial"),
            *("-days", str(days), "-extfile", f"{name}.ext", "-out", f"{name}.pem"),
        )
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _request(self, name: str, *more: str) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{name}.key")
        self._openssl("req", "-config", "openssl.cnf", "-subj", f"/CN=nuclio-edge test {name}", *key, *more)

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
