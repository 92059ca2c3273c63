"""The tables of a manifest itself, in the order in which edge.toml shows them.

What a source, a trigger's address and an output hold besides is declared by each source kind (registry.py finds it).
"""

from __future__ import annotations

from nuclio_edge.manifest.schema import Field

_LABELS = Field("map", {}, of=Field("string"), doc="names and values to select and to report by")

DEVICE = {
    "name": Field("string", minimum=1, doc="how the device is called; default: the host name"),
    "namespace": Field("string", "default", minimum=1, doc="the group of devices it belongs to"),
    "labels": _LABELS,
    "board": Field("string", minimum=1, doc='vendor/model, e.g. "raspberrypi/4b"; "sim" simulates pins and ports'),
    "state_dir": Field("path", doc="what must outlive a restart; default: /var/lib/nuclio-edge as root"),
    "secrets_dir": Field("path", "/etc/nuclio-edge/secrets", doc="one file a secret"),
    "memory_budget": Field("size", 48 << 20, minimum=1 << 20, doc="inboxes and buffers together"),
    "stop_timeout": Field("duration", 5000, minimum=0, doc="how long a stop waits for running handlers"),
}

SPOOL = {
    "max_size": Field("size", 64 << 20, minimum=1 << 20, doc="disk space at most"),
    "flush": Field("duration", 200, minimum=1, doc="group commit at the latest"),
    "writes_per_day": Field("size", 500 << 20, minimum=1 << 20, doc="flash budget"),
}

ADMIN = {
    "socket": Field("path", doc="the CLI talks to a running processor here; default: <state_dir>/admin.sock"),
    "listen": Field("string", minimum=1, doc='the same over HTTP, e.g. "127.0.0.1:8090"'),
}

LEVELS = ("debug", "info", "warn", "error")

SINKS = {
    "console": {"level": Field("string", choices=LEVELS)},
    "file": {
        "level": Field("string", choices=LEVELS),
        "path": Field("path", required=True, doc="the file"),
        "max_size": Field("size", 1 << 20, minimum=4096, doc="then the next file is begun"),
        "keep": Field("integer", 3, minimum=0, doc="older files kept"),
    },
    "stream": {
        "level": Field("string", choices=LEVELS),
        "binding": Field("string", required=True, doc="the name of a stream binding"),
    },
    "http": {
        "level": Field("string", choices=LEVELS),
        "url": Field("string", required=True, doc="where batches of records are posted"),
    },
}

LOG = {
    "level": Field("string", "info", choices=LEVELS, doc="records below it are not made"),
    # A sink's other keys depend on its kind: see SINKS.
    "sinks": Field("list", (), of=Field("map", of=Field("string")), doc="one logger, many sinks; default: the console"),
}

RECORD = {
    "triggers": Field("list", (), of=Field("string"), doc='function/trigger, with *, e.g. "thermostat/*"'),
    "max_size": Field("size", 4 << 20, minimum=65536, doc="the last events, byte for byte"),
}

SYNC = {
    "url": Field("string", required=True, doc="the control plane"),
    "every": Field("duration", 900_000, minimum=1000, doc="how often it is asked"),
    "hint": Field("string", doc="an MQTT source that may say: look now"),
}

RETRY = {
    "attempts": Field("integer", 1, minimum=1, maximum=1000, doc="tries in all"),
    "backoff": Field("duration", 1000, minimum=1, doc="the first pause, doubled each time"),
    "max_backoff": Field("duration", 60_000, minimum=1, doc="the longest pause"),
}

WHEN_FULL = ("block", "drop-oldest", "drop-newest", "thin", "reject")

INBOX = {
    "size": Field("integer", 1024, minimum=1, maximum=1 << 20, doc="events waiting at most"),
    "when_full": Field("string", choices=WHEN_FULL, doc="default: by the kind of source"),
}

BATCH = {
    "size": Field("integer", 10, minimum=1, maximum=65536, doc="events in a call at most"),
    "timeout": Field("duration", 1000, minimum=0, doc="how long to wait for more after the first, but for a stop"),
}

