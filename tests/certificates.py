"""Keys and certificates for tests, made at run time by openssl; none is ever committed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Certificates:
    """An authority, a server certificate for localhost and 127.0.0.1, a client certificate; a stranger's authority."""

    def __init__(self, folder: Path) -> None:
        """Make them in `folder` (about 0.1 s)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = self._authority("ca")
        self.stranger_ca = self._authority("stranger")
        self.server, self.server_key = self._issue("server", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1")
        self.client, self.client_key = self._issue("client", "extendedKeyUsage=clientAuth")

    def _authority(self, name: str) -> Path:
        self._openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "30",
            "-subj", f"/CN=nuclio-edge test {name}", "-keyout", f"{name}.key", "-out", f"{name}.pem",
        )  # fmt: skip
        return self.folder / f"{name}.pem"

    def _issue(self, name: str, extension: str) -> tuple[Path, Path]:
        self._openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr",
        )  # fmt: skip
        (self.folder / f"{name}.ext").write_text(extension + "\n")
        self._openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", "30", "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        done = subprocess.run(["openssl", *arguments], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
