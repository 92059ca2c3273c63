"""What a secret looks like where somebody says it: imported where there is one to hide."""

from __future__ import annotations

from nuclio_edge.core import port

SHORTEST = 4  # characters: masking "on" or "1" would make every line unreadable


def forms(secret: str) -> set[str]:
    """What a secret looks like in a text: itself, as Python and JSON write it, and each of these in a line of JSON.

    Most have one form; none has more than thirty.
    """
    if len(secret) < SHORTEST:
        return set()
    if secret.isascii() and secret.isprintable() and not any(char in secret for char in "\\\"'"):
        return {secret}
    import json

    found = {secret, port.json_dumps(secret)[1:-1], json.dumps(secret)[1:-1]}
    for shown in (repr, ascii, _as_bytes):
        found.add(shown(secret)[1:-1])
        found.add(shown('"' + secret)[2:-1])  # beside a double quote Python escapes the single ones
    return found | {dump(form)[1:-1] for form in found for dump in (port.json_dumps, json.dumps)}


def _as_bytes(text: str) -> str:
    return repr(text.encode("utf-8", "replace"))[1:]