TRIGGER = {
    "name": Field("string", minimum=1, doc="event.trigger.name; default: the source's name"),
    "source": Field("string", doc="may be left out where only one source fits the keys"),
    "durable": Field("boolean", doc="stored on disk, then acknowledged; default: of MQTT with QoS 1 and 2"),
    "retry": Field("table", {}, fields=RETRY, doc="after an exception or a status of 500 and above"),
    "dead_letter": Field("boolean", default=False, doc="keep on disk an event whose attempts have ended"),
    "inbox": Field("table", {}, fields=INBOX, doc="the queue before the function"),
    "rate_limit": Field("rate", minimum=0.0001, doc="token bucket, burst of one second"),
    "order_by": Field("string", minimum=1, doc="with several workers: order kept per value of this attribute"),
    "batch": Field("table", fields=BATCH, doc="the handler takes a list of events"),
    "content_type": Field("string", minimum=1, doc="of events that do not say theirs"),
}

SELECT = {"select": Field("string", required=True, doc='functions by label: "author=joe,tier!=dev"')}

OUTPUT = {"to": Field("string", doc="a source or binding; may be left out where only one fits the keys")}

_WORKERS = {
    "min": Field("integer", 0, minimum=0, maximum=256, doc="0 loads at the first event, unloads when idle"),
    "max": Field("integer", 1, minimum=1, maximum=256, doc="workers at most"),
}

LIMITS = {
    "memory": Field("size", minimum=8 << 20, doc="of each worker process"),
    "cpu": Field("number", minimum=0.01, maximum=64.0, doc="processors, e.g. 0.25"),
}

FUNCTION = {
    "handler": Field("string", minimum=1, doc='file:callable, or module:callable in path; callable: "handler"'),
    "path": Field("path", doc="the folder of the function's modules"),
    "code": Field("string", raw=True, doc="the function's code itself"),
    "url": Field("string", doc="where a release is fetched from"),
    "digest": Field("string", doc='of what url holds: "sha256:…"'),
    "description": Field("string", "", doc="one line for people"),
    "labels": _LABELS,
    "env": Field("map", {}, of=Field("string", secret=True), doc="environment variables: text or secrets"),
    "requirements": Field("list", (), of=Field("string", minimum=1), doc="frozen into the release"),
    "workers": Field(
        "integer",
        1,
        either=(Field("integer", minimum=1, maximum=256), Field("table", fields=_WORKERS)),
        doc="a number, or { min = 0, max = 4 }",
    ),
    "isolation": Field("string", "thread", choices=("thread", "inline", "process"), doc="where a handler runs"),
    "load": Field("string", "start", choices=("start", "first-event"), doc="when the code is imported"),
    "concurrency": Field("integer", minimum=1, maximum=100_000, doc="calls at a time of an async handler"),
    "timeout": Field("duration", 30_000, minimum=1, doc="of one call; then 408"),
    "limits": Field("table", {}, fields=LIMITS, doc='needs isolation = "process"'),
    "bindings": Field("list", of=Field("string"), doc="default: all"),
    "disabled": Field(
        "boolean", default=False, doc="true: no event runs it (invoke --beside does); its code is not looked at"
    ),
}

# Tables of named tables, and lists of tables, are walked by their own modules.
ROOT = {
    "schema": Field("integer", 1, doc="the version of this format"),
    "device": Field("table", {}, fields=DEVICE, doc="the device itself"),
    "spool": Field("table", {}, fields=SPOOL, doc="the durable log on disk"),
    "admin": Field("table", {}, fields=ADMIN, doc="how a running processor is asked"),
    "log": Field("table", {}, fields=LOG, doc="the logger"),
    "record": Field("table", {}, fields=RECORD, doc="flight recorder"),
    "sync": Field("table", fields=SYNC, doc="the control plane"),
}
NAMED = {
    "source": "each owns one connection, bus or timer",
    "binding": "what handlers read from and write to",
    "function": "the code to run, and when",
}
SHARED_TRIGGERS = "trigger"  # [[trigger]] with select

SCHEMA_VERSION = 1
