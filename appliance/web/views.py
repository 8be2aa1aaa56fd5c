"""The pages: worklist, study, device; and what they load."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, get_args

from flask import Blueprint, Response, abort, current_app, g, render_template, request, send_from_directory
from werkzeug.wrappers import Response as BaseResponse

from appliance.config import MessageKind, ResultKind
from appliance.store import FINAL_STATES
from appliance.web import here
from appliance.web.filters import FINDINGS, Asked, asked
from appliance.web.language import current as language
from appliance.web.language import gettext as _
from appliance.web.language import marked, translated
from appliance.web.once import Once
from appliance.web.rights import needs
from appliance.web.telling import telling
from appliance.worklist_store import MOST_COUNTED, Worklists

blueprint = Blueprint("views", __name__)

_KINDS = ", ".join(repr(kind) for kind in (*get_args(ResultKind), *get_args(MessageKind)))
_PAGE = 50
# What a person needs to know of each state.
STATE_WORDS = {
    "received": marked("waiting"),
    "claimed": marked("being read"),
    "written": marked("on its way"),
    "delivered": marked("done"),
    "rejected": marked("turned away"),
    "failed": marked("failed"),
    "quarantined": marked("quarantined"),
    "withheld": marked("withheld"),
}


def _worklists() -> Worklists:
    worklists: Worklists = current_app.config["SCANSIDE_WORKLISTS"]
    return worklists


def _instance(identifier: int) -> dict[str, Any]:
    row = here.store().instance(identifier)
    if row is None:
        abort(404, _("There is no image number %(number)s.", number=identifier))
    return row


@blueprint.get("/")
@needs("see")
def worklist() -> str:
    wanted = _asked()
    modalities, senders = _worklists().choices()
    return render_template(
        "worklist.html",
        asked=wanted,
        words=translated(STATE_WORDS),
        findings=translated(FINDINGS),
        modalities=[(each, each) for each in modalities],
        senders=[(each, each) for each in senders],
        live=_live(wanted, _seen(wanted)),
    )


@blueprint.get("/worklist.fragment")
@needs("see", automatic=True)
def worklist_fragment() -> BaseResponse:
    """The part of the worklist that changes; 304 while nothing did."""
    response, wanted = Response(), _asked()
    seen = _seen(wanted)
    response.set_etag(hashlib.sha256(seen.encode()).hexdigest()[:16])
    response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    if response.status_code != 304:
        response.set_data(_live(wanted, seen))
    return response


def _seen(wanted: Asked) -> str:
    """All that the changing part of the worklist depends on, but for the rights of who looks at it."""
    undelivered = here.store().undelivered_count()
    return f"{here.store().change_mark()} {wanted.fragment_url} {_waiting_reason()} {undelivered} {language()}"


def _live(wanted: Asked, seen: str) -> str:
    """The part that changes: the same for all who have the same rights, who ask for it at the same time."""
    made: Once = current_app.config["SCANSIDE_ONCE"]
    key = f"{seen} {sorted(g.get('rights', ()))}"
    return made.get(key, lambda: render_template("_worklist.html", **_worklist(wanted)))


def _asked() -> Asked:
    return asked(request.args, here.config().web.show_patient)


def _waiting_reason() -> str:
    """Why nothing is read at the moment, empty where it is."""
    worker = here.store().components().get("worker", {})
    return str(worker.get("reason", "")) if worker.get("state") == "waiting" else ""


def _worklist(wanted: Asked) -> dict[str, Any]:
    return {
        "page": _worklists().page(wanted.filter, _PAGE, wanted.after, wanted.before),
        "asked": wanted,
        "most_counted": MOST_COUNTED,
        "counts": here.store().counts(),
        "words": translated(STATE_WORDS),
        "waiting_reason": _waiting_reason(),
        "scp": here.store().components().get("storage_scp"),
    }


@blueprint.get("/study/<row:identifier>")
@needs("see")
def study(identifier: int) -> str:
    row, store = _instance(identifier), here.store()
    if row["provenance"] is not None:
        current_app.config["SCANSIDE_VIEWING"].begin(identifier)  # the viewer is about to ask for it
    return render_template(
        "study.html",
        row=row,
        words=translated(STATE_WORDS),
        final=row["state"] in FINAL_STATES,
        supersedes=store.superseded(identifier),
        waiting_reason=_waiting_reason(),
        events=store.events(identifier),
        objects=store.objects(identifier),
        deliveries=store.deliveries(identifier),
        **telling(row),
    )


@blueprint.get("/study/<row:identifier>/<any('image', 'outline', 'heat-0', 'heat-1', 'heat-2', 'heat-3'):name>.png")
@needs("see", automatic=True)
def preview(identifier: int, name: str) -> BaseResponse:
    """The image, the outlines or a heat map, as the worker drew them."""
    return _private(send_from_directory(Path(here.config().previews_path) / str(identifier), f"{name}.png"))


@blueprint.get(f"/study/<row:identifier>/<any({_KINDS}):kind>.<any('dcm', 'hl7', 'json'):suffix>")
@needs("see")
def result_file(identifier: int, kind: str, suffix: str) -> BaseResponse:
    """A result object or message as it was sent. It names the patient, so it is there only where the page may, too."""
    if not here.config().web.show_patient:
        abort(403, _("Result files name the patient, and this page is set to show no patients (web.show_patient)."))
    rows = here.store().objects(_instance(identifier)["id"])
    paths = [Path(row["path"]) for row in rows if row["kind"] == kind and row["path"].endswith(f".{suffix}")]
    if not paths:
        abort(404, _("This image has no such result."))
    folder, name = here.config().results_path / paths[0].parent, f"{identifier:08d}-{kind}.{suffix}"
    return _private(send_from_directory(folder, paths[0].name, as_attachment=True, download_name=name))


def _private(response: BaseResponse) -> BaseResponse:
    response.headers["Cache-Control"] = "private, no-cache"
    return response


@blueprint.get("/healthz")
@needs("open")
def healthz() -> Response:
    return Response("ok\n", mimetype="text/plain")
