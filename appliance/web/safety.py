"""The page of safe mode: what is in force and why, what was withheld, and who may end it."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, abort, current_app, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from appliance.custody import Custody
from appliance.errors import ApplianceError, SpoolError
from appliance.safe_mode import KINDS, SafeMode, policy_in_words
from appliance.safe_mode_store import STRENGTHS, SafeModeStore
from appliance.web import here, recorded
from appliance.web.language import gettext as _
from appliance.web.rights import current_person, needs
from appliance.web.trail import note

blueprint = Blueprint("safety", __name__)


@blueprint.get("/safe-mode")
@needs("see")
def safe_mode() -> str:
    store: SafeModeStore = current_app.config["SCANSIDE_SAFE_MODE"]
    custody = Custody(here.config().ledger_path, read_only=True)
    try:
        rows = custody.withheld()
    finally:
        custody.close()
    return render_template(
        "safe_mode.html",
        entries=store.in_force(),
        latest=store.latest(),
        rows=rows,
        kinds=KINDS,
        levels=STRENGTHS,
        policy=policy_in_words(here.config().safe_mode),
    )


@blueprint.post("/safe-mode/enter")
@needs("operate")
def enter() -> BaseResponse:
    level = request.form.get("level", "")
    if level not in STRENGTHS:
        abort(400, _("Choose one of %(known)s.", known=", ".join(STRENGTHS)))
    return _done(lambda mode: mode.enter(level, _by(), request.form.get("why", "")))


@blueprint.post("/safe-mode/leave")
@needs("operate")
def leave() -> BaseResponse:
    return _done(lambda mode: mode.leave(_number("entry"), _by(), request.form.get("why", "")))


@blueprint.post("/safe-mode/release")
@needs("assess")
def release() -> BaseResponse:
    """Let the result of one image be made after all, or with ``image=all`` of each that is withheld."""
    custody = Custody(here.config().ledger_path)
    everything = request.form.get("image") == "all"
    try:
        numbers = [row["id"] for row in custody.withheld()] if everything else [_number("image")]
        note("POST /safe-mode/release", target=" ".join(f"image {number}" for number in numbers[:50]))
        for number in numbers:
            custody.release(number, _by(), request.form.get("why", ""))
    except SpoolError as error:
        abort(503, recorded.not_kept(error))
    except ApplianceError as error:
        abort(409, recorded.of_error(error))
    finally:
        custody.close()
    return redirect("/safe-mode" if everything else f"/study/{numbers[0]}")


def _by() -> str:
    """The account; where no login is asked for, the name that was typed."""
    return current_person() or request.form.get("by", "")


def _number(name: str) -> int:
    number = request.form.get(name, type=int)
    if number is None or not 0 < number < 2**63:
        abort(400, _("Say which one."))
    return number


def _done(act: Callable[[SafeMode], object]) -> BaseResponse:
    mode = SafeMode(here.config(), current_app.config["SCANSIDE_TRAIL"])
    try:
        act(mode)
    except SpoolError as error:
        abort(503, recorded.not_kept(error))
    except ApplianceError as error:
        abort(409, recorded.of_error(error))
    finally:
        mode.close()
    return redirect("/safe-mode")
