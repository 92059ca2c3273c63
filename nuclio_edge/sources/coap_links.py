"""/.well-known/core: what is here, in link format (RFC 6690), with its filters."""

from __future__ import annotations

from nuclio_edge.core import coap_codec as coap
from nuclio_edge.core.coap_compose import uint
from nuclio_edge.sources import coap_formats as formats

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.sources.coap_plan import Plan, Planner


def listing(planner: Planner, plan: Plan, *, multicast: bool) -> tuple[int, list[tuple[int, bytes]], bytes]:
    """The answer to a GET: code, options and body. With nothing that fits, a multicast request gets no answer."""
    if plan.accept not in (None, formats.LINKS):
        return formats.NOT_ACCEPTABLE, [], b"there is application/link-format here"
    links = [link for link in _links(planner) if all(_fits(link, condition) for condition in plan.query)]
    body = ",".join(_shown(link) for link in links).encode()
    if multicast and not body:
        return formats.NOT_FOUND, [], b""
    return formats.CONTENT, [(coap.CONTENT_FORMAT, uint(formats.LINKS))], body


def _links(planner: Planner) -> list[tuple[str, dict[str, str | None]]]:
    found: dict[str, dict[str, str | None]] = {}
    for path, methods in planner.paths():
        types, title, content, gettable = [], "", None, False
        for method, triggers in methods.items():
            trigger: Any = triggers[0]
            types.append(getattr(trigger.address, "rt", None) or trigger.function.name)
            spec = getattr(trigger.function, "spec", None)
            title = title or getattr(spec, "description", "")
            content = content or trigger.spec.content_type
            gettable = gettable or method in (formats.GET, formats.FETCH)
        about: dict[str, str | None] = {"rt": " ".join(dict.fromkeys(types))}
        if title:
            about["title"] = title
        number = formats.format_of(content)
        if number is not None:
            about["ct"] = str(number)
        if gettable:
            about["obs"] = None
        found[path] = about
    for path, resource in planner.resources.items():
        about = found.setdefault(path, {})
        about["obs"] = None
        if resource.format is not None:
            about.setdefault("ct", str(resource.format))
    return list(found.items())


def _fits(link: tuple[str, dict[str, str | None]], condition: str) -> bool:
    """Whether a link passes one `name=value` of the query (RFC 6690, 4.1); a * at the end stands for anything."""
    name, equals, wanted = condition.partition("=")
    path, about = link
    if name == "href":
        values = [path]
    elif name not in about:
        return False
    else:
        value = about[name]
        values = [""] if value is None else value.split(" ") if name in ("rt", "if", "rel") else [value]
    if not equals:
        return True
    if wanted.endswith("*"):
        return any(value.startswith(wanted[:-1]) for value in values)
    return wanted in values


def _shown(link: tuple[str, dict[str, str | None]]) -> str:
    from urllib.parse import quote

    path, about = link
    parts = [f"<{quote(path, safe='/!$()*+;=:@%')}>"]
    for name, value in about.items():
        if value is None:
            parts.append(name)
        elif name == "ct":
            parts.append(f"{name}={value}")
        else:
            text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
            parts.append(f'{name}="{text}"')
    return ";".join(parts)
