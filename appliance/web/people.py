"""The pages of people: log in and out, the first account, one's own password, and all accounts and tokens."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, abort, g, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from appliance.accounts import Account
from appliance.errors import AccountError, LoginError
from appliance.tokens import period
from appliance.web import recorded, trail
from appliance.web.auth import address, gate, place_of
from appliance.web.box import is_uncommissioned
from appliance.web.language import gettext as _
from appliance.web.language import marked, translated
from appliance.web.rights import needs

blueprint = Blueprint("people", __name__)

Page = str | tuple[str, int] | BaseResponse

ROLE_WORDS = {
    "viewer": marked("sees results"),
    "clinician": marked("sees results, and says whether they are right"),
    "engineer": marked("sees results, looks after the device, sends images"),
    "administrator": marked("may do all of this, and makes accounts and tokens"),
}
SCOPE_WORDS = {
    "see": marked("results and metrics"),
    "assess": marked("say whether results are right"),
    "send": marked("images, by STOW-RS"),
    "operate": marked("the device, read and send again"),
    "administer": marked("accounts and tokens"),
}
_ACCOUNT = "/accounts/<string(maxlength=64):name>"


@blueprint.get("/login")
@needs("open", automatic=True)
def login_form() -> Page:
    if gate().unclaimed:
        return redirect("/enrol")
    place = place_of(request.args.get("next", "/"))
    if not gate().closed or g.person:
        return redirect(place)
    return render_template("login.html", problem="", next=place, name="")


@blueprint.post("/login")
@needs("open")
def login() -> Page:
    name, place = request.form.get("username", "").strip(), place_of(request.form.get("next", "/"))
    if gate().unclaimed:
        return redirect("/enrol")
    if not gate().closed:
        return redirect(place)
    known = gate().accounts.store.account(name)
    try:
        account = gate().log_in(name, request.form.get("password", ""))
    except LoginError as error:
        # What is no account's name may be a password that was typed into the wrong field.
        trail.note("lock_out" if error.wait else "login", who=known["name"] if known else "", failed=True)
        status = 429 if error.wait else 403
        return render_template("login.html", problem=recorded.said(error.message), next=place, name=name[:64]), status
    trail.note("login", who=account.name)
    response = redirect(place)
    gate().remember_browser(response)
    return response


@blueprint.post("/logout")
@needs("open")
def logout() -> BaseResponse:
    trail.note("logout")
    gate().end()
    return redirect("/login")


@blueprint.get("/enrol")
@needs("open", automatic=True)
def enrolment() -> Page:
    if g.person:
        return redirect("/")
    return render_template("enrol.html", problem="", name="", code="")


@blueprint.post("/enrol")
@needs("open")
def enrol() -> Page:
    """Make an account: the first one with the code that the device has printed, others by invitation."""
    form, first = request.form, not gate().closed
    name, code, password = form.get("username", "").strip(), form.get("code", ""), form.get("password", "")
    try:
        if password != form.get("again", ""):
            raise AccountError("the two passwords differ")
        account = gate().accounts.enrol(code, name, password, address())
    except AccountError as error:
        trail.note("enrol", failed=True)
        status = 429 if isinstance(error, LoginError) and error.wait else 400
        return render_template("enrol.html", problem=recorded.of_error(error), name=name[:64], code=code[:64]), status
    gate().begin(account)
    trail.note("enrol", who=account.name, target=f"account {account.name}")
    if first and is_uncommissioned():
        return redirect("/box/site")
    return redirect("/accounts" if first else "/")


# --- one's own account -------------------------------------------------------------------------------------------


@blueprint.get("/account")
@needs("see")
def own() -> Page:
    return _own()


def _own(problem: str = "", done: bool = False) -> str:
    return render_template("account.html", problem=problem, done=done, words=translated(ROLE_WORDS))


@blueprint.post("/account/password")
@needs("see")
def change_password() -> Page:
    """Change one's own password; all other sessions of the account end."""
    if g.how != "session":
        abort(403, _("Only whoever is logged in on this page has a password to change."))
    try:
        if request.form.get("new", "") != request.form.get("again", ""):
            raise AccountError("the two new passwords differ")
        gate().accounts.change_password(g.person, request.form.get("old", ""), request.form.get("new", ""))
    except AccountError as error:
        trail.note("change_password", target=f"account {g.person}", failed=True)
        return _own(recorded.of_error(error)), 400
    trail.note("change_password", target=f"account {g.person}")
    row = gate().accounts.known(g.person)
    gate().begin(Account.of(row))
    return _own(done=True)


