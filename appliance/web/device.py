"""The device page: what is wrong and how to mend it, then everything else that a field engineer asks for."""

from __future__ import annotations

import time
from collections.abc import Sequence

from flask import Blueprint, Response, abort, current_app, redirect, render_template, request, send_file
from werkzeug.wrappers import Response as BaseResponse

from appliance import errand, history, log, machine
from appliance.config import Config
from appliance.history import Period
from appliance.history_store import HistoryStore
from appliance.web import here
from appliance.web.device_charts import Chart, Line
from appliance.web.device_state import device_state
from appliance.web.device_words import answer_on_acceleration, trials
from appliance.web.errands import Errands
from appliance.web.formats import number
from appliance.web.language import gettext as _
from appliance.web.language import marked, translated
from appliance.web.rights import needs
from appliance.web.views import STATE_WORDS

blueprint = Blueprint("device", __name__)

# What can be seen at once: its length, and that of a point.
_RANGES = {"3h": (3 * 3600, 60), "24h": (86400, 60), "7d": (7 * 86400, 3600), "60d": (60 * 86400, 3600)}
_MOST_POINTS = 240
_LOG_LINES = 200
_GB = 1024**3
_TITLES = {
    errand.SELF_TEST: marked("Self-test"),
    errand.CONNECTIONS: marked("Connection test"),
    errand.BUNDLE: marked("Support bundle"),
}


def _errands() -> Errands:
    found: Errands = current_app.config["SCANSIDE_ERRANDS"]
    return found


@blueprint.record_once
def _prepare(state: object) -> None:
    app = state.app  # type: ignore[attr-defined]
    app.config["SCANSIDE_ERRANDS"] = Errands(app.config["SCANSIDE"])


@blueprint.get("/device")
@needs("operate")
def device() -> str:
    return _rendered("device.html")


@blueprint.get("/device.fragment")
@needs("operate", automatic=True)
def fragment() -> str:
    """The part of the page that changes."""
    return _rendered("_device.html")


def _rendered(template: str) -> str:
    config, chosen = here.config(), request.args.get("range", "24h")
    if chosen not in _RANGES:
        abort(400, _("There is no range %(chosen)r; there are %(known)s.", chosen=chosen, known=", ".join(_RANGES)))
    store = here.store()
    state = device_state(config, store)
    bundle = config.support_path / errand.BUNDLE_NAME
    return render_template(
        template,
        state=state,
        health=state.health,
        acceleration=answer_on_acceleration(state.health),
        trials=trials(state.health),
        charts=_charts(config, chosen),
        chosen=chosen,
        ranges=list(_RANGES),
        interfaces=machine.interfaces(),
        system=machine.system(),
        errands=[each for what in _TITLES if (each := _errands().latest.get(what))],
        busy=_errands().running,
        bundle_at=bundle.stat().st_mtime if bundle.exists() else None,
        lines=log.latest(config.log_path, _LOG_LINES),
        words=translated(STATE_WORDS),
        now=time.time(),
    )


def _charts(config: Config, chosen: str) -> list[Chart]:
    length, point = _RANGES[chosen]
    kept = HistoryStore(config.ledger_path, read_only=True)
    try:
        periods = kept.periods(point, time.time() - length)
    finally:
        kept.close()
    # Put together where there are more than can be told apart.
    width = point * max(-(-length // point // _MOST_POINTS), 1)
    grouped: dict[int, Period] = {}
    for at, period in periods:
        begin = at // width * width
        grouped[begin] = history.merge(grouped[begin], period) if begin in grouped else period
    times, found = list(grouped), list(grouped.values())
    if not found:
        return []
    charts = [
        *_times(times, found, width),
        Chart(_("Results an hour"), times,
              [Line(_("results"), [60 * each.results / max(each.minutes, 1) for each in found])], number, width),
        Chart(_("Waiting"), times, [Line(_("to be read"), [each.queue.most for each in found]),
                                    Line(_("to be sent"), [each.waiting.most for each in found])], number, width),
        Chart(_("Processor"), times, [Line(_("load"), [each.cpu_percent.mean for each in found])],
              lambda value: f"{number(value)} %", width),
        Chart(_("Memory"), times, [Line(_("all"), [each.memory_bytes.mean / _GB for each in found]),
                                   Line(_("appliance"), [each.appliance_bytes.mean / _GB for each in found])],
              lambda value: f"{number(value, 1)} GB", width),
        Chart(_("Free disk"), times, [Line(_("free"), [each.disk_free / _GB for each in found])],
              lambda value: f"{number(value)} GB", width),
        Chart(_("Temperature"), times,
              [Line(_("hottest"), [each.celsius.most if each.celsius else None for each in found])],
              lambda value: f"{number(value)} °C", width),
    ]  # fmt: skip
    return [each for each in charts if not each.is_empty]


def _times(times: Sequence[int], found: Sequence[Period], width: int) -> list[Chart]:
    """Reading time and turnaround of each package."""
    names = sorted({name for period in found for name in period.models})
    charts = []
    for name in names:
        for what, field_name in ((_("Turnaround"), "turnaround"), (_("Reading time"), "reading")):
            lines = [
                Line(
                    words,
                    [
                        history.percentile(getattr(period.models[name], field_name), share)
                        if name in period.models
                        else None
                        for period in found
                    ],
                )
                for words, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
            ]
            charts.append(Chart(f"{what}, {name}", times, lines, _seconds, width))
    return charts


def _seconds(value: float) -> str:
    return f"{number(value, 2 if value < 10 else 0)} s"


@blueprint.post("/device/<any('self-test', 'connections', 'support-bundle'):what>")
@needs("operate")
def start(what: str) -> BaseResponse:
    """Start a test or make a bundle; the page shows what comes of it."""
    if not _errands().start(what, _TITLES[what]):
        abort(409, _("Another test runs. Wait for its end."))
    return redirect(f"/device#{what}")


@blueprint.post("/device/receipts")
@needs("operate")
def prove() -> BaseResponse:
    """Have the backends prove themselves anew; reading pauses for some seconds."""
    here.config().receipt_request_path.touch()
    return redirect("/device#backends")


@blueprint.get("/device/support-bundle.zip")
@needs("operate")
def support_bundle() -> Response:
    path = here.config().support_path / errand.BUNDLE_NAME
    if not path.exists():
        abort(404, _("There is no support bundle yet. Make one on the device page."))
    made = time.strftime("%Y%m%d-%H%M", time.localtime(path.stat().st_mtime))
    return send_file(path, "application/zip", as_attachment=True, download_name=f"scanside-support-{made}.zip")
