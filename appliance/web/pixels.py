"""What the viewer of the study page loads: how an image is to be shown, and its values at their full depth."""

from __future__ import annotations

import gzip
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path

from flask import Blueprint, Response, abort, current_app, request, send_from_directory
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response as BaseResponse

from appliance.errors import ApplianceError, SandboxError
from appliance.viewing import DESCRIPTION, Viewing, slice_name
from appliance.web.language import gettext as _
from appliance.web.rights import needs

blueprint = Blueprint("pixels", __name__)
_LONGEST_SECONDS = 20.0  # below the server's limit for a request


def _folder(number: int) -> Path:
    viewing: Viewing = current_app.config["SCANSIDE_VIEWING"]
    try:
        return viewing.begin(number).result(_LONGEST_SECONDS)
    except FutureTimeoutError:  # it is still being read: for the next request
        raise ServiceUnavailable(_("The image is still being read."), retry_after=2) from None
    except SandboxError as error:
        raise ServiceUnavailable(str(error), retry_after=5) from error
    except (ApplianceError, OSError) as error:
        abort(404, _("Image %(number)s can't be shown at its full depth: %(error)s", number=number, error=error))


@blueprint.get("/viewer/warm")
@needs("see", automatic=True)
def warm() -> tuple[str, int]:
    """Somebody is about to look at an image: what reads files is started meanwhile."""
    current_app.config["SCANSIDE_VIEWING"].warm()
    return "", 204


@blueprint.get("/study/<row:number>/pixels.json")
@needs("see", automatic=True)
def description(number: int) -> BaseResponse:
    """`appliance.viewing.Description`; makes the pixels ready."""
    return _private(send_from_directory(_folder(number), DESCRIPTION, mimetype="application/json"))


@blueprint.get("/study/<row:number>/pixels/<int(max=100000):place>.raw")
@needs("see", automatic=True)
def pixels(number: int, place: int) -> BaseResponse:
    """The stored numbers of one slice, from 0 on: little-endian, 16 bits, row by row."""
    folder, name = _folder(number), slice_name(place)
    if not (folder / name).exists():
        abort(404, _("Image %(number)s has no slice %(place)s.", number=number, place=place))
    if request.accept_encodings.quality("gzip") > 0:
        answer = send_from_directory(folder, name, mimetype="application/octet-stream")
        answer.headers["Content-Encoding"] = "gzip"
    else:
        answer = Response(gzip.decompress((folder / name).read_bytes()), mimetype="application/octet-stream")
    answer.headers["Vary"] = "Accept-Encoding"
    return _private(answer)


def _private(response: BaseResponse) -> BaseResponse:
    response.headers["Cache-Control"] = "private, no-cache"
    return response
