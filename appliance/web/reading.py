"""The pages of a blinded reader study: one image after the other, without anything that the model or the header says.

Who reads is kept in the session. As long as somebody does, this session shows no other page, since those tell the
model's findings.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Flask, abort, current_app, redirect, render_template, request, send_from_directory, session
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from appliance.errors import ReaderStudyError, SpoolError
from appliance.reader_study import ReaderStudies
from appliance.web import here, recorded
from appliance.web.language import gettext as _
from appliance.web.language import marked
from appliance.web.rights import needs

blueprint = Blueprint("reading", __name__, url_prefix="/reader-study/<name>")

_ABSENT = marked("Surely absent"), marked("Probably absent"), marked("Possibly absent")
_PRESENT = marked("Surely present"), marked("Probably present"), marked("Possibly present")
_UNDECIDED = marked("Undecided")
SCALE_WORDS = {
    5: (_ABSENT[0], _ABSENT[1], _UNDECIDED, _PRESENT[1], _PRESENT[0]),
    7: (*_ABSENT, _UNDECIDED, *reversed(_PRESENT)),
}
_WHOLE_HOUR = 3600.0
_OPEN_TO_READERS = ("reading.", "static", "people.login", "people.logout", "views.healthz")

Page = str | tuple[str, int] | BaseResponse


@dataclass(frozen=True)
class Seat:
    """Who reads in this session, in which study."""

    study: dict[str, Any]
    reader: dict[str, Any]

    @property
    def url(self) -> str:
        return f"/reader-study/{self.study['name']}"


def keep_blinded(app: Flask) -> None:
    """Show a session in which somebody reads no page but the study's."""

    @app.before_request
    def hide_results() -> None:
        if "reader" in session and not (request.endpoint or "").startswith(_OPEN_TO_READERS):
            abort(403, _("Somebody reads a study here, so the model's findings are hidden. Finish or leave it first: "
                         "%(address)s", address=f"/reader-study/{session['reader']['study']}"))  # fmt: skip


def _studies() -> ReaderStudies:
    studies: ReaderStudies = current_app.config["SCANSIDE_READER_STUDIES"]
    return studies


def _study(name: str) -> dict[str, Any]:
    try:
        return _studies().study(name)
    except ReaderStudyError:
        abort(404, _("There is no reader study %(name)s.", name=name))


def _seat(name: str) -> Seat | None:
    study, said = _study(name), session.get("reader")
    if not said or said["study"] != name:
        return None
    reader = _studies().reader(study["id"], said["id"])
    return Seat(study, reader) if reader else None


def _taken(name: str) -> Seat:
    """The seat, which somebody must have; sends others to the study's first page."""
    seat = _seat(name)
    if seat is None:
        abort(redirect(f"/reader-study/{_study(name)['name']}"))
    return seat


@blueprint.get("")
@needs("assess")
def start(name: str) -> Page:
    """Where a reader begins, pauses, goes on and finishes."""
    seat = _seat(name)
    if seat is None:
        return render_template("reader_study.html", study=_study(name), problem="", finished="finished" in request.args)
    return render_template("reader_progress.html", seat=seat, problem="")


@blueprint.post("")
@needs("assess")
def enter(name: str) -> Page:
    study = _study(name)
    try:
        reader_id = _studies().enter(study, request.form.get("reader", ""), request.form.get("code", ""))
    except ReaderStudyError as error:
        return render_template(
            "reader_study.html", study=study, problem=recorded.said(error.message), finished=False
        ), 400
    session["reader"] = {"study": name, "id": reader_id}
    return redirect(f"/reader-study/{name}")


@blueprint.get("/case")
@needs("assess")
def go_on(name: str) -> Page:
    """The first image without an answer, or where one finishes."""
    seat = _taken(name)
    place = _studies().next_place(seat.reader["id"])
    return redirect(f"{seat.url}/case/{place}" if place else seat.url)


@blueprint.get("/case/<int(max=1000000):place>")
@needs("assess")
def case(name: str, place: int) -> Page:
    seat = _taken(name)
    return _case(seat, _reading(seat, place))


def _reading(seat: Seat, place: int) -> dict[str, Any]:
    reading = _studies().reading(seat.reader["id"], place)
    if reading is None:
        abort(404, _("There is no image at place %(place)s.", place=place))
    return reading


def _case(seat: Seat, reading: dict[str, Any], problem: str = "") -> str:
    session["shown"] = [reading["id"], time.time()]
    words = [_(each) for each in SCALE_WORDS[seat.study["scale"]]]
    return render_template("reading.html", seat=seat, reading=reading, scale=words, problem=problem)


@blueprint.get("/case/<int(max=1000000):place>.png")
@needs("assess", automatic=True)
def picture(name: str, place: int) -> BaseResponse:
    """By its place in the reader's order, so that its address tells nothing."""
    config = here.config()
    response = send_from_directory(config.reader_studies_path, _reading(_taken(name), place)["picture"])
    response.headers["Cache-Control"] = "private, no-cache"
    return response


@blueprint.post("/case/<int(max=1000000):place>")
@needs("assess")
def answer(name: str, place: int) -> Page:
    """Keep an answer and show the next image; with ``pause``, keep only the time."""
    seat = _taken(name)
    reading = _reading(seat, place)
    seconds = _seconds(reading)
    if "pause" in request.form:
        _studies().look(reading["id"], seconds)
        return redirect(seat.url)
    try:
        present, rating = _said(seat)
        _studies().answer(reading["id"], present, rating, seconds)
    except ReaderStudyError as error:
        _studies().look(reading["id"], seconds)
        return _case(seat, reading, recorded.said(error.message)), 400
    return redirect(f"{seat.url}/case")


def _said(seat: Seat) -> tuple[bool | None, int | None]:
    """Present or absent, and the rating; both None where the reader can't judge."""
    rating, present = request.form.get("rating", ""), request.form.get("present", "")
    if rating == "none":
        return None, None
    if rating not in {str(number) for number in range(1, seat.study["scale"] + 1)}:
        raise ReaderStudyError("Choose how sure you are, or that you can't judge this image.")
    if present not in ("yes", "no"):
        raise ReaderStudyError("Say whether you would report it as present or absent.")
    return present == "yes", int(rating)


def _seconds(reading: dict[str, Any]) -> float:
    """How long the image was looked at: what the page measured, but no longer than it was shown."""
    shown, at = session.get("shown", (None, 0.0))
    elapsed = time.time() - at if shown == reading["id"] else _WHOLE_HOUR
    try:
        measured = float(request.form.get("seconds", ""))
    except ValueError:
        measured = elapsed if shown == reading["id"] else 0.0
    return min(max(measured, 0.0), elapsed, _WHOLE_HOUR) if measured == measured else 0.0  # NaN is not itself


@blueprint.errorhandler(SpoolError)
def not_kept(error: SpoolError) -> tuple[str, int]:
    """The disk is full or the ledger can't be written: the reader must know that the answer is not there."""
    said = ServiceUnavailable(recorded.not_kept(error))
    return render_template("error.html", error=said), 503


@blueprint.post("/finish")
@needs("assess")
def finish(name: str) -> Page:
    seat = _taken(name)
    try:
        _studies().finish(seat.reader["id"])
    except ReaderStudyError as error:
        return render_template("reader_progress.html", seat=seat, problem=recorded.said(error.message)), 400
    session.pop("reader")
    return redirect(f"{seat.url}?finished")


@blueprint.post("/leave")
@needs("assess")
def leave(name: str) -> Page:
    """Give the seat to another reader; this one goes on later, with their code."""
    seat = _taken(name)
    session.pop("reader")
    return redirect(seat.url)
