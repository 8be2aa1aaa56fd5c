"""The page of a box, a machine that was flashed with `firmware/`: how it is, and what administrators hand over.

The page can change nothing of the box. It leaves the files in ``inbox/`` of the data folder; the firmware, another
process with another user, takes what is signed, and says in the file ``box.report`` what came of it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from flask import Blueprint, Flask, Response, abort, redirect, render_template, request
from werkzeug.exceptions import Conflict, ServiceUnavailable, UnsupportedMediaType
from werkzeug.wrappers import Response as BaseResponse

from appliance.config import Config
from appliance.spool import write_durably
from appliance.web import here
from appliance.web.language import gettext as _
from appliance.web.multipart import Part, parts
from appliance.web.rights import needs

blueprint = Blueprint("box", __name__)

_NAMES = re.compile(
    r"site\.toml(\.sig)?|[A-Za-z0-9][A-Za-z0-9._+-]{0,99}\.(scanside|raucb)"
    r"|[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}\.(pem|pub|txt|png|svg)"  # certificate.pem, and what goes with site.toml
)
_LARGEST_FILE, _LARGEST_REQUEST, _MOST_FILES = 2 * 10**9, 4 * 10**9, 20
_PERCENT = re.compile(r"\b(\d{1,3}) %")


def register(app: Flask, config: Config) -> None:
    """Add the page, where this is a box."""
    if config.box.report:
        app.register_blueprint(blueprint)


def report_of_box() -> dict[str, Any]:
    """What the firmware says; empty where it has said nothing yet."""
    try:
        return dict(json.loads(Path(here.config().box.report).read_bytes()))
    except (OSError, ValueError):
        return {}


def is_uncommissioned() -> bool:
    """Whether this is a box on whose page its first configuration may be entered."""
    report = report_of_box() if here.config().box.report else {}
    return bool(report.get("may_enter")) and not report.get("site")


@blueprint.get("/box")
@needs("administer")
def box() -> str:
    return render_template("box.html", **_shown())


@blueprint.get("/box.fragment")
@needs("administer", automatic=True)
def box_fragment() -> BaseResponse:
    """The part of the page that changes; 304 while nothing did."""
    response = Response(render_template("_box.html", **_shown()))
    response.set_etag(hashlib.sha256(response.get_data()).hexdigest()[:16])
    response.headers["Cache-Control"] = "no-cache"
    response.make_conditional(request)
    return response


def _shown() -> dict[str, Any]:
    report = report_of_box()
    said = [line.strip() for line in report.get("said", ())]
    found = _PERCENT.search(said[-1]) if said and report.get("working") else None
    waits = (_inbox() / "go").exists()
    return {"report": report, "said": said, "percent": int(found[1]) if found else None, "waits": waits}


@blueprint.get("/box/request.csr")
@needs("administer")
def certificate_request() -> Response:
    """For the hospital's authority; the key stays on the box."""
    report = report_of_box()
    if not report.get("request"):
        abort(404, _("This box has made no request for a certificate yet."))
    response = Response(report["request"], mimetype="application/pkcs10")
    response.headers["Content-Disposition"] = f'attachment; filename="scanside-{report["box"]}.csr"'
    return response


@blueprint.post("/box")
@needs("administer")
def hand_over() -> BaseResponse:
    """Leave the files of the form for the firmware, all or none."""
    if request.mimetype != "multipart/form-data" or not (boundary := request.mimetype_params.get("boundary")):
        raise UnsupportedMediaType(_("Send the form of this page."))
    _refuse_while_taking()
    request.max_content_length = _LARGEST_REQUEST
    left: list[Path] = []
    try:
        _inbox().mkdir(mode=0o700, exist_ok=True)
        for part in parts(request.stream, str(boundary), _LARGEST_FILE, _MOST_FILES):
            if part.filename:  # a browser sends an empty one for a field in which nothing was chosen
                _leave(part, left)
        if not left:
            abort(400, _("Choose files first."))
        for path in left:
            path.replace(path.with_suffix(""))
        (_inbox() / "go").touch()
    except OSError as error:
        raise ServiceUnavailable(_("The files can't be kept: %(why)s.", why=error.strerror or error)) from error
    finally:
        for path in left:
            path.unlink(missing_ok=True)
    return redirect("/box")


def leave_for_firmware(name: str, content: bytes) -> None:
    """The same with one file, of a name that the firmware knows."""
    _refuse_while_taking()
    _inbox().mkdir(mode=0o700, exist_ok=True)
    write_durably(_inbox() / name, content)
    (_inbox() / "go").touch()


def _refuse_while_taking() -> None:
    if report_of_box().get("working") or (_inbox() / "go").exists():
        raise Conflict(_("The box is still taking what was handed over before."))


def _leave(part: Part, left: list[Path]) -> None:
    """One file, under a name that the firmware passes over until all are here; it is added to ``left``."""
    if not _NAMES.fullmatch(part.filename):
        said = _(
            "%(name)s is nothing that a box takes: *.raucb (an update), *.scanside (a model), site.toml with "
            "site.toml.sig and the files that go with it (*.pem, *.pub, *.txt, *.png, *.svg), certificate.pem.",
            name=part.filename,
        )
        abort(400, said)
    path = _inbox() / f"{part.filename}.part"
    left.append(path)
    with path.open("wb") as file:
        for piece in part.pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())


def _inbox() -> Path:
    return here.config().data / "inbox"
