"""What the worklist's address says: which rows, and which page of them. And the way back, from these to an address."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from urllib.parse import urlencode

from flask import abort
from werkzeug.datastructures import MultiDict

from appliance.store import STATES
from appliance.web.language import gettext as _
from appliance.web.language import marked
from appliance.worklist_store import Cursor, Filter

FINDINGS = {
    "urgent": marked("urgent"),
    "positive": marked("present"),
    "indeterminate": marked("unsure"),
    "negative": marked("absent"),
    "outlined": marked("outlined only"),
}
_LONGEST_SEARCH = 200
_KEYS = ("q", "state", "finding", "modality", "from", "since", "until", "unreviewed", "unassessed")


@dataclass(frozen=True)
class Asked:
    """The worklist that an address asks for.

    Attributes
    ----------
    chosen
        The filter as the address has it, without what is empty.
    """

    filter: Filter
    chosen: dict[str, str]
    after: Cursor | None
    before: Cursor | None

    def url(self, path: str = "/", **changed: str) -> str:
        """This filter's address from its first page on, with other values of some keys."""
        return _url(path, {**self.chosen, **changed})

    @property
    def fragment_url(self) -> str:
        """Of the part of the page that changes: the same filter, the same page."""
        place = {"after": _text(self.after), "before": _text(self.before)}
        return _url("/worklist.fragment", {**self.chosen, **place})

    def older(self, cursor: Cursor) -> str:
        return _url("/", {**self.chosen, "after": _text(cursor)})

    def newer(self, cursor: Cursor) -> str:
        return _url("/", {**self.chosen, "before": _text(cursor)})


def asked(arguments: MultiDict[str, str], patients: bool) -> Asked:
    """What an address asks for; an answer with 400 where it can't be understood."""
    chosen = {key: value.strip() for key in _KEYS if (value := arguments.get(key, "")).strip()}
    state, finding = chosen.get("state", ""), chosen.get("finding", "")
    if state and state not in STATES:
        abort(400, _("There is no state %(state)r. There are %(known)s.", state=state, known=", ".join(STATES)))
    if finding and finding not in FINDINGS:
        known = ", ".join(FINDINGS)
        abort(
            400, _("There is no finding %(finding)r to filter by. There are %(known)s.", finding=finding, known=known)
        )
    if len(chosen.get("q", "")) > _LONGEST_SEARCH:
        abort(400, _("What is searched for has %(most)s letters at most.", most=_LONGEST_SEARCH))
    begin, end = _midnight(chosen.get("since")), _midnight(chosen.get("until"), days=1)
    wanted = Filter(
        state=state,
        finding=finding,
        modality=chosen.get("modality", ""),
        sender=chosen.get("from", ""),
        begin=begin,
        end=end,
        unreviewed="unreviewed" in chosen,
        unassessed="unassessed" in chosen,
        search=chosen.get("q", ""),
        patients=patients,
    )
    return Asked(wanted, chosen, _cursor(arguments.get("after")), _cursor(arguments.get("before")))


def _midnight(text: str | None, days: int = 0) -> float | None:
    """The beginning of a day, or of one some days later, by the device's clock, in seconds since 1970."""
    if text is None:
        return None
    try:
        day = date.fromisoformat(text) + timedelta(days=days)
        return datetime.combine(day, time()).astimezone().timestamp()
    except (ValueError, OverflowError):
        abort(400, _("%(text)r is no date. Write it as in 2026-01-31.", text=text))


def _text(cursor: Cursor | None) -> str:
    return f"{cursor.place}_{cursor.received_at!r}_{cursor.id}" if cursor is not None else ""


def _cursor(text: str | None) -> Cursor | None:
    if not text:
        return None
    try:
        place, received_at, identifier = text.split("_")
        found = Cursor(int(place), float(received_at), int(identifier))
    except ValueError:
        abort(400, _("This address names no page of the worklist."))
    if not abs(found.received_at) < 1e15 or max(abs(found.place), abs(found.id)) >= 1 << 63:
        abort(400, _("This address names no page of the worklist."))
    return found


def _url(path: str, values: dict[str, Any]) -> str:
    query = urlencode({key: value for key, value in values.items() if value})
    return f"{path}?{query}" if query else path
