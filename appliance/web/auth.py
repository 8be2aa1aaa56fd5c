"""Who asks, and whether they may: sessions, tokens, HTTP Basic, the login, and no other site's doing.

While there is no account, a page on loopback is open, and one on another address serves nothing but the form that makes
the first account. As soon as there is one, everything asks who it is.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from urllib.parse import quote, urlsplit

from flask import Flask, Response, abort, current_app, g, redirect, request, session
from itsdangerous import BadData, URLSafeTimedSerializer
from werkzeug.sansio.utils import host_is_trusted
from werkzeug.wrappers import Response as BaseResponse

from appliance.accounts import ALL_RIGHTS, Account, Accounts, Right
from appliance.config import LOOPBACK, Config
from appliance.errors import LoginError
from appliance.sessions import Sessions
from appliance.tokens import Tokens
from appliance.web.language import gettext as _
from appliance.web.rights import API, FOR_SYSTEMS, is_automatic, may, right_of

_WITH_TOKENS = (FOR_SYSTEMS, API, "/metrics")
_BEFORE_ANY_ACCOUNT = ("static", "views.healthz", "branding.", "people.enrol", "people.log")
_SESSION_KEY = "login"
_KNOWN_COOKIE = "scanside-known"
_KNOWN_SECONDS = 180 * 86400
_LONGEST_NEXT = 1000
_MOST_REMEMBERED = 100


class Gate:
    """What the requests of one page are let in by."""

    def __init__(self, config: Config, secret: bytes) -> None:
        self.accounts = Accounts(config.ledger_path)
        self.sessions = Sessions(config.ledger_path, config.web.idle_minutes * 60, config.web.session_hours * 3600)
        self.tokens = Tokens(config.ledger_path)
        self._on_loopback = config.web.host in LOOPBACK
        self._known = URLSafeTimedSerializer(secret, "a browser that an account has logged in with")
        self._closed = False
        self._key = os.urandom(32)
        self._right: dict[bytes, str] = {}  # what was right by HTTP Basic -> the password's hash at that time

    @property
    def closed(self) -> bool:
        """Whether there is an account, so that everybody has to log in."""
        self._closed = self._closed or self.accounts.store.any_account()  # none is ever removed
        return self._closed

    @property
    def unclaimed(self) -> bool:
        """Whether the network reaches a page without any account."""
        return not self._on_loopback and not self.closed

    def identify(self) -> None:
        """Find out who asks, and keep it in ``g``: person, role, how, rights."""
        g.person, g.role, g.how, g.rights = "", "", "", frozenset({"open"})
        given = request.authorization
        if given is not None and given.type == "bearer" and request.path.startswith(_WITH_TOKENS):
            token = self.tokens.of(given.token or "")
            if token is not None:
                g.person, g.how, g.rights = token.name, "token", token.rights
            return  # whoever shows a token is not asked for a cookie
        if request.path.startswith(FOR_SYSTEMS):  # where no cookie counts, so that no other site can use one
            if given is not None and given.type == "basic":
                self._take(self._by_basic(given.username or "", given.password or ""), "password")
            return
        secret = session.get(_SESSION_KEY)
        if isinstance(secret, str):
            by_person = not is_automatic(current_app, request)
            self._take(self.sessions.account(secret, by_person), "session")

    @staticmethod
    def _take(account: Account | None, how: str) -> None:
        if account is not None:
            g.person, g.role, g.how, g.rights = account.name, account.role, how, account.rights

    def _by_basic(self, name: str, password: str) -> Account | None:
        """A right password is checked slowly only once; it counts until it is changed."""
        seen = hmac.digest(self._key, f"{len(name)}:{name}{password}".encode(), hashlib.sha256)
        row = self.accounts.store.account(name)
        if row is not None and row["disabled_at"] is None and self._right.get(seen) == row["password"]:
            return Account.of(row)
        try:
            account = self.accounts.log_in(name, password, address(), basic=True)
        except LoginError:
            return None
        if row is not None:
            if len(self._right) >= _MOST_REMEMBERED:
                self._right.clear()
            self._right[seen] = row["password"]
        return account

    def may_still(self, person: str, how: str, since: float, right: Right) -> bool:
        """Whether who was let in then, as ``g`` had it, would be let in now."""
        if how == "token":
            token = self.tokens.named(person, since)
            return token is not None and right in token.rights
        if person:
            row = self.accounts.store.account(person)
            return row is not None and row["disabled_at"] is None and right in Account.of(row).rights
        return not self.closed and self._on_loopback

    # --- sessions ---------------------------------------------------------------------------------------------

    def log_in(self, name: str, password: str) -> Account:
        """Begin a session of this browser; raises `LoginError`."""
        mark = self._mark(name)
        account = self.accounts.log_in(name, password, address(), mark)
        self.begin(account)
        return account

    def begin(self, account: Account) -> None:
        """Give this browser a new session, whatever it had before."""
        old = session.get(_SESSION_KEY)
        session.clear()
        if isinstance(old, str):
            self.sessions.end(old)
        session[_SESSION_KEY] = self.sessions.begin(account, address())
        g.person, g.role, g.how, g.rights = account.name, account.role, "session", account.rights

    def end(self) -> None:
        secret = session.get(_SESSION_KEY)
        session.clear()
        if isinstance(secret, str):
            self.sessions.end(secret)

    def remember_browser(self, response: BaseResponse) -> None:
        """Mark a browser as one in which the account that is logged in now was logged in."""
        name = g.person.lower()
        mark = self._mark(name) or secrets.token_hex(16)
        response.set_cookie(
            _KNOWN_COOKIE,
            str(self._known.dumps([name, mark])),
            max_age=_KNOWN_SECONDS,
            path="/login",
            secure=bool(current_app.config["SESSION_COOKIE_SECURE"]),
            httponly=True,
            samesite="Strict",
        )

    def _mark(self, name: str) -> str:
        """Of this browser, where the account of this name has logged in with it; '' where it has not."""
        try:
            said, mark = self._known.loads(request.cookies.get(_KNOWN_COOKIE, ""), max_age=_KNOWN_SECONDS)
        except (BadData, ValueError, TypeError):
            return ""
        return str(mark) if said == name.lower() else ""

    # --- letting in -------------------------------------------------------------------------------------------

    def answer(self) -> BaseResponse | None:
        """None where the request is let in; otherwise what it gets, or an HTTP error is raised."""
        right = right_of(current_app, request.endpoint)
        self.identify()
        if not self.closed:
            if self._on_loopback:
                # Another site's name that resolves to this machine must not read the page (DNS rebinding).
                if not host_is_trusted(request.host, LOOPBACK_HOSTS):
                    abort(400, _("This page answers on this machine's own name only."))
                g.rights = ALL_RIGHTS
                return None
            return None if (request.endpoint or "").startswith(_BEFORE_ANY_ACCOUNT) else self._ask("/enrol")
        if may(right):
            return None
        if g.person:
            abort(403, _("%(person)s may not do this: it needs the right to %(right)s.", person=g.person, right=right))
        return self._ask(f"/login{_next()}")

    @staticmethod
    def _ask(page: str) -> BaseResponse:
        """To log in: a page's reader by the login page, a system by the status code."""
        g.asked = True
        if request.path.startswith(FOR_SYSTEMS):
            return Response("login required\n", 401, {"WWW-Authenticate": 'Basic realm="Scanside", charset="UTF-8"'})
        if request.path.startswith(_WITH_TOKENS):
            abort(401, "Log in, or send a token: Authorization: Bearer ...")
        return redirect(page)


