"""Sentences that were not made for the page: those of the ledger, of model packages, of errors, of what is wrong.

They are English, and whole: with names and numbers in them. Here each is recognized by its form (`sentences.FORMS`) and
said anew in the reader's language. It is all or nothing: a text of several sentences of which one is not known stays as
it is, and is marked as English, so that nobody reads half of a warning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache, lru_cache

from markupsafe import Markup, escape

from appliance.errors import ApplianceError
from appliance.web import language
from appliance.web.sentences import FORMS

_PLACE = re.compile(r"%\((\w+)\)s")
_BETWEEN = re.compile(r"(?<=[.!?:;,]) (?=\S)")
_MOMENT = "%A %d %b %Y, %H:%M"  # as appliance.drift.cause.moment writes it
# What may stand in a place, by its name. A name or a person's words hold no other sentence.
_LOOKS = {
    "number": "[-+]?[0-9.,]*[0-9]",
    "address": "[0-9a-fA-F.:]+",
    "call": "[ -~]{1,16}",
    "codes": "[A-Z0-9x, ]+",
    "date": r"\d{4}-\d\d-\d\d(?: \d\d:\d\d)?",
    "moment": r"\w+ \d+ \w+ \d+, \d\d:\d\d",
    "module": r"\w+",
    "package": r"\S+ \d[\w.]*",
    "peer": r"\S+",
    "said": ".+?",
    "socket": r"\S+:\d+",
    "tls": r"TLSv[\d.]+, [A-Z0-9_-]+",
    "storage": r"[A-Z0-9][\w-]*(?: [A-Z0-9][\w-]*)*",
}
_LONGEST, _DEEPEST, _MOST_TRIES = 2000, 12, 200
_NAME = r"(?:(?!\. [A-Z]).)+?"


def told(text: str) -> str:
    """A recorded text in the language of the request, or as it is where it is not known."""
    return translated(language.current(), text) or text


def said(text: str, most: int | None = None) -> Markup:
    """The same as HTML, which marks what stays English; of more than ``most`` letters the first ones."""
    name = language.current()
    if not text or name == language.LANGUAGES[0]:
        return escape(_shortened(text, most))
    found = translated(name, text)
    if found is not None:
        return escape(_shortened(found, most))
    return Markup('<span lang="en">{}</span>').format(_shortened(text, most))


def listed(texts: Sequence[str], most: int) -> Markup:
    """Several in a row; of more than ``most`` letters the first ones."""
    pieces: list[Markup] = []
    for text in texts:
        if most > 0:
            pieces.append(said(text, most))
            most -= len(text)
    return Markup("; ").join(pieces)


def _shortened(text: str, most: int | None) -> str:
    return text if most is None or len(text) <= most else f"{text[: most - 1].rsplit(' ', 1)[0]}…"


def of_error(error: ApplianceError) -> Markup:
    """What happened, and what to do next, as a whole sentence."""
    return said(sentence(f"{error.message}: {error.hint}" if error.hint else error.message))


def not_kept(error: ApplianceError) -> Markup:
    """That the disk or the ledger has not taken what was sent, so that it is sent again."""
    return said(f"This was not kept: {error}. Go back and send it again.")


def sentence(text: str) -> str:
    """With a capital letter and a full stop."""
    text = upper_first(text)
    return text if text.endswith((".", "!", "?")) else f"{text}."


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


@lru_cache(maxsize=8192)
def translated(name: str, text: str) -> str | None:
    """All of a text in another language; None where a part of it is not known there."""
    if name == language.LANGUAGES[0]:
        return text
    return _Translation(name).text(text) if len(text) <= _LONGEST else None


class _Translation:
    """One text on its way into another language. What headers and peers may have put into it makes it give up early:
    a text that is nested deeper, or can be taken apart in more ways, than any of ours is not known."""

    def __init__(self, name: str) -> None:
        self._words = language.catalog(name).gettext
        self._left = _MOST_TRIES
        self._depth = 0
        self._known: dict[str, str | None] = {}

    def text(self, text: str) -> str | None:
        """Of one sentence or several."""
        if text not in self._known:
            self._known[text] = None
            if self._depth < _DEEPEST:
                self._depth += 1
                self._known[text] = self._taken_apart(text)
                self._depth -= 1
        return self._known[text]

    def _taken_apart(self, text: str) -> str | None:
        whole = self._sentence(text)
        if whole is not None:
            return whole
        for place in reversed([found.start() for found in _BETWEEN.finditer(text)]):
            first = self._sentence(text[:place])
            rest = self.text(text[place + 1 :]) if first is not None else None
            if rest is not None:
                return f"{first} {rest}"
        return None

    def _sentence(self, text: str) -> str | None:
        """Whether or not it begins with a capital letter and ends with a mark."""
        ends = [(text, "")] + ([(text[:-1], text[-1])] if text.endswith((".", ",", ";", ":")) else [])
        for words, end in ends:
            for each in dict.fromkeys((words, _lower_first(words), upper_first(words))):
                found = self._form(each)
                if found is not None:
                    return (upper_first(found) if text[:1].isupper() else found) + end
        return None if re.search("[a-z]", text) else text  # codes are the same everywhere

    def _form(self, text: str) -> str | None:
        if self._left == 0:
            return None
        self._left -= 1
        for form, words in _forms():
            match = _pattern(form).fullmatch(text) if words in text else None
            if match is None:
                continue
            values = {place: self._value(place, value) for place, value in match.groupdict().items()}
            if None not in values.values():
                return self._words(form) % values
        return None

    def _value(self, place: str, value: str) -> str | None:
        """What stands in a place: ``said`` is another sentence, ``number`` a number, ``date`` and ``moment`` a time,
        all else a name."""
        if place.startswith("said"):
            return self.text(value)
        if place.startswith("number"):
            return value.translate(str.maketrans(".,", ",."))
        if place.startswith("date"):
            day, _, clock = value.partition(" ")
            return f"{'.'.join(reversed(day.split('-')))} {clock}".strip()
        if place.startswith("moment"):
            try:
                return datetime.strptime(value, _MOMENT).strftime("%d.%m.%Y, %H:%M")
            except ValueError:
                return None
        return value


@cache
def _forms() -> list[tuple[str, str]]:
    """All, those with the most words of their own first, and the longest of these, which tells most texts apart."""
    ordered = sorted(FORMS, key=lambda form: (-len(_PLACE.sub("", form)), form))
    return [(form, max(_own(form), key=len)) for form in ordered]


@cache
def _pattern(form: str) -> re.Pattern[str]:
    return re.compile("".join(_pieces(form)), re.DOTALL)


def _own(form: str) -> list[str]:
    """The words of a form, between its places."""
    return [words.replace("%%", "%") for words in _PLACE.split(form)[::2]]


def _pieces(form: str) -> Iterator[str]:
    for number, piece in enumerate(_PLACE.split(form)):
        if number % 2 == 0:
            yield re.escape(piece.replace("%%", "%"))
        else:
            looks = next((each for kind, each in _LOOKS.items() if piece.startswith(kind)), _NAME)
            yield f"(?P<{piece}>{looks})"
