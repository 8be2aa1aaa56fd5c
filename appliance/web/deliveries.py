"""The page of destinations: what waits for each and why, what is undelivered, and the buttons that send it again."""

from __future__ import annotations

from flask import Blueprint, current_app, redirect, render_template
from werkzeug.wrappers import Response as BaseResponse

from appliance.config import Config
from appliance.store import Store
from appliance.web.rights import needs

blueprint = Blueprint("deliveries", __name__)

_MOST_SHOWN = 200
# As a row of `Store.destinations`, of one that nothing was meant for yet.
_UNUSED = dict.fromkeys(("waiting", "sent", "committed", "to_commit", "undelivered", "failures", "failing_since"), 0)


def _config() -> Config:
    config: Config = current_app.config["SCANSIDE"]
    return config


@blueprint.get("/deliveries")
@needs("see")
def deliveries() -> str:
    store: Store = current_app.config["SCANSIDE_STORE"]
    configured, known = {each.name: each for each in _config().destinations}, store.destinations()
    new = configured.keys() - {row["destination"] for row in known}
    return render_template(
        "deliveries.html",
        destinations=[*known, *({"destination": name, **_UNUSED} for name in configured if name in new)],
        rows=store.undelivered(_MOST_SHOWN),
        configured=configured,
        made=_config().kinds_made,
    )


@blueprint.post("/deliveries/retry")
@needs("operate")
def retry_all() -> BaseResponse:
    return _send_again(None)


@blueprint.post("/deliveries/<row:number>/retry")
@needs("operate")
def retry(number: int) -> BaseResponse:
    return _send_again([number])


def _send_again(numbers: list[int] | None) -> BaseResponse:
    store = Store(_config().ledger_path)
    try:
        store.send_undelivered(outbox_ids=numbers)
    finally:
        store.close()
    return redirect("/deliveries")
