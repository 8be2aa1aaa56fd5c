"""Whether a reader agrees with a result: the buttons of the study page, and the page that is printed."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, get_args

from flask import Blueprint, abort, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from appliance.assessment_store import Assessments, Subject, Verdict
from appliance.errors import ApplianceError, SpoolError
from appliance.web import here, recorded
from appliance.web.language import gettext as _
from appliance.web.rights import current_person, needs
from appliance.web.telling import telling

blueprint = Blueprint("assessing", __name__)


@blueprint.post("/study/<row:number>/assess")
@needs("assess")
def assess(number: int) -> BaseResponse:
    """Keep what a reader says of one finding or segment, or with ``subject=all`` of each that nobody has assessed."""
    config = here.config()
    form = request.form
    subject, verdict = form.get("subject", ""), form.get("verdict", "")
    if subject not in (*get_args(Subject), "all") or verdict not in get_args(Verdict):
        abort(400, _("Say what is assessed, and whether you agree."))
    assessments = Assessments(config.ledger_path)
    try:
        for each, label in _all(assessments, number) if subject == "all" else [(subject, form.get("label", ""))]:
            assessments.assess(
                number,
                each,  # type: ignore[arg-type]  # of the names above
                label,
                verdict,  # type: ignore[arg-type]
                form.get("reason", ""),
                form.get("comment", ""),
                current_person(),
                config.sends_assessments,
            )
    except SpoolError as error:
        abort(503, recorded.not_kept(error))
    except ApplianceError as error:
        abort(409, recorded.of_error(error))
    finally:
        assessments.close()
    return redirect(f"/study/{number}#assessment")


def _all(assessments: Assessments, number: int) -> list[tuple[str, str]]:
    row = assessments.instance(number) or {}
    said = {(each["subject"], each["label"]) for each in assessments.of_instance(number)}
    segments = row["outlines"]["segments"] if row.get("outlines") else ()
    found = [("finding", each["label"]) for each in row.get("findings") or ()]
    found += [("segment", each["label"]) for each in segments]
    if not found:
        raise ApplianceError(f"image {number} has no result", hint="assess the image that stands for its series")
    return [each for each in found if each not in said] or found


@blueprint.get("/study/<row:number>/report")
@needs("see")
def report(number: int) -> str:
    """One page for paper: what was found, how sure, by what, and what it must not be used for."""
    store = here.store()
    row: dict[str, Any] | None = store.instance(number)
    if row is None or row["provenance"] is None:
        abort(404, _("There is no result of image number %(number)s to print.", number=number))
    config = here.config()
    width, height = _size(config.previews_path / str(number) / "image.png")
    return render_template("report.html", row=row, width=width, height=height, **telling(row))


def _size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG file, which stand at its beginning; both 1 where it is not there."""
    try:
        with path.open("rb") as file:
            width, height = struct.unpack(">16xII", file.read(24))
            return width, height
    except (OSError, struct.error):
        return 1, 1
