"""The login: needed for every page as soon as one is configured."""

from __future__ import annotations

import hmac
import threading
import time

from flask import Flask, Response, redirect, render_template, request, session, url_for
from werkzeug.security import check_password_hash
from werkzeug.wrappers import Response as BaseResponse

from appliance.config import Config

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


def protect(app: Flask, config: Config) -> None:
    """Add the login page and let nobody past it, where the configuration has a login."""
    settings = config.web.login
    if settings is None:
        return
    throttle = Throttle()

    @app.before_request
    def require_login() -> BaseResponse | None:
        fresh = time.time() - session.get("since", 0.0) < _SESSION_SECONDS
        if request.endpoint in _OPEN or fresh:
            return None
        if request.path.startswith("/api/"):
            return Response("login required", 401)
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
