"""Who may do what: the login, as soon as one is configured, and no other site's doing in a browser's name."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
import time
from urllib.parse import urlsplit

from flask import Flask, Response, abort, redirect, render_template, request, session, url_for
from werkzeug.security import check_password_hash
from werkzeug.wrappers import Response as BaseResponse

from appliance.config import Config, Login

FOR_SYSTEMS = "/dicom-web/"  # below this no person looks, and a login is HTTP's Basic one (RFC 7617)
_OPEN = ("login", "static", "views.healthz")
_FREE_TRIES = 5
_LONGEST_WAIT = 300.0
_SESSION_SECONDS = 12 * 3600


class Throttle:
    """After a few wrong passwords, each further try has to wait, twice as long as the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures = 0
        self._open_at = 0.0

    def wait(self) -> float:
        """Seconds until the next try is looked at."""
        with self._lock:
            return max(self._open_at - time.monotonic(), 0.0)

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= _FREE_TRIES:
                pause = min(2.0 ** (self._failures - _FREE_TRIES), _LONGEST_WAIT)
                self._open_at = time.monotonic() + pause

    def succeeded(self) -> None:
        with self._lock:
            self._failures, self._open_at = 0, 0.0


def refuse_other_sites(app: Flask) -> None:
    """Refuse what a browser sends to this page in the name of another site's page, on all routes that change anything.

    A page without a login has no cookie that would be missing then. A browser says with each such request where it
    comes from: in Sec-Fetch-Site over TLS and on the device itself, in Origin always. What says neither is no browser,
    and served only where systems send: STOW-RS and the JSON API.
    """

    @app.before_request
    def check_origin() -> None:
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return
        site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
        if site:
            same = site in ("same-origin", "none")
        elif origin is not None:
            same = urlsplit(origin).netloc == request.host
        else:
            same = request.path.startswith((FOR_SYSTEMS, "/api/"))
        if not same:
            abort(403, "This was not sent by a page of this device. Load the page again, and press the button there.")


class _Basic:
    """Name and password in every request, as systems send them; a right one is checked slowly only once."""

    def __init__(self, settings: Login) -> None:
        self._settings = settings
        self._throttle = Throttle()  # of its own: a system with a wrong password must not lock people out
        self._key = os.urandom(32)
        self._right = b""

    def is_right(self) -> bool:
        given = request.authorization
        if given is None or given.type != "basic":
            return False
        name, password = given.username or "", given.password or ""
        digest = hmac.digest(self._key, f"{len(name)}:{name}{password}".encode(), hashlib.sha256)
        if self._right and hmac.compare_digest(digest, self._right):
            return True
        if self._throttle.wait() > 0:
            return False
        same = hmac.compare_digest(name.encode(), self._settings.username.encode())
        if check_password_hash(self._settings.password_hash, password) and same:
            self._right = digest
            self._throttle.succeeded()
            return True
        self._throttle.failed()
        return False


def protect(app: Flask, config: Config) -> None:
    """Add the login page and let nobody past it, where the configuration has a login."""
    settings = config.web.login
    if settings is None:
        return
    throttle, basic = Throttle(), _Basic(settings)

    @app.before_request
    def require_login() -> BaseResponse | None:
        fresh = time.time() - session.get("since", 0.0) < _SESSION_SECONDS
        view = app.view_functions.get(request.endpoint or "")
        if request.endpoint in _OPEN or getattr(view, "needs", "") == "open" or fresh:
            return None
        if request.path.startswith(FOR_SYSTEMS):
            if basic.is_right():
                return None
            return Response("login required\n", 401, {"WWW-Authenticate": 'Basic realm="Scanside", charset="UTF-8"'})
        if request.path.startswith("/api/"):
            abort(401, "A login or a token is needed.")
        return redirect(url_for("login"))

    @app.route("/login", methods=["GET", "POST"])
    def login() -> str | tuple[str, int] | BaseResponse:
        if request.method == "GET":
            return render_template("login.html", problem="")
        wait = throttle.wait()
        if wait > 0:
            return render_template("login.html", problem=f"Too many tries. Wait {wait:.0f} s."), 429
        name = hmac.compare_digest(request.form.get("username", "").encode(), settings.username.encode())
        # Checked for a wrong name, too, so that the time tells nothing.
        if check_password_hash(settings.password_hash, request.form.get("password", "")) and name:
            throttle.succeeded()
            session.clear()
            session["since"] = time.time()
            return redirect(url_for("views.worklist"))
        throttle.failed()
        return render_template("login.html", problem="The name or the password is wrong."), 403

    @app.post("/logout")
    def logout() -> BaseResponse:
        session.clear()
        return redirect(url_for("login"))
