"""The page of destinations: what waits for each and why, what is undelivered, and the buttons that send it again."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template
from werkzeug.wrappers import Response as BaseResponse

from appliance.store import Store
from appliance.web import here
from appliance.web.rights import needs

blueprint = Blueprint("deliveries", __name__)

_MOST_SHOWN = 200
# As a row of `Store.destinations`, of one that nothing was meant for yet.
_UNUSED = dict.fromkeys(("waiting", "sent", "committed", "to_commit", "undelivered", "failures", "failing_since"), 0)


@blueprint.get("/deliveries")
@needs("see")
def deliveries() -> str:
    store = here.store()
    configured, known = {each.name: each for each in here.config().destinations}, store.destinations()
    new = configured.keys() - {row["destination"] for row in known}
    return render_template(
        "deliveries.html",
        destinations=[*known, *({"destination": name, **_UNUSED} for name in configured if name in new)],
        rows=store.undelivered(_MOST_SHOWN),
        configured=configured,
        made=here.config().kinds_made,
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
    store = Store(here.config().ledger_path)
    try:
        store.send_undelivered(outbox_ids=numbers)
    finally:
        store.close()
    return redirect("/deliveries")
