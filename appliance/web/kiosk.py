"""A screen for a wall: how much waits and how the device is, in figures to be read from 3 m. Nothing of a patient."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response, abort, current_app, g, jsonify, redirect, render_template
from werkzeug.wrappers import Response as BaseResponse

from appliance.health import health
from appliance.safe_mode import LEVEL_WORDS
from appliance.safe_mode_store import SafeModeStore
from appliance.waiting_store import WaitingStore
from appliance.web import here, recorded
from appliance.web.formats import lower_first
from appliance.web.language import gettext as _
from appliance.web.rights import may, needs

blueprint = Blueprint("kiosk", __name__)

_LEAST_FREE = 0.05  # of the disk


@blueprint.get("/kiosk")
@needs("open")
def kiosk() -> str | BaseResponse:
    if not _may_look():
        g.asked = True
        return redirect("/login?next=/kiosk")
    return render_template("kiosk.html", figures=_figures())


@blueprint.get("/kiosk.json")
@needs("open", automatic=True)
def figures() -> Response:
    if not _may_look():
        abort(401, _("Log in, or set web.kiosk = 'open'."))
    return jsonify(_figures())


def _may_look() -> bool:
    config = here.config()
    if config.web.kiosk == "off":
        abort(404, _("This device shows nothing on a wall (web.kiosk)."))
    if current_app.config["SCANSIDE_GATE"].unclaimed:
        return False
    return config.web.kiosk == "open" or may("see")


def _figures() -> dict[str, Any]:
    """What the screen shows: ``first`` (to be read first), ``oldest_seconds`` of it, ``waiting`` (not read by the model
    yet), ``done``, ``trouble`` (failed or quarantined), ``undelivered``, and ``alarms``, the worst one first."""
    store = here.store()
    config = here.config()
    found = health(config, store)
    counts = found["counts"]
    waiting = WaitingStore(config.ledger_path, read_only=True)
    try:
        first = waiting.read_first()
    finally:
        waiting.close()
    return {
        "first": first["count"],
        "oldest_seconds": round(time.time() - first["oldest"]) if first["oldest"] else None,
        "waiting": counts["received"] + counts["claimed"],
        "done": counts["written"] + counts["delivered"],
        "trouble": counts["failed"] + counts["quarantined"],
        "undelivered": store.undelivered_count(),
        "alarms": _alarms(found),
        "at": time.time(),
    }


def _alarms(found: dict[str, Any]) -> list[str]:
    """What is wrong, in few words."""
    components, alarms = found["components"], []
    worker = components.get("worker", {})
    if not found["running"]:
        alarms.append(_("The appliance is not running"))
    elif worker.get("state") == "waiting":
        alarms.append(_("Nothing is read at the moment"))
    elif worker.get("stale"):
        alarms.append(_("The reader does not answer"))
    silent = components.get("silence", {}).get("silent", ())
    alarms += [_("%(ae_title)s is silent", ae_title=each["ae_title"]) for each in silent]
    failing = [each for each in found["destinations"] if each["failing_since"] and each["configured"]]
    alarms += [
        _("%(destination)s can't be reached", destination=each["destination"])
        if each["failures"]
        else _("%(destination)s takes nothing", destination=each["destination"])
        for each in failing
    ]
    if found["disk"]["free"] < _LEAST_FREE * found["disk"]["total"]:
        alarms.append(_("The disk is almost full"))
    store: SafeModeStore = current_app.config["SCANSIDE_SAFE_MODE"]
    if force := store.in_force():
        alarms.insert(0, _("Safe mode: %(effect)s", effect=lower_first(recorded.told(LEVEL_WORDS[force[0].level]))))
    return alarms