LOOPBACK_HOSTS = ["127.0.0.1", "localhost", "[::1]"]


def address() -> str:
    """Where the request comes from."""
    return request.remote_addr or "unknown"


def gate() -> Gate:
    found: Gate = current_app.config["SCANSIDE_GATE"]
    return found


def protect(app: Flask, config: Config, secret: bytes) -> None:
    """Let nobody past what they may do."""
    app.config["SCANSIDE_GATE"] = Gate(config, secret)

    @app.before_request
    def guard() -> BaseResponse | None:
        return gate().answer()


def refuse_other_sites(app: Flask) -> None:
    """Refuse what a browser sends to this page in the name of another site's page, on all routes that change anything.

    This holds without a login, too, where no cookie would be missing. A browser says with each such request where it
    comes from: in Sec-Fetch-Site over TLS and on the device itself, in Origin always. What says neither is no browser,
    and served only where systems send, without a session. A secret in every form would add nothing: what can read the
    page's own forms, or forge these headers, could read it, too.
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
            same = request.path.startswith((FOR_SYSTEMS, API)) and not session
        if not same:
            abort(
                403, _("This was not sent by a page of this device. Load the page again, and press the button there.")
            )


def _next() -> str:
    """What to show after the login, as a query string; '' for the first page, and where something was sent."""
    path = request.full_path.rstrip("?")
    if request.method != "GET" or path == "/" or len(path) > _LONGEST_NEXT:
        return ""
    return f"?next={quote(path, safe='/')}"


def place_of(text: str) -> str:
    """A page of this device to go to after the login; never another site."""
    parts = urlsplit(text)
    local = text.startswith("/") and not text.startswith(("//", "/\\")) and not parts.scheme and not parts.netloc
    if not local or len(text) > _LONGEST_NEXT or any(ord(letter) < 33 or letter in "\\\x7f" for letter in text):
        return "/"
    return text
