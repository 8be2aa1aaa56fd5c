"""How the page writes numbers, times, sizes and names, in the reader's language; the filters of the templates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, timedelta, timezone
from typing import Any

import msgspec
from markupsafe import Markup
from werkzeug.exceptions import HTTPException

from appliance.drift.streams import BY_NAME
from appliance.reading_order import of_rank
from appliance.result import Finding, Segment, rounded_percent
from appliance.web import language, recorded
from appliance.web.advice import next_step
from appliance.web.language import gettext as _
from appliance.web.telling import Trend

_DAYS = {"en": "%Y-%m-%d", "de": "%d.%m.%Y"}
_POINT_AND_COMMA = str.maketrans(".,", ",.")
_NO_BREAK = "\N{NO-BREAK SPACE}"


def in_figures(written: str) -> str:
    """Digits as English writes them, as the reader's language does: its decimal sign, its groups of thousands."""
    return written.translate(_POINT_AND_COMMA) if language.current() == "de" else written


def number(value: float, digits: int = 0, sign: bool = False) -> str:
    """With so many digits behind the decimal sign; thousands are grouped."""
    return in_figures(f"{value:{'+' if sign else ''},.{digits}f}")


def significant(value: float, digits: int) -> str:
    """With so many digits that tell something."""
    return in_figures(f"{value:.{digits}g}")


def percent(share: float) -> str:
    return in_figures(rounded_percent(share)).replace(" ", _NO_BREAK)


def day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime(_DAYS[language.current()])


def moment(seconds: float | None) -> str:
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds).astimezone().strftime(f"{_DAYS[language.current()]} %H:%M:%S")


def zone(seconds: float) -> str:
    """In which this device's clock goes: ``UTC``, ``UTC+02:00``."""
    return str(timezone(datetime.fromtimestamp(seconds).astimezone().utcoffset() or timedelta()))


def taken(stated: str) -> str:
    """When an image was taken, by its header: ISO 8601, or only the beginning of it."""
    written, _, time = stated.partition("T")
    with suppress(ValueError):
        written = datetime.strptime(written, _DAYS["en"]).strftime(_DAYS[language.current()])
    return f"{written} {time}".strip()


def proved(stated: str) -> str:
    """When a receipt was made, by itself (ISO 8601): by this device's clock."""
    return moment(datetime.fromisoformat(stated).timestamp())


def day_or_moment(begin: date) -> str:
    """Of a column of a chart: its day, or of a datetime the moment, without the year."""
    moments = isinstance(begin, datetime)
    forms = {"en": ("%-d %b %Y", "%-d %b, %H:%M"), "de": ("%d.%m.%Y", "%d.%m., %H:%M")}
    return begin.strftime(forms[language.current()][moments])


def clock(seconds: float, with_day: bool) -> str:
    """At the axis of a chart."""
    days = {"en": "%b %d %H:%M", "de": "%d.%m. %H:%M"}[language.current()]
    return datetime.fromtimestamp(seconds).strftime(days if with_day else "%H:%M")


def ago(seconds: float | None) -> str:
    """A duration in words, to its two largest units."""
    if seconds is None:
        return ""
    left = int(seconds)
    words: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not words):
            words.append(f"{count} {unit}")
    return " ".join(words[:2])


def size(count: float) -> str:
    return f"{number(count / 1024**3, 1)} GB" if count >= 1024**3 else f"{number(count / 1024**2)} MB"


def kind(name: str) -> str:
    """A kind of result, for people; ``assessment_2``: the second document of what readers said of one."""
    if name.startswith("assessment"):
        return " ".join([_("Assessment"), *name.split("_")[1:]])
    words = {"hl7_oru": "HL7 message", "fhir_bundle": "FHIR bundle"}.get(name) or name.replace("_", " ").capitalize()
    return recorded.told(words)


def point(name: str) -> str:
    """An operating point, for people."""
    return recorded.told(name.replace("_", " "))


def reported_as(finding: dict[str, Any]) -> str:
    """``present``, ``absent`` or ``indeterminate``."""
    return msgspec.convert(finding, Finding).reported_as


def extent(segment: dict[str, Any]) -> str:
    """How large a segment is, in words."""
    return recorded.told(msgspec.convert(segment, Segment).size)


def color(segment: dict[str, Any] | Trend) -> str:
    """As SVG and HTML take it."""
    found = segment.color if isinstance(segment, Trend) else segment["color"]
    return "#{:02x}{:02x}{:02x}".format(*found)


def tier(row: dict[str, Any]) -> str:
    """Of a row of the ledger: how confident the model is of an urgent finding."""
    return of_rank(row["reading_rank"])[1]


def stream_title(name: str) -> str:
    """Of a stream that is watched for drift, for the middle of a sentence."""
    return lower_first(recorded.told(BY_NAME[name].title))


def lower_first(text: str) -> str:
    """For the middle of a sentence; German nouns keep their capitals."""
    return text if language.current() == "de" else text[:1].lower() + text[1:]


def described(error: HTTPException) -> Markup | str:
    """What an error says: what the page has written for it, or the words that its kind has."""
    text = error.description or ""
    return recorded.said(text) if text == type(error).description else text


FILTERS: dict[str, Callable[..., Any]] = {
    "number": number,
    "significant": significant,
    "percent": percent,
    "day": day,
    "moment": moment,
    "zone": zone,
    "taken": taken,
    "proved": proved,
    "ago": ago,
    "size": size,
    "kind": kind,
    "point": point,
    "reported_as": reported_as,
    "extent": extent,
    "color": color,
    "tier": tier,
    "stream_title": stream_title,
    "lower_first": lower_first,
    "next_step": next_step,
    "described": described,
    "sentence": recorded.sentence,
    "listed": recorded.listed,
    "upper_first": recorded.upper_first,
    "said": recorded.said,
    "told": recorded.told,
}
