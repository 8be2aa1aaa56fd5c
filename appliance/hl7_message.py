"""An HL7 v2 message that somebody sends: its segments and fields, and its acknowledgment (HL7 v2.5.1 chapter 2)."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from appliance.errors import DiagnosisError

Reply = Literal["AA", "AE", "AR"]
# Table 0357, those that are used here.
CONDITIONS = {
    "100": "Segment sequence error", "101": "Required field missing", "102": "Data type error",
    "200": "Unsupported message type", "202": "Unsupported processing id", "207": "Application internal error",
}  # fmt: skip
BLOCK_BEGIN, BLOCK_END = b"\x0b", b"\x1c"  # of the Minimal Lower Layer Protocol, then a carriage return
_NAMES = "FSRET"  # of the delimiters |^~\\& in escape sequences
_ESCAPED = re.compile(r"\\([FSTRE])\\")
_LONGEST_WORDS = 250
_LAST_FIELD = 20  # of MSH that is looked at


@dataclass(frozen=True)
class Segment:
    """``fields[0]`` is its name. Of MSH, whose first field is the separator itself, a field stands one place further to
    the left than HL7 counts; `Message` knows."""

    fields: list[str]
    delimiters: str

    @property
    def name(self) -> str:
        return self.fields[0]

    def field(self, place: int, part: int = 0) -> str:
        """A component of a field's first repetition, the first component being 0; '' where it isn't there."""
        parts = self.parts(place)
        return parts[part] if part < len(parts) else ""

    def parts(self, place: int) -> list[str]:
        """All components of a field's first repetition."""
        if place >= len(self.fields):
            return []
        first = self.fields[place].split(self.delimiters[2])[0]
        return [self._plain(each) for each in first.split(self.delimiters[1])]

    def _plain(self, text: str) -> str:
        """Without escape sequences of delimiters (section 2.7.1), whatever the escape character is."""
        escape, meant = self.delimiters[3], dict(zip(_NAMES, self.delimiters, strict=True))
        plain = text.replace(escape, "\\") if escape != "\\" else text
        return _ESCAPED.sub(lambda found: meant[found[1]], plain).strip()


@dataclass(frozen=True)
class Message:
    """A message; the first of its segments is MSH."""

    segments: list[Segment]

    @classmethod
    def of(cls, lines: list[str]) -> Message:
        """Raises `DiagnosisError` where MSH does not say what its delimiters are."""
        head = lines[0]
        bar, marks = head[3:4], head[4:8]
        if len({bar, *marks}) < len("|^~\\&") or any(each.isalnum() for each in (bar, *marks)):
            raise DiagnosisError("its MSH segment does not say what its delimiters are: write MSH|^~\\&|")
        return cls([Segment(line.split(bar), bar + marks) for line in lines])

    def header(self, number: int, part: int = 0) -> str:
        """MSH-``number``."""
        return self.segments[0].field(number - 1, part)

    @property
    def kind(self) -> str:
        """MSH-9, as in ORU^R01."""
        return "^".join(self.segments[0].parts(8)[:2])

    @property
    def control_id(self) -> str:
        return self.header(10)

    @property
    def processing_id(self) -> str:
        """MSH-11: P for production; T and D are trials."""
        return self.header(11)

    def acknowledge(self, reply: Reply, condition: str = "", words: str = "") -> bytes:
        """The answer to whoever has sent it, as bytes in UTF-8, without a frame.

        In the enhanced mode that asks for no answer of the application (MSH-16 NE) the same is said as CA, CE or CR.

        Parameters
        ----------
        condition
            Of `CONDITIONS`, where the message is not accepted, with ``words`` for people.
        """
        head = self.segments[0]
        fields, marks = [*head.fields, *([""] * _LAST_FIELD)], head.delimiters
        bar, component = marks[0], marks[1]
        enhanced = self.header(15) and self.header(16) == "NE"
        said = _escaped(words, marks)
        kind = component.join(("ACK", *head.parts(8)[1:2], "ACK"))
        # In the sender's own delimiters, so that its fields go back as they came.
        lines = [
            ["MSH", marks[1:], *fields[4:6], *fields[2:4], time.strftime("%Y%m%d%H%M%S%z"), "", kind,
             f"{time.time_ns():x}", fields[10] or "P", fields[11] or "2.5.1", "", "", "", "", "", "UNICODE UTF-8"],
            ["MSA", f"C{reply[1]}" if enhanced else reply, fields[9], said],
        ]  # fmt: skip
        if condition:
            named = component.join((condition, CONDITIONS[condition], "HL70357"))
            lines.append(["ERR", "", "", named, "E", "", "", "", said])
        return "".join(f"{bar.join(line).rstrip(bar)}\r" for line in lines).encode()


def split(content: bytes) -> Iterator[list[str]]:
    """The lines of each message in a file or a frame; what precedes the first MSH, as a batch's header, is skipped."""
    text = text_of(content).replace(BLOCK_BEGIN.decode(), "\r").replace(BLOCK_END.decode(), "\r").replace("\n", "\r")
    lines: list[str] = []
    for line in (each.strip(" \t") for each in text.split("\r")):
        if line.startswith("MSH"):
            if lines:
                yield lines
            lines = [line]
        elif line and lines:
            lines.append(line)
    if lines:
        yield lines


def text_of(content: bytes) -> str:
    """UTF-8, or else Latin-1: what is compared are codes, numbers and names of findings."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _escaped(words: str, delimiters: str) -> str:
    escape, names = delimiters[3], dict(zip(delimiters, _NAMES, strict=True))
    plain = "".join(" " if unicodedata.category(each) in ("Cc", "Zl", "Zp") else each for each in words)
    return "".join(f"{escape}{names[each]}{escape}" if each in names else each for each in plain[:_LONGEST_WORDS])
