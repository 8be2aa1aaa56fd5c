"""Sentences without what was filled into them: only the words that stand in this program's own source.

Errors and log lines are made of sentences of the source and of values: of a header, of a file's name, of what a peer
has answered. What is to leave the device must hold none of these values, and no list of what to remove is ever
complete. So it is the other way round: a text is looked up among the sentences of the source, and these are given,
with an ellipsis for each value. A text that is none of them is not given at all.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

GAP = "\N{HORIZONTAL ELLIPSIS}"
_FEWEST_LETTERS = 8  # of a sentence, besides what is filled in: less could be anybody's
_DEEPEST = 4  # of errors that quote errors
_LONGEST = 4000
_VALUE = re.compile(r"%(?:\(\w+\))?[-#0 +]*(?:\d+|\*)?(?:\.\d+)?[diouxXeEfFgGcrsa]")
_STATUS = re.compile(r"[0-9A-F]{4}\b")  # of a DICOM answer, behind 0x
_JOINTS = ("; ", ": ", ". ", " (", ", ")


@cache
def _sentences() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Of every module of the appliance: what is told of it, and the texts that it is; the longest first."""
    found: dict[str, re.Pattern[str]] = {}
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for pieces in _texts(ast.parse(path.read_text())):
            if sum(each.isalpha() for piece in pieces for each in piece) >= _FEWEST_LETTERS:
                pattern = "(.*?)".join(re.escape(piece) for piece in pieces)
                found.setdefault(GAP.join(pieces), re.compile(pattern, re.DOTALL))
    return tuple(sorted(found.items(), key=lambda each: -len(each[0])))


def _texts(tree: ast.AST) -> Iterator[list[str]]:
    """Each text as the pieces between the values that are filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            pieces = [""]
            for part in node.values:
                if isinstance(part, ast.Constant):
                    pieces[-1] += str(part.value)
                else:
                    pieces.append("")
            yield pieces
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value:
            yield _VALUE.split(node.value)


def own_words(text: str, depth: int = 0) -> str:
    """The text with an ellipsis for whatever was filled in; an ellipsis alone where it is none of this program's."""
    text = text[:_LONGEST].strip()
    if not text:
        return ""
    for _, pattern in _sentences():
        match = pattern.fullmatch(text)
        if match:
            return _filled(match, depth)
    if depth < _DEEPEST:
        for joint in _JOINTS:
            if joint in text:
                first, rest = text.split(joint, 1)
                parts = own_words(first, depth + 1), own_words(rest, depth + 1)
                if parts != (GAP, GAP):
                    return joint.join(parts)
    return GAP


def _filled(match: re.Match[str], depth: int) -> str:
    """The sentence, with those values told that are sentences themselves."""
    text, told, at = match.group(0), [], match.start()
    for number in range(1, match.re.groups + 1):
        begin, end = match.span(number)
        value = match.group(number)
        told.append(text[at:begin])
        told.append(_value(value, text[:begin], depth) if value else "")
        at = end
    return "".join([*told, text[at:]])


def _value(value: str, before: str, depth: int) -> str:
    status = _STATUS.match(value) if before.endswith("0x") else None
    if status:
        return status.group() + (GAP if value[4:] else "")
    return own_words(value, depth + 1) if depth < _DEEPEST else GAP
