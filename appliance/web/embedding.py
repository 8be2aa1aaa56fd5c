"""A study in a frame of another system: a page without navigation, under a link that is signed and does not last.

A frame of another site gets no cookie of this one, and no browser lets its page send a token along; so the link itself
carries who may see what until when. Only the origins of ``web.embed_origins`` may frame it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    g,
    make_response,
    render_template,
    request,
    send_from_directory,
)
from itsdangerous import BadData, URLSafeSerializer
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from appliance.store import FINAL_STATES
from appliance.web import here
from appliance.web.auth import gate
from appliance.web.language import gettext as _
from appliance.web.rights import current_person, needs

blueprint = Blueprint("embedding", __name__, url_prefix="/embed")
_PICTURES = "<any('image', 'outline', 'heat-0', 'heat-1', 'heat-2', 'heat-3'):name>.png"


@dataclass(frozen=True)
class _Ticket:
    """What a link allows; ``person``, known by ``how``, asked for it, and it works as long as they may see results."""

    number: int
    made_ms: int
    expires_at: float
    person: str
    how: str


def _serializer() -> URLSafeSerializer:
    return URLSafeSerializer(current_app.config["SECRET_KEY"], salt="scanside.embed")


def link(number: int, seconds: int) -> tuple[str, float]:
    """The path of a study's frame, and when it works no longer."""
    now = time.time()
    made_ms = math.ceil(now * 1000)  # no sooner than a token that was made just before
    expires_at = round(now) + float(seconds)
    ticket = _serializer().dumps([number, made_ms, expires_at, current_person(), g.get("how", "")])
    return f"/embed/study/{number}?ticket={ticket if isinstance(ticket, str) else ticket.decode()}", expires_at


def _admit(number: int) -> _Ticket:
    """The ticket of this request; 403 where it is not for this study, or not any more."""
    try:
        ticket = _Ticket(*_serializer().loads(request.args.get("ticket", "")))
    except (BadData, TypeError, ValueError):
        abort(403, _("This link is not one of this device. Make one with POST /api/v1/embed-links."))
    if ticket.number != number:
        abort(403, _("This link is for another study."))
    if ticket.expires_at < time.time():
        abort(403, _("This link is no longer valid. Load the page around this frame again."))
    if not gate().may_still(ticket.person, ticket.how, ticket.made_ms / 1000, "see"):
        abort(403, _("Who made this link may see results no longer."))
    g.person, g.how = ticket.person, "link"  # it is seen in the name of who asked for the link
    return ticket


@blueprint.errorhandler(HTTPException)
def _not_shown(error: HTTPException) -> tuple[str, int]:
    """Without navigation, too."""
    return render_template("embed_error.html", error=error), error.code or 500


@blueprint.after_request
def _framable(response: Response) -> Response:
    config = here.config()
    origins = " ".join(config.web.embed_origins) or "'none'"
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; base-uri 'none'; "
        f"form-action 'none'; frame-ancestors {origins}"
    )
    # The address holds the ticket, which is nobody else's business.
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


@blueprint.get("/study/<row:number>")
@needs("open")  # the ticket decides
def study(number: int) -> BaseResponse:
    _admit(number)
    store = here.store()
    row: dict[str, Any] | None = store.instance(number)
    if row is None:
        abort(404, _("There is no image number %(number)s.", number=number))
    return make_response(
        render_template("embed.html", row=row, final=row["state"] in FINAL_STATES, ticket=request.args["ticket"])
    )


@blueprint.get(f"/study/<row:number>/{_PICTURES}")
@needs("open", automatic=True)  # the ticket decides
def picture(number: int, name: str) -> BaseResponse:
    _admit(number)
    config = here.config()
    response = send_from_directory(Path(config.previews_path) / str(number), f"{name}.png")
    response.headers["Cache-Control"] = "private, no-cache"
    return response
