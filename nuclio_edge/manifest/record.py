"""What `[record] triggers` chooses: patterns of function and trigger, each of which must match something."""

from __future__ import annotations

from fnmatch import fnmatchcase

from nuclio_edge.manifest.convert import BAD
from nuclio_edge.manifest.problems import quote, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nuclio_edge.manifest.model import FunctionSpec
    from nuclio_edge.manifest.problems import Report


def matches(pattern: str, spec: Any) -> bool:
    """Whether "function/trigger" means this trigger, by its name or number and perhaps with * and ?; or a ledger id."""
    function, slash, trigger = pattern.partition("/")
    if not slash:
        return fnmatchcase(spec.ledger_id, pattern.replace("[", "[[]"))
    return fnmatchcase(spec.function, function) and any(
        fnmatchcase(name, trigger) for name in (spec.name, str(spec.index))
    )


def check_record(record: Any, functions: Mapping[str, FunctionSpec], report: Report) -> None:
    """Report each pattern that matches no trigger."""
    patterns = record.triggers if record is not BAD else BAD
    if patterns is BAD:
        return
    triggers = [trigger for function in functions.values() for trigger in function.triggers]
    for index, pattern in enumerate(patterns):
        if pattern is BAD or any(matches(pattern, trigger) for trigger in triggers):
            continue
        path = ("record", "triggers", index)
        function, slash, trigger = pattern.partition("/")
        if not slash and function in functions:
            hint: str | None = f"write {quote(function + '/*')} for all triggers of the function"
        elif function in functions:
            names = [one.name for one in functions[function].triggers]
            hint = suggest(trigger, names) or f"its triggers: {', '.join(dict.fromkeys(names)) or 'none'}"
        else:
            known = [f"{one.function}/{one.name}" for one in triggers]
            hint = suggest(pattern, known) or (suggest(function, functions) if functions else None)
        report.error(path, "E301", f"no trigger matches {quote(pattern)}", hint)
