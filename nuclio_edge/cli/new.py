"""`new`: a folder with a manifest and a function that runs as it is, and says where to go on."""

from __future__ import annotations

import os
import shlex
import sys

from nuclio_edge.cli import OK, PROGRAM, USAGE
from nuclio_edge.cli.parser import Parser

MANIFEST = """\
# What runs on this device. `nuclio-edge check` says what is wrong with it, `nuclio-edge run` runs it.
schema = 1

[device]
state_dir = "state"                   # what outlives a restart; two projects must not share one
# name = "gateway-7"                  # default: the host name

# A broker: uncomment these lines, and the trigger and the output below that need it.
# [source.broker]
# kind = "mqtt"
# url = "mqtt://192.168.1.10"
# username = "gw"
# password = { secret = "mqtt.password" }   # or $NUCLIO_EDGE_SECRET_MQTT_PASSWORD

[function.hello]
handler = "hello.py"                  # the callable is called handler
env = { GREETING = "Hello" }

[[function.hello.trigger]]
every = "5s"                          # or cron = "*/5 * * * *"; the clock needs no source

# [[function.hello.trigger]]
# topic = "sensors/+/temperature"

# [[function.hello.output]]           # where a returned value goes
# topic = "hello/last"
"""

FUNCTION = '''\
"""Says hello at every event, and what the event was.

    nuclio-edge invoke hello -b '{"name": "you"}'
"""

import os


def init_context(context):
    context.user_data.count = 0


def handler(context, event):
    context.user_data.count += 1
    name = event.get_field("name", "world")
    context.logger.info_with(
        os.environ["GREETING"] + ", " + name, "count", context.user_data.count, "trigger", event.trigger.kind
    )
    return {"greeted": name, "count": context.user_data.count}
'''

README = """\
# {name}

    nuclio-edge check          # is everything right?
    nuclio-edge run --watch    # run it; changed files are loaded again
    nuclio-edge invoke hello -b '{{"name": "you"}}'
    nuclio-edge events         # what do the sources bring?

- `edge.toml` says which events run which function.
- `hello.py` is the function: `handler(context, event)`, as in Nuclio.
"""

IGNORE = """\
__pycache__/
*.py[co]
.venv/
secrets/
state/
"""


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "new",
        "Make a folder with a manifest, a function, a README and a .gitignore; what it makes runs.",
        "",
        "door",
        "door --force             # write over the files of an earlier one",
    )
    made.add_argument("folder", nargs="?", default=".", metavar="DIR", help="default: the current folder")
    made.add_argument("--force", action="store_true", help="write over files that are there")
    made.json("print the files as JSON")
    return made


def _write(folder: str, files: dict[str, str]) -> None:
    """Write all of them or, on a full disk, none: what is there is only replaced by what is whole."""
    beside = {file: os.path.join(folder, f".{file}.new") for file in files}
    try:
        for file, text in files.items():
            if os.path.isdir(os.path.join(folder, file)):
                raise IsADirectoryError(None, "Is a directory", os.path.join(folder, file))
            with open(beside[file], "w", encoding="utf-8") as out:
                out.write(text)
        for file, path in beside.items():
            os.replace(path, os.path.join(folder, file))
    finally:
        for path in beside.values():
            if os.path.lexists(path):
                os.unlink(path)


def main(arguments: list[str]) -> int:
    """Write the files and print their paths; 2, with nothing written, when one is there already."""
    options = parser().parse_args(arguments)
    folder: str = options.folder
    name = os.fsencode(os.path.basename(os.path.abspath(folder))).decode("utf-8", "replace") or "edge"
    files = {
        "edge.toml": MANIFEST,
        "hello.py": FUNCTION,
        "README.md": README.format(name=name),
        ".gitignore": IGNORE,
    }
    there = [file for file in files if os.path.lexists(os.path.join(folder, file))]
    if there and not options.force:
        print(f"{PROGRAM} new: {folder} already has {', '.join(there)}; nothing was written", file=sys.stderr)
        print("  --force writes over them", file=sys.stderr)
        return USAGE
    try:
        os.makedirs(folder, exist_ok=True)
        _write(folder, files)
    except OSError as error:
        print(f"{PROGRAM} new: {error.filename or folder}: {error.strerror}; nothing was written", file=sys.stderr)
        return USAGE
    paths = [os.path.join(folder, file) for file in files]
    if options.json:
        from nuclio_edge.core.port import json_dumps

        print(json_dumps({"folder": folder, "files": paths}))
        return OK
    for path in paths:
        print(path)
    manifest = "" if folder in (".", "") else " " + shlex.quote(os.path.join(folder, "edge.toml"))
    print(f"next: {PROGRAM} run{manifest} --watch", file=sys.stderr)
    return OK
