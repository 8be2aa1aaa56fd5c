"""The page of performance: how good each model is at this site, how old the evidence is, and retraining tickets."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec
from flask import Blueprint, abort, current_app, redirect, render_template, request
from werkzeug.wrappers import Response as BaseResponse

from appliance import performance
from appliance.config import Config
from appliance.errors import ApplianceError, SpoolError
from appliance.performance import GROUPS, Performance
from appliance.safe_mode import ticket_words
from appliance.sequential import Evidence
from appliance.truth import TROUBLES
from appliance.truth_store import TruthStore
from appliance.web import here, performance_charts, recorded
from appliance.web.language import gettext as _
from appliance.web.rights import current_person, needs
from appliance.web.trail import note

blueprint = Blueprint("performing", __name__)

_FRESH_SECONDS = 60.0
_SHOWN_TROUBLES = 50


class Measured:
    """The latest figures: made anew when there is more truth, and once a minute for what has none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: tuple[str, float, Performance] | None = None

    def of(self, config: Config, store: TruthStore) -> Performance:
        mark, now = store.mark(), time.monotonic()
        with self._lock:
            if self._kept is None or self._kept[0] != mark or now - self._kept[1] > _FRESH_SECONDS:
                self._kept = mark, now, performance.measure(config, store)
            return self._kept[2]


def measured(store: TruthStore) -> Performance:
    kept: Measured = current_app.config.setdefault("SCANSIDE_MEASURED", Measured())
    return kept.of(here.config(), store)


@blueprint.get("/performance")
@needs("see")
def show() -> str:
    config = here.config()
    store = TruthStore(config.ledger_path, read_only=True)
    try:
        found = measured(store)
        tickets, imports = [_ticket(each) for each in store.tickets()], store.imports()
    finally:
        store.close()
    troubles: dict[str, list[Any]] = {kind: [each for each in found.troubles if each.kind == kind] for kind in TROUBLES}
    return render_template(
        "performance.html",
        found=found,
        settings=config.performance,
        old=found.latest is not None and time.time() - found.latest > config.performance.evidence_days * 86400,
        groups=GROUPS,
        tickets=tickets,
        imports=imports,
        troubles=troubles,
        trouble_words=TROUBLES,
        shown_troubles=_SHOWN_TROUBLES,
        charts=performance_charts,
        ahead=performance.AHEAD_DAYS,
    )


@blueprint.post("/performance/close")
@needs("operate")
def close() -> BaseResponse:
    """Close a ticket by name and decision."""
    config = here.config()
    number = request.form.get("ticket", type=int)
    if number is None or not 0 < number < 2**63:
        abort(400, _("Say which ticket."))
    store = TruthStore(config.ledger_path)
    try:
        note("POST /performance/close", target=f"retraining ticket {number}")
        store.close_ticket(number, current_person() or request.form.get("by", ""), request.form.get("why", ""))
    except SpoolError as error:
        abort(503, recorded.not_kept(error))
    except ApplianceError as error:
        abort(409, recorded.of_error(error))
    finally:
        store.close()
    return redirect("/performance")


def _ticket(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "evidence": msgspec.json.decode(row["evidence"], type=Evidence), "words": ticket_words(row)}
