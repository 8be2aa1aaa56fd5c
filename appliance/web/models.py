"""The page of models: which package reads, the way back, the one in shadow, and what must not regress."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, abort, current_app, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from appliance import errand, installed
from appliance.config import Config
from appliance.errors import ApplianceError, SpoolError
from appliance.package import Package
from appliance.package_store import PackageStore
from appliance.shadow import report as reports
from appliance.shadow.report import Report
from appliance.shadow.store import ShadowStore
from appliance.way_back import way_back
from appliance.web import formats, here, recorded
from appliance.web.errands import Errands
from appliance.web.language import gettext as _
from appliance.web.language import marked, translated
from appliance.web.rights import current_person, needs
from appliance.web.trail import note

blueprint = Blueprint("models", __name__)

_KINDS = {
    "switch": marked("switched"),
    "promotion": marked("promoted from shadow"),
    "rollback": marked("rolled back"),
    "fallback": marked("fell back by itself"),
}
_TITLE = marked("Rollback")
_WAIT_SECONDS = 20.0  # for a rollback, which takes a second or two where a receipt is there


@dataclass(frozen=True)
class Reading:
    """What is in force of a model, and the way back.

    ``backends``: which serve it now; ``back``: the package that a rollback brings, None for none of the model;
    ``no_way``: why there is no rollback.
    """

    in_force: installed.InForce
    backends: list[str]
    back: Package | None = None
    no_way: ApplianceError | None = None


class _Reports:
    """The latest report of a shadow, made anew where it has read more, or readers have said more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[str, Report] | None = None

    def of(self, config: Config, store: ShadowStore) -> Report | None:
        mark = store.mark()
        if not mark:
            return None
        with self._lock:
            if self._kept is None or self._kept[0] != mark:
                self._kept = mark, reports.make(config, store)
            return self._kept[1]


@blueprint.record_once
def _prepare(state: object) -> None:
    app = state.app  # type: ignore[attr-defined]
    app.config["SCANSIDE_CHANGES"] = Errands(app.config["SCANSIDE"])
    app.config["SCANSIDE_SHADOW_REPORTS"] = _Reports()


def _changes() -> Errands:
    found: Errands = current_app.config["SCANSIDE_CHANGES"]
    return found


@blueprint.get("/models")
@needs("operate")
def models() -> str:
    config = here.config()
    packages = PackageStore(config.ledger_path, read_only=True)
    shadows = ShadowStore(config.ledger_path, read_only=True)
    try:
        choices, change = packages.choices(), _changes().latest.get(errand.ROLLBACK)
        if change is not None and choices and choices[0]["chosen_at"] > (change.ended_at or math.inf):
            change = None  # what it has brought is no longer so
        return render_template(
            "models.html",
            readings=_readings(config),
            installed=_installed(config, packages),
            choices=choices,
            kinds=translated(_KINDS),
            cases=packages.cases(),
            shadow=current_app.config["SCANSIDE_SHADOW_REPORTS"].of(config, shadows),
            shadows=shadows.shadows(),
            p_value=reports.p_value,
            figures=formats.in_figures,
            change=change,
        )
    finally:
        packages.close()
        shadows.close()


@blueprint.post("/models/rollback")
@needs("administer")
def rollback() -> BaseResponse:
    """Have the former package read again; the page shows what became of it."""
    model, why = request.form.get("model", ""), request.form.get("why", "").strip()
    by = current_person() or request.form.get("by", "").strip()
    note("POST /models/rollback", target=f"package {model[:64]}")
    if not by or not why:
        abort(400, _("Say who goes back, and why: both are kept."))
    try:
        latest, _former = way_back(here.config(), model)
    except SpoolError as error:
        abort(503, recorded.not_kept(error))
    except ApplianceError as error:
        abort(409, recorded.of_error(error))
    if request.form.get("choice", type=int) != latest["id"]:
        abort(409, _("Another package was put in force meanwhile. Look at the page again, and decide again."))
    if not _changes().start(errand.ROLLBACK, _TITLE, model=model, by=by, why=why):
        abort(409, _("Another rollback runs. Wait for its end."))
    _changes().wait(_WAIT_SECONDS)
    return redirect("/models#rollback")


def _readings(config: Config) -> list[Reading]:
    store = here.store()
    serves = store.components().get("inference", {}).get("serves", ())
    found = []
    for each in installed.each_in_force(config):
        sha256 = each.opened.sha256 if each.opened is not None else ""
        backends = [one["backend"] for one in serves if sha256 and one.get("sha256") == sha256]
        try:
            _latest, former = way_back(config, each.model)
            found.append(Reading(each, backends, former))
        except ApplianceError as error:
            found.append(Reading(each, backends, no_way=error))
    return sorted(found, key=lambda reading: reading.in_force.model)


def _installed(config: Config, store: PackageStore) -> list[dict[str, Any]]:
    """Every package on the device that can be verified, once."""
    known = {row["sha256"]: row for row in store.installed()}
    found = {each.sha256: {"opened": each, "row": known.get(each.sha256)} for each in installed.verified(config)}
    return sorted(found.values(), key=lambda each: str(each["opened"]))
