"""What came of an invoked event, in the form of nuctl or as JSON; by a processor that runs, or by our own."""

from __future__ import annotations

from binascii import a2b_base64

from nuclio_edge.cli.terminal import Painter, body_text, printable
from nuclio_edge.core.port import json_dumps, json_loads
from nuclio_edge.core.response import JSON
from nuclio_edge.trial import encoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from nuclio_edge.cli.once import Call
    from nuclio_edge.core.response import Response


class Outcome:
    """The answer, how long it took, and what was, or would be, sent."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.function: str = about["function"]
        # What a function without a trigger is given is counted under its own name.
        self.trigger: str | None = about["trigger"] if about["trigger"] != f"function.{self.function}" else None
        self.event: dict[str, str] = about["event"]
        self.status: int = about["status"]
        self.content_type: str = about["content_type"]
        self.headers: dict[str, str] = about["headers"]
        self.body: bytes = about["body"]
        self.really_sent: bool = about["really_sent"]
        self.sent: list[dict[str, Any]] = about["sent"]
        self.elapsed_ms: float = about["elapsed_ms"]
        self.logs: list[str] = about.get("logs", [])
        self.pid: int | None = about.get("pid")  # of the processor that did it, if that was another one

    def show(self, out: Any, *, as_json: bool) -> None:
        """Print it."""
        (self._print_json if as_json else self._print)(out)

    def print_logs(self, out: Any) -> None:
        """Print what the handler has logged."""
        text = out.isatty()
        for line in self.logs:
            said = json_loads(line)
            pairs = " ".join(f"{key}={value}" for key, value in said.get("with", {}).items())
            words = f"{said.get('level', '')} {said.get('logger', '')}: {said.get('message', '')} {pairs}"
            print(printable(words.strip()) if text else line, file=out)

    def _print(self, out: Any) -> None:
        paint = Painter(out)

        def title(text: str) -> str:
            return paint("bold", f"> {text}")

        event = self.event
        where = f"{event['kind']} {event['name']}, {printable(event['path'])}"
        print(title("Event:"), where + (f" (by the processor {self.pid})" if self.pid else ""), file=out)
        shown = paint("red" if self.status >= 400 else "green", str(self.status))
        print(title("Response status:"), shown, f"({self.elapsed_ms:.1f} ms)", file=out)
        print(title("Response headers:"), file=out)
        for name, value in {"Content-Type": self.content_type, **self.headers}.items():
            print(f"{name} = {printable(str(value))}", file=out)
        print(title("Response body:"), file=out)
        print(self._pretty(), file=out)
        if self.sent:
            print(title("Sent:" if self.really_sent else "Would send:"), file=out)
            for sent in self.sent:
                print(printable(sent["line"]) + (paint("dim", "  # output") if sent["output"] else ""), file=out)

    def _print_json(self, out: Any) -> None:
        body, encoding = encoded(self.body)
        said = {
            "function": self.function,
            "trigger": self.trigger,
            "status": self.status,
            "content_type": self.content_type,
            "headers": self.headers,
            "body": body,
            "body_encoding": encoding,
            "really_sent": self.really_sent,
            "sent": [{key: value for key, value in sent.items() if key != "line"} for sent in self.sent],
            "elapsed_ms": round(self.elapsed_ms, 3),
            "pid": self.pid,
        }
        print(json_dumps(said), file=out)

    def _pretty(self) -> str:
        if self.content_type == JSON:
            import json

            try:
                return json.dumps(json.loads(self.body), indent=4, ensure_ascii=False)
            except ValueError:
                pass
        return body_text(self.body, keep="\n\t")


def of_processor(raw: bytes) -> Outcome:
    """What a processor that runs has answered."""
    about = json_loads(raw)
    about["body"] = a2b_base64(about.pop("body_base64"))
    return Outcome(about)


def of_call(call: Call) -> Outcome:
    """What came of an event that was run here."""
    response, event = call.response, call.event
    assert response is not None and event is not None  # noqa: S101, PT018 - it was answered
    return Outcome({
        "function": call.spec.name,
        "trigger": call.trigger.ledger_id,
        "event": {"kind": event.trigger.kind, "name": event.trigger.name, "path": event.path or ""},
        "status": response.status_code,
        "content_type": response.content_type,
        "headers": response.headers,
        "body": _bytes(response),
        "really_sent": call.send,
        "sent": [{**sent.as_dict(), "line": sent.line()} for sent in call.sent],
        "elapsed_ms": call.elapsed_ns / 1e6,
    })  # fmt: skip


def _bytes(response: Response) -> bytes:
    body = response.body
    if isinstance(body, (bytes, str)):
        return body if isinstance(body, bytes) else body.encode()
    return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in body or ())
