"""The audit trail of the page: a record of every view and act, by one hook.

What open pages ask for by themselves (``automatic``, and whatever answers "not modified") would hide the rest: it is
recorded once in ten minutes for each session and object. Styles, scripts and `/healthz` tell nothing and are left out.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any

from flask import Flask, Response, abort, current_app, g, request

from appliance.audit import Event, Record, Trail
from appliance.web.language import gettext as _
from appliance.web.rights import is_automatic

_AGAIN_SECONDS = 600.0
_MOST_REMEMBERED = 10_000
_LONGEST = 64  # letters of a value of an address
_SILENT = ("static", "views.healthz")
_ALWAYS = ("people.login", "people.logout")  # while nothing can be recorded: whoever mends it has to log in
_EVENTS: dict[str, Event] = {
    "views.result_file": "download",
    "custody.export": "download",
    "device.support_bundle": "download",
    "arrivals.upload": "upload",
    "box.hand_over": "upload",
    "arrivals.stow": "transfer_end",
}
_TARGETS = {"identifier": "image", "number": "image"}
# What of one's own doing is not a view or an act; see `note`.
_NOTED: dict[str, Event] = {"login": "login", "logout": "logout", "lock_out": "lock_out"}


class _Repeats:
    """What was recorded of late, so that it is not again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: OrderedDict[tuple[str, ...], float] = OrderedDict()

    def is_new(self, key: tuple[str, ...]) -> bool:
        now = time.monotonic()
        with self._lock:
            if now - self._at.get(key, -_AGAIN_SECONDS) < _AGAIN_SECONDS:
                return False
            self._at[key] = now
            self._at.move_to_end(key)
            while len(self._at) > _MOST_REMEMBERED:
                self._at.popitem(last=False)
            return True


def keep(app: Flask, trail: Trail) -> None:
    """Record every request; to be called after `appliance.web.auth.protect`, so that strangers provoke nothing."""
    app.config["SCANSIDE_TRAIL"] = trail
    repeats = _Repeats()

    @app.before_request
    def refuse_the_unrecorded() -> None:
        """What can't be recorded is not done; looking goes on, and says so."""
        if request.method in ("GET", "HEAD", "OPTIONS") or request.endpoint in _ALWAYS:
            return
        if not trail.check():
            said = _("Nothing can be changed, since the audit trail can't be written: %(why)s.", why=trail.problem)
            abort(503, said)

    @app.after_request
    def record(response: Response) -> Response:
        if request.endpoint in _SILENT:
            return response
        made = _record(response)
        same = (made.person, made.how, made.address, made.event, made.action, made.target, made.detail)
        if _repeats(made, response) and not repeats.is_new(same):
            return response
        trail.append(made, flushed=made.event not in ("view", "refused"))
        return response


def note(what: str, who: str | None = None, target: str = "", failed: bool = False) -> None:
    """Say what the present request does, where its route does not tell.

    Parameters
    ----------
    who
        Whom it is about, where that is not whoever is logged in.
    """
    g.noted = {"what": what, "who": who, "target": target, "failed": failed}


def _repeats(made: Record, response: Response) -> bool:
    """Whether a record may be one of many that say the same."""
    by_itself = is_automatic(current_app, request)
    stranger = made.event == "refused" and not made.person
    return by_itself or stranger or response.status_code == 304


def _record(response: Response) -> Record:
    noted: dict[str, Any] = g.get("noted", {})
    status = response.status_code
    event = _NOTED.get(noted.get("what", ""), _event(status))
    who = noted.get("who")
    transfer, since = g.get("transfer", ("", 0.0))
    known = who is None or who == g.get("person", "")
    return Record(
        at=time.time(),
        event=event,
        action=noted.get("what") or _action(),
        failed=bool(noted.get("failed")) or status >= 400 or bool(g.get("asked")),
        person=g.get("person", "") if who is None else who,
        role=g.get("role", "") if known else "",
        how=g.get("how", "") if known else "",
        address=request.remote_addr or "",
        target=f"transfer {transfer}" if transfer else noted.get("target") or _target(),
        detail=str(status),
        since=since,
    )


def _event(status: int) -> Event:
    endpoint = request.endpoint or ""
    if status in (401, 403, 429) or g.get("asked"):
        return "refused"
    if endpoint.startswith("people.") and request.method == "POST":
        return "account"
    if endpoint in _EVENTS:
        return _EVENTS[endpoint]
    return "view" if request.method in ("GET", "HEAD", "OPTIONS") else "act"


def _action() -> str:
    """Method and route, without what varies in it: an address that is none may hold anything."""
    rule = request.url_rule
    return f"{request.method} {rule.rule if rule is not None else '(no such page)'}"


def _target() -> str:
    arguments = request.view_args or {}
    return " ".join(f"{_TARGETS.get(name, name)} {value!s:.{_LONGEST}}" for name, value in arguments.items())
