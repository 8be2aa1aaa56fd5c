"""The pages: worklist, study, device; and what they load."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

from flask import Blueprint, Response, abort, current_app, render_template, request, send_from_directory
from werkzeug.wrappers import Response as BaseResponse

from appliance.config import Config, MessageKind, ResultKind
from appliance.store import FINAL_STATES, Store
from appliance.web.rights import needs

blueprint = Blueprint("views", __name__)

_KINDS = ", ".join(repr(kind) for kind in (*get_args(ResultKind), *get_args(MessageKind)))
_PAGE = 50
_MOST_PAGES = 1000  # of older ones the ledger's export tells
# What a person needs to know of each state.
STATE_WORDS = {
    "received": "waiting",
    "claimed": "being read",
    "written": "on its way",
    "delivered": "done",
    "rejected": "turned away",
    "failed": "failed",
    "quarantined": "quarantined",
}


def _config() -> Config:
    config: Config = current_app.config["SCANSIDE"]
    return config


def _store() -> Store:
    store: Store = current_app.config["SCANSIDE_STORE"]
    return store


def _instance(identifier: int) -> dict[str, Any]:
    row = _store().instance(identifier)
    if row is None:
        abort(404, f"There is no image number {identifier}.")
    return row


@blueprint.get("/")
@needs("see")
def worklist() -> str:
    return render_template("worklist.html", **_worklist())


@blueprint.get("/worklist.fragment")
@needs("see", automatic=True)
def worklist_fragment() -> BaseResponse:
    """The part of the worklist that changes; 304 while nothing did."""
    response = Response()
    undelivered = _store().undelivered_count()
    seen = f"{_store().change_mark()} {request.args.get('page', '1')} {_waiting_reason()} {undelivered}"
    response.set_etag(hashlib.sha256(seen.encode()).hexdigest()[:16])
    response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    if response.status_code != 304:
        response.set_data(render_template("_worklist.html", **_worklist()))
    return response


def _waiting_reason() -> str:
    """Why nothing is read at the moment, empty where it is."""
    worker = _store().components().get("worker", {})
    return str(worker.get("reason", "")) if worker.get("state") == "waiting" else ""


def _worklist() -> dict[str, Any]:
    store = _store()
    counts = store.counts()
    pages = min(max(-(-store.worklist_length() // _PAGE), 1), _MOST_PAGES)
    page = min(max(request.args.get("page", 1, type=int), 1), pages)
    return {
        "rows": store.worklist(_PAGE, (page - 1) * _PAGE),
        "counts": counts,
        "page": page,
        "pages": pages,
        "words": STATE_WORDS,
        "waiting_reason": _waiting_reason(),
    }


@blueprint.get("/study/<int(max=9223372036854775807):identifier>")
@needs("see")
def study(identifier: int) -> str:
    row, store = _instance(identifier), _store()
    return render_template(
        "study.html",
        row=row,
        words=STATE_WORDS,
        final=row["state"] in FINAL_STATES,
        supersedes=store.superseded(identifier),
        waiting_reason=_waiting_reason(),
        events=store.events(identifier),
        objects=store.objects(identifier),
        deliveries=store.deliveries(identifier),
    )


@blueprint.get(
    "/study/<int(max=9223372036854775807):identifier>/"
    "<any('image', 'outline', 'heat-0', 'heat-1', 'heat-2', 'heat-3'):name>.png"
)
@needs("see", automatic=True)
def preview(identifier: int, name: str) -> BaseResponse:
    """The image, the outlines or a heat map, as the worker drew them."""
    return _private(send_from_directory(Path(_config().previews_path) / str(identifier), f"{name}.png"))


@blueprint.get(
    f"/study/<int(max=9223372036854775807):identifier>/<any({_KINDS}):kind>.<any('dcm', 'hl7', 'json'):suffix>"
)
@needs("see")
def result_file(identifier: int, kind: str, suffix: str) -> BaseResponse:
    """A result object or message as it was sent. It names the patient, so it is there only where the page may, too."""
    if not _config().web.show_patient:
        abort(403, "Result files name the patient, and this page is set to show no patients (web.show_patient).")
    rows = _store().objects(_instance(identifier)["id"])
    paths = [Path(row["path"]) for row in rows if row["kind"] == kind and row["path"].endswith(f".{suffix}")]
    if not paths:
        abort(404, "This image has no such result.")
    folder, name = _config().results_path / paths[0].parent, f"{identifier:08d}-{kind}.{suffix}"
    return _private(send_from_directory(folder, paths[0].name, as_attachment=True, download_name=name))


def _private(response: BaseResponse) -> BaseResponse:
    response.headers["Cache-Control"] = "private, no-cache"
    return response


@blueprint.get("/healthz")
@needs("open")
def healthz() -> Response:
    return Response("ok\n", mimetype="text/plain")
