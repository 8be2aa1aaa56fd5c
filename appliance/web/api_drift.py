"""What the JSON API tells and takes of drift."""

from __future__ import annotations

import math
from typing import Any

from flask import abort

from appliance.drift import decisions, summary
from appliance.drift.monitor import Limits
from appliance.drift.store import Against, DriftStore
from appliance.errors import DriftError
from appliance.web import api_drift_model as model
from appliance.web import here
from appliance.web.api import operation, routes
from appliance.web.api_studies import told
from appliance.web.rights import current_person, needs

blueprint = routes("api_drift")
_MOST_ALARMS = 50


@blueprint.get("/drift")
@needs("see")
@operation("Has what comes changed, since when and for whom", model.Drift, errors=(404,))
def drift() -> model.Drift:
    store, settings = DriftStore(here.config().ledger_path, read_only=True), here.config().drift
    try:
        if not store.packages():
            abort(404, "No study was watched for drift yet: the first one that is read begins it.")
        about = summary.chosen(store, None)
        said, limits = summary.status(store, settings, about), Limits(settings.alpha, settings.run_length)
        rows = {row["id"]: row for row in (*store.alarms(_MOST_ALARMS, only_open=True), *store.alarms(_MOST_ALARMS))}
        counted = {row["name"]: row["n"] for row in store.counted()}
    finally:
        store.close()
    baseline = said["baseline"]
    return model.Drift(
        package=about["name"],
        package_sha256=about["package"],
        since=about["first_at"],
        studies=said["studies"],
        alarm_at=limits.alarm,
        warning_at=math.log(limits.run_length),
        confidence_at=limits.confidence,
        baseline=model.Baseline(**{name: baseline[name] for name in model.Baseline.__struct_fields__}),
        watches=[_watch(each) for each in said["watches"]],
        alarms=[_alarm(row) for row in rows.values()],
        counted=counted,
    )


@blueprint.post("/drift/alarms/<row:number>/acknowledge")
@needs("operate")
@operation("Acknowledge an alarm", model.DriftAlarm, body=model.AcknowledgeDrift, errors=(409,))
def acknowledge_drift(number: int, asked: model.AcknowledgeDrift) -> model.DriftAlarm:
    store, by = DriftStore(here.config().ledger_path), current_person() or asked.by.strip()
    try:
        if store.alarm(number) is None:
            abort(404, f"There is no drift alarm {number}.")
        if not by:
            raise DriftError("say who acknowledges it")
        decisions.acknowledge(store, number, by, asked.why, asked.outcome)
        row = store.alarm(number)
        assert row is not None
        return _alarm(row)
    finally:
        store.close()


@blueprint.post("/drift/watches/<any('validated', 'site'):against>/resume")
@needs("operate")
@operation(
    "Watch on where an alarm was acknowledged with rest", model.DriftWatch, body=model.ResumeDrift, errors=(409,)
)
def resume_drift(against: Against, asked: model.ResumeDrift) -> model.DriftWatch:
    store, by = DriftStore(here.config().ledger_path), current_person() or asked.by.strip()
    try:
        if not by:
            raise DriftError("say who lets it watch on")
        about = summary.chosen(store, None)
        decisions.resume(store, about["package"], against, by)
        watches = summary.status(store, here.config().drift, about)["watches"]
        return next(_watch(each) for each in watches if each["against"] == against)
    finally:
        store.close()


def _watch(said: dict[str, Any]) -> model.DriftWatch:
    warning = said.get("warning")
    return model.DriftWatch(
        against=said["against"],
        watching=said["watches"],
        why=said["why"] or None,
        studies=said.get("studies"),
        evidence=said.get("evidence"),
        warning=math.log(warning) if warning else None,
        confidence=said.get("confidence"),
        streams=said.get("streams", {}),
    )


def _alarm(row: dict[str, Any]) -> model.DriftAlarm:
    found = summary.alarm(row)
    open_still = row["acknowledged_at"] is None
    return model.DriftAlarm(
        number=row["id"],
        package=row["name"],
        kind=row["kind"],
        against=row["against"],
        raised_at=row["raised_at"],
        studies=found["studies"],
        words=found["words"],
        moved=[
            model.MovedStream(**{name: each[name] for name in model.MovedStream.__struct_fields__})
            for each in found["moved"]
        ],
        acknowledged_at=row["acknowledged_at"],
        acknowledged_by=None if open_still else row["acknowledged_by"],
        acknowledged_why=None if open_still else told(row["why"]),
        outcome=None if open_still else row["outcome"],
    )
