"""The Flask application: its headers, its filters, its errors."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from flask import Flask, Response, render_template, request
from werkzeug.exceptions import HTTPException

from appliance import __version__
from appliance.config import LOOPBACK, Config
from appliance.drift.store import DriftStore
from appliance.reader_study import ReaderStudies
from appliance.reading_order import of_rank
from appliance.result import Finding, Segment
from appliance.spool import write_durably
from appliance.store import Store
from appliance.web import arrivals, auth, custody, deliveries, drift, reading, views

_POLICY = (
    "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def create_app(config: Config, on_arrival: Callable[[], None] = lambda: None) -> Flask:
    """The page of one appliance; writes to its ledger readers' answers in studies, files that come
    in, and what `custody` does.

    Parameters
    ----------
    on_arrival
        Called after each file that came in over HTTP, from any thread; must not block.
    """
    app = Flask(__name__)
    secret = _secret(config.key_path.with_name("web-secret"))
    app.config.update(
        SECRET_KEY=secret,
        SESSION_COOKIE_NAME="scanside",
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=64 * 1024,
        SCANSIDE=config,
        SCANSIDE_STORE=Store(config.ledger_path, read_only=True),
        SCANSIDE_DRIFT=DriftStore(config.ledger_path, read_only=True),
        SCANSIDE_READER_STUDIES=ReaderStudies(config.ledger_path),
    )
    if config.web.host in LOOPBACK and config.web.login is None:
        # Another site's name that resolves to this machine must not read the page (DNS rebinding).
        app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost", "[::1]"]
    app.register_blueprint(views.blueprint)
    app.register_blueprint(custody.blueprint)
    app.register_blueprint(deliveries.blueprint)
    app.register_blueprint(drift.blueprint)
    app.register_blueprint(reading.blueprint)
    arrivals.register(app, config, on_arrival)
    auth.refuse_other_sites(app)
    auth.protect(app, config)
    reading.keep_blinded(app)
    app.after_request(_headers)
    app.register_error_handler(HTTPException, _error)
    app.context_processor(
        lambda: {
            "version": __version__,
            "login": config.web.login is not None,
            "uploads": config.uploads.enabled,
            "undelivered": app.config["SCANSIDE_STORE"].undelivered_count(),
            "drift_alarms": app.config["SCANSIDE_DRIFT"].open_alarms(),
        }
    )

    def person(row: dict[str, str]) -> tuple[str, str]:
        """What is shown of a patient: name and ID, or a pseudonym that is the same for the same ID on this device."""
        if config.web.show_patient:
            return row["patient_name"].replace("^", " ").strip() or "no name", row["patient_id"] or "no ID"
        digest = hmac.new(secret, row["patient_id"].encode(), hashlib.sha256).hexdigest()
        return f"Patient {digest[:6].upper()}" if row["patient_id"] else "Patient", "de-identified"

    app.jinja_env.filters.update(
        person=person,
        tier=_tier,
        moment=_moment,
        ago=_ago,
        size=_size,
        kind=_kind,
        percent=_percent,
        reported_as=_reported_as,
        extent=_extent,
        color=_color,
    )
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    return app


def _tier(row: dict[str, Any]) -> str:
    """Of a row of the ledger: how confident the model is of an urgent finding."""
    return of_rank(row["reading_rank"])[1]


def _reported_as(finding: dict[str, Any]) -> str:
    return msgspec.convert(finding, Finding).reported_as


def _extent(segment: dict[str, Any]) -> str:
    """How large a segment is, in words."""
    return msgspec.convert(segment, Segment).size


def _color(segment: dict[str, Any]) -> str:
    """As SVG and HTML take it."""
    return "#{:02x}{:02x}{:02x}".format(*segment["color"])


def _secret(path: Path) -> bytes:
    """The key of session cookies and pseudonyms, made at the first start, readable by its owner only."""
    if not path.exists():
        write_durably(path, os.urandom(32))
    return path.read_bytes()


def _headers(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"  # so that this page's own forms name their origin
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return response


def _error(error: HTTPException) -> Response:
    if request.path.startswith(auth.FOR_SYSTEMS):
        answer = Response(f"{error.description}\n", mimetype="text/plain")
    else:
        answer = Response(render_template("error.html", error=error))
    answer.headers.extend((name, value) for name, value in error.get_headers() if name != "Content-Type")
    answer.status_code = error.code or 500
    return answer


def _moment(seconds: float | None) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S") if seconds else ""


def _ago(seconds: float | None) -> str:
    """A duration in words, to its two largest units."""
    if seconds is None:
        return ""
    left = int(seconds)
    words: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not words):
            words.append(f"{count} {unit}")
    return " ".join(words[:2])


def _kind(kind: str) -> str:
    """A kind of result, for people."""
    return {"hl7_oru": "HL7 message", "fhir_bundle": "FHIR bundle"}.get(kind) or kind.replace("_", " ").capitalize()


def _size(count: float) -> str:
    return f"{count / 1024**3:.1f} GB" if count >= 1024**3 else f"{count / 1024**2:.0f} MB"


def _percent(share: float) -> str:
    """0 and 100 % are kept for certainty, which no model has."""
    digits = 1 if share < 0.1 or share > 0.9 else 0
    return f"{min(max(share * 100, 0.1), 99.9):.{digits}f}\N{NO-BREAK SPACE}%"
