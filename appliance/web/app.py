"""The Flask application: its headers, its filters, its errors."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable
from pathlib import Path

from flask import Flask, Response, g, render_template, request
from werkzeug.exceptions import HTTPException

from appliance import __version__, brand
from appliance.assessment_store import Assessments
from appliance.audit import Trail
from appliance.config import Config
from appliance.drift.store import DriftStore
from appliance.manifests import Manifests
from appliance.reader_study import ReaderStudies
from appliance.safe_mode import LEVEL_WORDS
from appliance.safe_mode_store import SafeModeStore
from appliance.spool import write_durably
from appliance.store import Store
from appliance.viewing import Viewing
from appliance.web import (
    api,
    api_acting,
    api_device,
    api_drift,
    api_judging,
    api_studies,
    arrivals,
    assessing,
    auth,
    box,
    branding,
    commissioning,
    custody,
    deliveries,
    device,
    drift,
    embedding,
    formats,
    kiosk,
    language,
    metrics,
    models,
    numbers,
    people,
    performing,
    pixels,
    reading,
    rights,
    safety,
    trail,
    views,
)
from appliance.web.language import gettext as _
from appliance.web.once import Once
from appliance.worklist_store import Worklists

_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def create_app(config: Config, on_arrival: Callable[[], None] = lambda: None) -> Flask:
    """The page of one appliance; writes to its ledger readers' answers in studies, files that come in, what `custody`,
    `deliveries`, `safety`, `performing`, `api_acting`, `api_drift`, `api_judging` and `people` do, and to the audit
    trail who saw and did what.

    Parameters
    ----------
    on_arrival
        Called after each file that came in over HTTP, from any thread; must not block.
    """
    app = Flask(__name__)
    store = Store(config.ledger_path, read_only=True)
    secret = _secret(config.key_path.with_name("web-secret"))
    app.config.update(
        SECRET_KEY=secret,
        SESSION_COOKIE_NAME="__Host-scanside" if config.web.over_tls else "scanside",
        SESSION_COOKIE_SECURE=config.web.over_tls,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=64 * 1024,
        SCANSIDE=config,
        SCANSIDE_STORE=store,
        SCANSIDE_BRAND=brand.load(config),
        SCANSIDE_ASSESSMENTS=Assessments(config.ledger_path, read_only=True),
        SCANSIDE_MANIFESTS=Manifests(config),
        SCANSIDE_VIEWING=Viewing(config, store),
        SCANSIDE_ONCE=Once(),
        SCANSIDE_WORKLISTS=Worklists(config.ledger_path, read_only=True),
        SCANSIDE_DRIFT=DriftStore(config.ledger_path, read_only=True),
        SCANSIDE_SAFE_MODE=SafeModeStore(config.ledger_path, read_only=True),
        SCANSIDE_READER_STUDIES=ReaderStudies(config.ledger_path),
    )
    numbers.install(app)
    app.register_blueprint(views.blueprint)
    app.register_blueprint(pixels.blueprint)
    app.register_blueprint(assessing.blueprint)
    app.register_blueprint(custody.blueprint)
    app.register_blueprint(deliveries.blueprint)
    app.register_blueprint(drift.blueprint)
    app.register_blueprint(reading.blueprint)
    for part in (
        people, kiosk, device, api_studies, api_device, api_acting, api_drift, api_judging, metrics, branding,
        embedding, safety, performing, models,
    ):  # fmt: skip
        app.register_blueprint(part.blueprint)
    arrivals.register(app, config, on_arrival)
    box.register(app, config)
    commissioning.register(app, config)
    auth.refuse_other_sites(app)
    auth.protect(app, config, secret)
    trail.keep(app, Trail(config.audit_path, config.key_path))
    reading.keep_blinded(app)
    strict_transport = config.web.tls is not None  # what this device has signed itself may have to be replaced

    def headers(response: Response) -> Response:
        return _headers(response, strict_transport)

    app.after_request(headers)
    app.register_error_handler(HTTPException, _error)
    app.context_processor(
        lambda: {
            "version": __version__,
            "brand": app.config["SCANSIDE_BRAND"],
            "who": g.get("person", ""),
            "role": g.get("role", ""),
            "may": rights.may,
            "now": time.time,
            "claimed": app.config["SCANSIDE_GATE"].closed,
            "unrecorded": app.config["SCANSIDE_TRAIL"].problem,
            "uploads": config.uploads.enabled,
            "is_box": bool(config.box.report),
            "undelivered": app.config["SCANSIDE_STORE"].undelivered_count(),
            "drift_alarms": app.config["SCANSIDE_DRIFT"].open_alarms(),
            "safe_mode": app.config["SCANSIDE_SAFE_MODE"].in_force(),
            "safe_mode_words": LEVEL_WORDS,
        }
    )

    def person(row: dict[str, str]) -> tuple[str, str]:
        """What is shown of a patient: name and ID, or a pseudonym that is the same for the same ID on this device."""
        if config.web.show_patient:
            groups = (" ".join(group.replace("^", " ").split()) for group in row["patient_name"].split("="))
            return " · ".join(filter(None, groups)) or _("no name"), row["patient_id"] or _("no ID")
        digest = hmac.new(secret, row["patient_id"].encode(), hashlib.sha256).hexdigest()
        known = " " + digest[:6].upper() if row["patient_id"] else ""
        return _("Patient") + known, _("de-identified")

    app.jinja_env.filters.update(formats.FILTERS, person=person)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    language.install(app)
    rights.refuse_unmarked(app)
    return app


def _secret(path: Path) -> bytes:
    """The key of session cookies and pseudonyms, made at the first start, readable by its owner only."""
    if not path.exists():
        write_durably(path, os.urandom(32))
    return path.read_bytes()


def _headers(response: Response, strict_transport: bool) -> Response:
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers.setdefault("Referrer-Policy", "same-origin")  # so that this page's own forms name their origin
    response.headers["Cross-Origin-Opener-Policy"] = response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    if strict_transport:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return response


def _error(error: HTTPException) -> Response:
    if request.path.startswith(rights.API):
        return api.problem(error)
    if request.path.startswith(rights.FOR_SYSTEMS):
        answer = Response(f"{error.description}\n", mimetype="text/plain")
    else:
        answer = Response(render_template("error.html", error=error))
    answer.headers.extend((name, value) for name, value in error.get_headers() if name != "Content-Type")
    answer.status_code = error.code or 500
    return answer
