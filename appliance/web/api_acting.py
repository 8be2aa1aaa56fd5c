"""What can be done through the JSON API: read again, send again, mark as reviewed, make a link for a frame."""

from __future__ import annotations

import time
from collections.abc import Callable

from flask import abort, current_app

from appliance.custody import Custody
from appliance.store import Store
from appliance.study_pages import StudyPages
from appliance.web import api_model as model
from appliance.web import embedding, here, trail
from appliance.web.api import operation, routes
from appliance.web.api_studies import row_of, study_of
from appliance.web.rights import needs
from appliance.worklist_store import Filter, Worklists

blueprint = routes("api_acts")

_LATEST = 2**63 - 1


@blueprint.post("/studies/<row:number>/review")
@needs("assess")
@operation("Say that somebody has seen what came of a study", model.Study, errors=(409,))
def review(number: int) -> model.Study:
    return _done(number, Custody.review)


@blueprint.post("/studies/review-rejected")
@needs("assess")
@operation("Say that somebody has seen what was rejected, 1000 images at most", model.Done, body=model.ReviewRejected)
def review_rejected(asked: model.ReviewRejected) -> model.Done:
    worklists: Worklists = current_app.config["SCANSIDE_WORKLISTS"]
    numbers = worklists.numbers(Filter(state="rejected", unreviewed=True, end=asked.until))
    custody = Custody(here.config().ledger_path)
    try:
        return model.Done(count=custody.review_rejected(numbers, time.time()))
    finally:
        custody.close()


@blueprint.post("/quarantine/<row:number>/retry")
@needs("operate")
@operation("Read an image again that was set aside", model.Study, errors=(409,))
def retry(number: int) -> model.Study:
    return _done(number, Custody.retry)


def _done(number: int, what: Callable[[Custody, int], None]) -> model.Study:
    row_of(number)
    custody = Custody(here.config().ledger_path)
    try:
        what(custody, number)
    finally:
        custody.close()
    return study_of(row_of(number))


@blueprint.post("/deliveries/send-again")
@needs("operate")
@operation("Send again what was not delivered", model.Done, body=model.SendAgain)
def send_again(asked: model.SendAgain) -> model.Done:
    ledger = Store(here.config().ledger_path)
    try:
        return model.Done(count=ledger.send_undelivered(asked.destination, asked.numbers))
    finally:
        ledger.close()


@blueprint.post("/embed-links")
@needs("see")
@operation(
    "Make a link that shows one study in a frame of another system", model.EmbedLink,
    body=model.EmbedRequest, errors=(404, 409), status=201,
)  # fmt: skip
def embed_link(asked: model.EmbedRequest) -> model.EmbedLink:
    if not here.config().web.embed_origins:
        abort(409, "No other system may frame this page: the configuration's web.embed_origins is empty.")
    number = _wanted(asked.study)
    path, expires_at = embedding.link(number, asked.seconds)
    trail.note("", target=f"image {number}")
    return model.EmbedLink(path=path, expires_at=expires_at, number=number)


def _wanted(asked: int | str) -> int:
    """The number of a study; a UID may be that of an object or of a whole study."""
    if isinstance(asked, int):
        found: int = row_of(asked)["id"]
        return found
    pages = StudyPages(here.config().ledger_path, read_only=True)
    try:
        rows = pages.of_uid(asked, 50, _LATEST) or pages.of_uid(asked, 50, _LATEST, whole_study=True)
    finally:
        pages.close()
    # The latest that was read; else the latest that came, of which the frame says why it has no result.
    rows.sort(key=lambda row: (row["provenance"] is None, -row["id"]))
    if not rows:
        abort(404, "Nothing was received under this UID.")
    number: int = rows[0]["lead_id"] or rows[0]["id"]
    return number