# --- all accounts and tokens -------------------------------------------------------------------------------------


@blueprint.get("/accounts")
@needs("administer")
def accounts() -> Page:
    return _accounts()


def _accounts(problem: str = "", token: str = "", invited: tuple[str, str] = ("", ""), status: int = 200) -> Page:
    """``invited``: a name, and its code."""
    page = render_template(
        "accounts.html",
        rows=gate().accounts.store.accounts(),
        invitations=gate().accounts.store.invitations(),
        invited=invited,
        tokens=gate().tokens.rows(),
        roles=translated(ROLE_WORDS),
        scopes=translated(SCOPE_WORDS),
        problem=problem,
        token=token,
    )
    return page, status


def _done(what: str, target: str, act: Any) -> Page:
    """Do it, and show all accounts again, with what is wrong where it can't be done."""
    try:
        act()
    except AccountError as error:
        trail.note(what, target=target, failed=True)
        return _accounts(recorded.of_error(error), status=400)
    trail.note(what, target=target)
    return redirect("/accounts")


@blueprint.post("/accounts")
@needs("administer")
def add() -> Page:
    """The first account, by whoever uses this machine, who goes on with it."""
    if gate().closed:
        abort(409, _("There is an account already: all others are invited."))
    form = request.form
    name = form.get("username", "").strip()

    def act() -> None:
        gate().accounts.add(name, "administrator", form.get("password", ""))
        gate().begin(Account.of(gate().accounts.known(name)))

    return _done("add_account", f"account {name[:64]}", act)


@blueprint.post("/invitations")
@needs("administer")
def invite() -> Page:
    """Let somebody make an account; the code is on this one answer only."""
    name = request.form.get("username", "").strip()
    try:
        code = gate().accounts.invite(name, request.form.get("role", ""))  # type: ignore[arg-type]
    except AccountError as error:
        trail.note("invite_account", target=f"account {name[:64]}", failed=True)
        return _accounts(recorded.of_error(error), status=400)
    trail.note("invite_account", target=f"account {name}")
    return _accounts(invited=(name, code))


@blueprint.post("/invitations/<string(maxlength=64):name>/withdraw")
@needs("administer")
def withdraw(name: str) -> Page:
    return _done("withdraw_invitation", f"account {name}", lambda: gate().accounts.withdraw(name))


@blueprint.post(f"{_ACCOUNT}/role")
@needs("administer")
def set_role(name: str) -> Page:
    role = request.form.get("role", "")
    return _done("set_role", f"account {name}", lambda: gate().accounts.set_role(name, role))  # type: ignore[arg-type]


@blueprint.post(f"{_ACCOUNT}/password")
@needs("administer")
def set_password(name: str) -> Page:
    password = request.form.get("password", "")
    return _done("set_password", f"account {name}", lambda: gate().accounts.set_password(name, password))


@blueprint.post(f"{_ACCOUNT}/<any('disable', 'enable', 'unlock'):what>")
@needs("administer")
def change(name: str, what: str) -> Page:
    accounts = gate().accounts
    acts = {"disable": accounts.disable, "enable": accounts.enable, "unlock": accounts.unlock}
    return _done(f"{what}_account", f"account {name}", lambda: acts[what](name))


@blueprint.post("/tokens")
@needs("administer")
def add_token() -> Page:
    """Make a token; its text is on this one answer only."""
    form = request.form
    name = form.get("name", "").strip()
    try:
        lasts = period(form.get("expires", "90d"))
        text = gate().tokens.add(name, form.getlist("scope"), lasts, g.person)
    except AccountError as error:
        trail.note("add_token", target=f"token {name[:64]}", failed=True)
        return _accounts(recorded.of_error(error), status=400)
    trail.note("add_token", target=f"token {name}")
    return _accounts(token=text)


@blueprint.post("/tokens/<string(maxlength=64):name>/revoke")
@needs("administer")
def revoke_token(name: str) -> Page:
    return _done("revoke_token", f"token {name}", lambda: gate().tokens.revoke(name))
