"""Files that come over HTTP: STOW-RS (PS3.18 section 10.5) for systems, an upload form for people.

The page's process takes them into the same spool and ledger as the Storage SCP, and tells its parent, which wakes the
worker. Only this loads DICOM libraries here, and only when the first file comes.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, abort, current_app, g, jsonify, render_template, request
from werkzeug.exceptions import NotAcceptable, RequestTimeout, ServiceUnavailable, UnsupportedMediaType

from appliance.config import Config
from appliance.spool import Spool
from appliance.store import Store
from appliance.web import here
from appliance.web.language import gettext as _
from appliance.web.language import marked, translated
from appliance.web.multipart import Part, parts
from appliance.web.rights import FOR_SYSTEMS, needs

if TYPE_CHECKING:
    from appliance.ingest import Intake

blueprint = Blueprint("arrivals", __name__)

MOST_AT_ONCE = 4  # of the server's threads; the others are for people who look at the page
_MOST_FILES = 50_000
_WORDS = {
    "taken": marked("taken"),
    "again": marked("was here before"),
    "conflict": marked("in conflict"),
    "ignored": marked("left out"),
    "refused": marked("refused"),
}
_ANSWERS = ("application/dicom+json", "application/json")


def register(app: Flask, config: Config, on_arrival: Callable[[], None]) -> None:
    """Add the ways in to the page, where the configuration has them.

    Parameters
    ----------
    on_arrival
        As `appliance.ingest.Intake` takes it.
    """
    if not config.uploads.enabled:
        return

    @cache
    def intake() -> Intake:
        from appliance.ingest import Intake

        return Intake(Spool(config.spool_path), Store(config.ledger_path), on_arrival)

    app.config.update(SCANSIDE_INTAKE=intake, SCANSIDE_UPLOADS_AT_ONCE=threading.BoundedSemaphore(MOST_AT_ONCE))
    app.register_blueprint(blueprint)
    app.after_request(_hang_up)


@blueprint.post("/dicom-web/studies")
@blueprint.post("/dicom-web/studies/<study_instance_uid>")
@needs("send")
def stow(study_instance_uid: str | None = None) -> Response:
    """The Store transaction."""
    if request.accept_mimetypes and not request.accept_mimetypes.best_match(_ANSWERS):
        raise NotAcceptable("The answer is application/dicom+json.")
    if request.mimetype != "multipart/related" or _parameter("type", "application/dicom") != "application/dicom":
        raise UnsupportedMediaType('Send multipart/related; type="application/dicom".')
    if request.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
    with _taking() as (intake, transfer_id):
        from appliance.ingest import stow as store_transaction

        report = store_transaction.store(
            intake, (_instance(part) for part in _parts()), study_instance_uid, _sender(), transfer_id
        )
    if report.status == 400:
        abort(400, "The body has no part.")
    answer = jsonify(report.to_json())
    answer.status_code, answer.mimetype = report.status, "application/dicom+json"
    return answer


def _instance(part: Part) -> Iterator[bytes]:
    kind = part.headers.get("Content-Type", "application/dicom").split(";")[0].strip().lower()
    if kind != "application/dicom":
        raise UnsupportedMediaType(f"A part is {kind}, not application/dicom.")
    return part.pieces


@blueprint.get("/upload")
@needs("send")
def upload_form() -> str:
    return render_template("upload.html", outcomes=None, upload_words=translated(_WORDS))


@blueprint.post("/upload")
@needs("send")
def upload() -> Response | str:
    """Take the files of the form; the outcome of each as a page, or as JSON where that is asked for."""
    if request.mimetype != "multipart/form-data":
        raise UnsupportedMediaType(_("Send the form of this page."))
    with _taking() as (intake, transfer_id):
        from appliance.ingest.bundle import Bundle

        taking = Bundle(intake, "upload", _sender(), transfer_id)
        for part in _parts():
            if part.filename:  # a browser sends an empty one for a field in which nothing was chosen
                taking.take(part.filename, part.pieces)
        outcomes = taking.finish()
    if request.accept_mimetypes.best_match(("text/html", "application/json")) == "application/json":
        return jsonify([vars(outcome) for outcome in outcomes])
    return render_template("upload.html", outcomes=outcomes, upload_words=translated(_WORDS))


@contextmanager
def _taking() -> Iterator[tuple[Intake, str]]:
    """A request as one transfer, while others can look at the page."""
    places: threading.BoundedSemaphore = current_app.config["SCANSIDE_UPLOADS_AT_ONCE"]
    if not places.acquire(blocking=False):
        raise ServiceUnavailable(_("Others are sending at the moment."), retry_after=5)
    try:
        intake: Intake = current_app.config["SCANSIDE_INTAKE"]()
        transfer_id, whole = uuid.uuid4().hex, False
        g.transfer = transfer_id, time.time()
        try:
            yield intake, transfer_id
            whole = True
        except (BlockingIOError, ssl.SSLWantReadError) as error:  # the server's limit; see `appliance.web.server`
            raise RequestTimeout(_("Nothing came for too long.")) from error
        finally:
            intake.end_transfer(transfer_id, "released" if whole else "aborted")
    finally:
        places.release()


def _hang_up(response: Response) -> Response:
    """Read nothing more of what is refused: the server would wait for the rest of it, with one of its few threads."""
    if response.status_code >= 400 and (request.path == "/upload" or request.path.startswith(FOR_SYSTEMS)):
        connection: socket.socket | None = request.environ.get("gunicorn.socket")
        if connection is not None:
            with suppress(OSError):  # the peer has gone
                socket.socket.shutdown(connection, socket.SHUT_RD)  # that of ssl.SSLSocket would end the encryption
    return response


def _parts() -> Iterator[Part]:
    config = here.config()
    boundary = _parameter("boundary")
    if not boundary:
        abort(400, "The Content-Type names no boundary.")
    request.max_content_length = config.uploads.largest_request_mb * 10**6
    return parts(request.stream, boundary, config.uploads.largest_file_mb * 10**6, _MOST_FILES)


def _parameter(name: str, default: str = "") -> str:
    """Of the request's Content-Type."""
    parameters: dict[str, Any] = request.mimetype_params
    return str(parameters.get(name, default))


def _sender() -> str:
    return request.remote_addr or "unknown"
