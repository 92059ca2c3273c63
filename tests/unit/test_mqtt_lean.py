"""paho without what it drags in; and nobody who uses the same modules notices."""

from __future__ import annotations

import subprocess
import sys

CHECK = """
import sys
before = set(sys.modules)
from nuclio_edge.sources import mqtt_client
for name in ("ssl", "logging", "urllib", "urllib.request", "hashlib", "uuid", "email", "http", "platform", "asyncio"):
    assert name not in sys.modules, name
assert mqtt_client.missing() == []
got = mqtt_client.paho.ssl, mqtt_client.paho.logging
import paho.mqtt.client as paho
paho.Client(paho.CallbackAPIVersion.VERSION2).tls_set()
paho.Client(paho.CallbackAPIVersion.VERSION2).enable_logger()
import logging, ssl, urllib.request, logging.handlers
assert got[0].SSLContext is ssl.SSLContext
assert got[1].getLogger is logging.getLogger
assert mqtt_client.paho.urllib.request.getproxies() is not None
assert mqtt_client.paho._base62(61) == "Z"
"""

IN_BETWEEN = """
import sys, types
from nuclio_edge.sources.mqtt_lean import import_lean
probe = types.ModuleType("probe")
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "probing":
            # what another thread may do in this moment
            import logging.handlers
            from logging import getLogger
            import ssl
            assert ssl.SSLContext and logging.handlers.SocketHandler and getLogger("x").warning
sys.meta_path.insert(0, Finder())
try:
    import_lean("probing", {"logging": {}, "ssl": {}})
except ModuleNotFoundError:
    pass
import logging, ssl
assert type(logging) is type(ssl) is types.ModuleType
"""


def test_paho_comes_without_ssl_logging_and_http_and_works_all_the_same() -> None:
    subprocess.run([sys.executable, "-c", CHECK], check=True, timeout=60)


def test_a_module_imported_while_it_is_stood_in_for_is_the_real_one() -> None:
    subprocess.run([sys.executable, "-c", IN_BETWEEN], check=True, timeout=60)
