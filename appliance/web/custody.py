"""The page of what is set aside, and the buttons that read an image again or mark it as reviewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flask import Blueprint, abort, current_app, redirect, render_template, request, send_file
from werkzeug.wrappers import Response as BaseResponse

from appliance.custody import Custody
from appliance.errors import ApplianceError
from appliance.web import here, recorded, trail
from appliance.web.filters import asked
from appliance.web.language import gettext as _
from appliance.web.rights import needs
from appliance.worklist_store import Worklists

blueprint = Blueprint("custody", __name__)


def _custody(read_only: bool = False) -> Custody:
    return Custody(here.config().ledger_path, read_only)


@blueprint.get("/quarantine")
@needs("see")
def quarantine() -> str:
    custody = _custody(read_only=True)
    try:
        return render_template("quarantine.html", rows=custody.quarantined())
    finally:
        custody.close()


@blueprint.get("/quarantine/<row:number>.dcm")
@needs("operate")
def export(number: int) -> BaseResponse:
    """The file as it came. It may name the patient, so it is there only where the page may, too."""
    if not here.config().web.show_patient:
        abort(403, _("Files name the patient, and this page is set to show no patients (web.show_patient). "
                     "`scanside quarantine export` copies them."))  # fmt: skip
    custody = _custody(read_only=True)
    try:
        row = custody.instance(number)
    finally:
        custody.close()
    if row is None or row["state"] != "quarantined":
        abort(404, _("There is no quarantined image number %(number)s.", number=number))
    path = Path(here.config().spool_path) / row["file"]
    if not path.exists():
        abort(404, _("The file of image %(number)s is no longer there.", number=number))
    return send_file(path, "application/dicom", as_attachment=True, download_name=f"{number:08d}.dcm")


@blueprint.post("/quarantine/<row:number>/retry")
@needs("operate")
def retry(number: int) -> BaseResponse:
    return _done(number, Custody.retry, "/quarantine")


@blueprint.post("/study/<row:number>/retry")
@needs("operate")
def retry_study(number: int) -> BaseResponse:
    return _done(number, Custody.retry, f"/study/{number}")


@blueprint.post("/study/<row:number>/review")
@needs("assess")
def review(number: int) -> BaseResponse:
    return _done(number, Custody.review, f"/study/{number}")


@blueprint.post("/rejected/review")
@needs("assess")
def review_rejected() -> BaseResponse:
    """Mark as reviewed what the worklist's filter shows (at most `MOST_COUNTED`), as it was when the page was made."""
    wanted = asked(request.args, here.config().web.show_patient)
    try:
        before = float(request.form.get("before", ""))
    except ValueError:
        abort(400, _("This form is not whole. Open the worklist again."))
    worklists: Worklists = current_app.config["SCANSIDE_WORKLISTS"]
    numbers = worklists.numbers(replace(wanted.filter, state="rejected", unreviewed=True))
    custody = _custody()
    try:
        count = custody.review_rejected(numbers, before)
    finally:
        custody.close()
    trail.note("", target=f"{count} images that were rejected")
    return redirect(wanted.url())


def _done(number: int, what: Callable[[Custody, int], None], back: str) -> BaseResponse:
    custody = _custody()
    try:
        what(custody, number)
    except ApplianceError as error:
        abort(409, recorded.of_error(error))
    finally:
        custody.close()
    return redirect(back)
