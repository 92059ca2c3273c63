"""The edge function runtime: events of MQTT, CoAP, HTTP and local I/O into Python functions."""

__version__ = "0.1.0.dev0"
