"""The page of drift: what has changed, since when and for whom, and every stream against what is usual."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

from flask import Blueprint, abort, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from appliance.drift import Outcome, decisions, history, summary
from appliance.drift.store import Against, DriftStore
from appliance.errors import ApplianceError, DriftError
from appliance.web import drift_charts, here, recorded
from appliance.web.language import gettext as _
from appliance.web.language import marked, translated
from appliance.web.rights import current_person, needs

blueprint = Blueprint("drift", __name__)
_SPANS = {30: marked("30 days"), 90: marked("90 days"), 366: marked("a year")}


def _store(read_only: bool = False) -> DriftStore:
    return DriftStore(here.config().ledger_path, read_only)


def _titles() -> dict[Against, str]:
    """Of the charts of evidence."""
    known = decisions.AGAINST.items()
    return {against: _("Evidence against %(what)s", what=recorded.told(words)) for against, words in known}


@blueprint.get("/drift")
@needs("see")
def drift() -> str:
    store, settings = _store(read_only=True), here.config().drift
    days = request.args.get("days", 90, type=int)
    days = days if days in _SPANS else 90
    try:
        if not store.packages():
            return render_template("drift.html", status=None, enabled=settings.enabled, packages=[])
        try:
            about = summary.chosen(store, request.args.get("package"))
        except DriftError as error:
            abort(404, recorded.of_error(error))
        past = history.history(store, about, days)
        course, worth = history.course(past)
        limit = math.log(1 / settings.alpha)
        return render_template(
            "drift.html",
            enabled=settings.enabled,
            packages=summary.packages(store),
            package=about["package"],
            status=summary.status(store, settings, about),
            capitals={
                against: drift_charts.capital(course, worth[against], limit, title)
                for against, title in _titles().items()
            },
            groups=history.lines(store, about, past),
            scanners=history.scanners(store, past),
            alarms=[summary.alarm(row) for row in store.alarms(50) if row["acknowledged_at"] is not None],
            open_alarms=[summary.alarm(row) for row in store.alarms(50, only_open=True)],
            events=store.events(50),
            counted=store.counted(),
            rejected=store.rejected(time.time() - days * 86400),
            days=days,
            spans=translated(_SPANS),
            chart=drift_charts.line,
            times=drift_charts.times,
        )
    finally:
        store.close()


@contextmanager
def _deciding() -> Iterator[tuple[DriftStore, str]]:
    """The ledger to decide in, and who decides; what can't be decided is answered with its reason."""
    store = _store()
    try:
        yield store, current_person() or "the page"
    except ApplianceError as error:
        abort(409, recorded.of_error(error))
    finally:
        store.close()


@blueprint.post("/drift/alarm/<row:number>")
@needs("operate")
def acknowledge(number: int) -> BaseResponse:
    given = request.form.get("outcome", "watch")
    outcome: Outcome | None = next((each for each in get_args(Outcome) if each == given), None)
    if outcome is None:
        abort(400, _("What follows from an alarm is one of: %(known)s.", known=", ".join(get_args(Outcome))))
    with _deciding() as (store, by):
        decisions.acknowledge(store, number, by, request.form.get("why", ""), outcome)
    return redirect("/drift")


@blueprint.post("/drift/resume/<any('validated', 'site'):against>")
@needs("operate")
def resume(against: Against) -> BaseResponse:
    """Watch on where a watch rests."""
    with _deciding() as (store, by):
        decisions.resume(store, summary.chosen(store, request.form.get("package"))["package"], against, by)
    return redirect("/drift")


@blueprint.post("/drift/baseline")
@needs("operate")
def baseline() -> BaseResponse:
    """Accept what was learned so far, or learn it anew."""
    with _deciding() as (store, by):
        package = summary.chosen(store, request.form.get("package"))["package"]
        if request.form.get("what") == "accept":
            decisions.accept_baseline(store, package, by)
        else:
            decisions.start_baseline(store, package, by)
    return redirect("/drift")
