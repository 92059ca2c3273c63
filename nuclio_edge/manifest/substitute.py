"""The placeholders of a manifest: {device.name}, {device.id}, {device.namespace}, {device.labels.NAME}.

Only what begins with `{device.` is one; every other brace is the user's own (payloads are often JSON).
"""

from __future__ import annotations

from nuclio_edge.manifest.problems import key_text, nearest, quote, suggest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from nuclio_edge.manifest.problems import KeyPath, Report

_OPENS = "{device."
_LABEL = "device.labels."


class Words:
    """What each placeholder stands for, as far as it is known yet: a device's name may hold its id, not the reverse."""

    __slots__ = ("known",)

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known

    def fill(self, text: str, path: KeyPath, report: Report, wildcards: str = "") -> str | None:
        """Return the text with its placeholders replaced.

        None after reporting one that is unknown, or that brings a wildcard: the address would be wider than it reads.
        """
        at = text.find(_OPENS)
        if at < 0:
            return text
        done: list[str] = []
        last, good = 0, True
        while at >= 0:
            end = text.find("}", at)
            inner = text[at + 1 : end] if end > 0 else text[at + 1 :]
            word = self.known.get(inner)
            if end < 0:
                report.error(path, "E120", "the brace before device. is not closed", "write e.g. {device.name}")
                good = False
            elif word is None:
                self._unknown(inner, path, report)
                good = False
            elif brought := [char for char in wildcards if char in word]:
                message = f"{{{inner}}} is {quote(word)}, whose {brought[0]} would be a wildcard here"
                report.error(path, "E304", message, f"what {inner} is must not hold it, or write the wildcard itself")
                good = False
            else:
                done += (text[last:at], word)
                last = end + 1
            at = text.find(_OPENS, at + 1)
        return "".join(done) + text[last:] if good else None

    def _unknown(self, inner: str, path: KeyPath, report: Report) -> None:
        if inner.startswith(_LABEL):
            label = inner.removeprefix(_LABEL)
            near = nearest(label, [name.removeprefix(_LABEL) for name in self.known if name.startswith(_LABEL)])
            there = f"[device] has no label of this name: labels = {{ {key_text((label,))} = … }}"
            hint = there if near is None else f"did you mean {quote(_LABEL + near)}?"
        else:
            hint = suggest(inner, self.known) or "known here: " + ", ".join(f"{{{name}}}" for name in self.known)
        report.error(path, "E120", f"{{{quote(inner)[1:-1]}}} stands for nothing", hint)
