"""`check`: everything that is wrong with a manifest, without running a line of the functions' code."""

from __future__ import annotations

import sys

from nuclio_edge.cli import OK, USAGE
from nuclio_edge.cli.parser import Parser
from nuclio_edge.cli.refusal import advise
from nuclio_edge.core.port import json_dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.manifest.model import Manifest


def parser() -> Parser:
    """The command's options."""
    made = Parser(
        "check",
        "Read a manifest and say everything that is wrong with it. Functions' code is read, never run.",
        "",
        "/etc/nuclio-edge/edge.toml",
        "--json | jq '.problems[].line'",
        "--schema > edge.schema.json     # for completion in an editor",
    )
    made.manifest()
    made.json("one JSON object: file, ok, problems (file, line, column, key, severity, code, message, hint)")
    made.add_argument("--schema", action="store_true", help="print the JSON schema of manifests instead")
    return made


def main(arguments: list[str]) -> int:
    """Print what is wrong on stderr, or as JSON on stdout; 2 when the manifest cannot be used."""
    options = parser().parse_args(arguments)
    if options.schema:
        import json

        from nuclio_edge.manifest.json_schema import build

        print(json.dumps(build(), indent=2, ensure_ascii=False))
        return OK
    from nuclio_edge.manifest import check
    from nuclio_edge.manifest.problems import render, render_warnings

    manifest, problems = check(options.manifest)
    advise(problems, options.manifest, "check")
    if options.json:
        found = [problem.as_dict(options.manifest) for problem in problems]
        print(json_dumps({"file": options.manifest, "ok": manifest is not None, "problems": found}))
    elif manifest is None:
        print(render(problems, options.manifest, warnings=True), file=sys.stderr)
    else:
        if problems:
            print(render_warnings(problems, options.manifest), file=sys.stderr)
        print(f"{options.manifest}: ok, {summary(manifest)}")
    return OK if manifest is not None else USAGE


def summary(manifest: Manifest) -> str:
    """What the manifest holds: `3 functions (1 disabled), 2 sources`."""
    disabled = sum(function.disabled for function in manifest.functions.values())
    text = counted(len(manifest.functions), "function") + (f" ({disabled} disabled)" if disabled else "")
    used = {t.source for f in manifest.functions.values() if not f.disabled for t in f.triggers}
    sources = [name for name, spec in manifest.sources.items() if name in used or spec.declared]
    return f"{text}, {counted(len(sources), 'source')}"


def counted(count: int, what: str) -> str:
    """`1 function`, `2 functions`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
