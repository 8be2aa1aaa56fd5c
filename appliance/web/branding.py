"""A vendor's logo and colors, as the page loads them."""

from __future__ import annotations

from flask import Blueprint, Response, abort, current_app

from appliance.brand import Branding
from appliance.web.language import gettext as _
from appliance.web.rights import needs

blueprint = Blueprint("branding", __name__)


def _brand() -> Branding:
    found: Branding = current_app.config["SCANSIDE_BRAND"]
    return found


@blueprint.get("/brand/logo")
@needs("open", automatic=True)
def logo() -> Response:
    if not _brand().logo:
        abort(404, _("No logo is configured."))
    response = Response(_brand().logo, mimetype=_brand().mimetype)
    # An SVG may hold scripts. In an <img> they don't run; opened by itself it must not run them either.
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["Cache-Control"] = "no-cache"
    return response


@blueprint.get("/brand/colors.css")
@needs("open", automatic=True)
def colors() -> Response:
    response = Response(_brand().css, mimetype="text/css")
    response.headers["Cache-Control"] = "no-cache"
    return response
