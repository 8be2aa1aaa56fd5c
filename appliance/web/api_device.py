"""What the JSON API tells of the device, and its own document."""

from __future__ import annotations

import msgspec
from flask import Response, current_app

from appliance import history
from appliance.custody import Custody
from appliance.history import Period, Seconds
from appliance.history_store import HistoryStore
from appliance.telemetry import Signed, make
from appliance.web import api_model as model
from appliance.web import here, openapi
from appliance.web.api import operation, routes
from appliance.web.api_studies import delivery_of, row_of, study_of, told
from appliance.web.device_state import device_state
from appliance.web.rights import needs

blueprint = routes("api_device")


@blueprint.get("/openapi.json")
@needs("open")
def document() -> Response:
    """The document of this API."""
    return Response(msgspec.json.encode(openapi.document(current_app)), mimetype="application/json")


@blueprint.get("/status")
@needs("operate")
@operation("How the device is, what is wrong, and how to mend it", model.Status)
def status() -> model.Status:
    state = device_state(here.config(), here.store())
    found = state.health
    worker, recounted = found["components"].get("worker", {}), found["recount"]
    return model.Status(
        version=found["version"],
        running=found["running"],
        uptime_seconds=found["uptime_seconds"],
        problems=[
            model.Trouble(
                name=each.name, severity=each.severity, what=each.what, mend=each.mend, detail=told(each.detail)
            )
            for each in state.problems
        ],
        counts=found["counts"],
        gathering=[
            model.Gathering(
                number=each["instance"],
                modality=each["modality"],
                body_part=each["body_part"],
                images=each["images"],
                waits_for=told(each["waits_for"]),
                seconds=each["seconds"],
            )
            for each in found["series"]
        ],
        backends=[
            model.Backend(
                package=each["package"],
                backend=each["backend"],
                serves=each["serves"],
                receipt=each["receipt"],
                seconds=each["seconds"],
                reason=each["reason"],
            )
            for each in worker.get("trials", ())
        ],
        destinations=_destinations(),
        proof=None if recounted is None else msgspec.convert(recounted, model.Proof),
        cpu_percent=found["cpu_percent"],
        memory=model.Space(total=found["memory"]["total"], free=found["memory"]["available"]),
        disk=model.Space(total=found["disk"]["total"], free=found["disk"]["free"]),
        disk_days_left=state.disk_days_left,
        temperature_celsius=found["temperature_celsius"],
        throttling=found["throttling"]["now"],
        clock_synchronized=state.clock.synchronized,
    )


def _destinations() -> list[model.Destination]:
    return [
        model.Destination(
            name=row["destination"],
            waiting=row["waiting"],
            sent=row["sent"],
            committed=row["committed"],
            to_commit=row["to_commit"],
            undelivered=row["undelivered"],
            failing_since=row["failing_since"],
            failures=row["failures"],
            next_attempt_at=row["next_attempt_at"] or None,
            last_error=told(row["last_error"]),
        )
        for row in here.store().destinations()
    ]


@blueprint.get("/receipts")
@needs("operate")
@operation("The latest receipt of each backend on each package", model.Receipts)
def receipts() -> model.Receipts:
    return model.Receipts(
        receipts=[
            model.ReceiptEntry(
                id=row["id"],
                made_at=row["made_at"],
                content=msgspec.json.decode(row["content"]),
                signature=row["signature"],
            )
            for row in here.store().receipts()
        ]
    )


@blueprint.get("/telemetry")
@needs("see")
@operation("Figures of this device for whoever looks after many, signed; nothing that leads to a patient", Signed)
def figures() -> Signed:
    return make(here.config())


@blueprint.get("/history")
@needs("operate")
@operation("How the device was over time", model.History, query=model.HistoryQuery)
def past(asked: model.HistoryQuery) -> model.History:
    seconds, kept = int(asked.seconds), HistoryStore(here.config().ledger_path, read_only=True)
    try:
        found = kept.periods(seconds, asked.since)
    finally:
        kept.close()
    return model.History(seconds=seconds, periods=[_entry(at, period) for at, period in found])


def _entry(at: int, period: Period) -> model.HistoryEntry:
    return model.HistoryEntry(
        at=at,
        minutes=period.minutes,
        models=[
            model.ModelTimes(package=name, reading=_percentiles(each.reading), turnaround=_percentiles(each.turnaround))
            for name, each in sorted(period.models.items())
        ],
        received=period.received,
        results=period.results,
        rejected=period.rejected,
        failed=period.failed,
        quarantined=period.quarantined,
        withheld=period.withheld,
        sent=period.sent,
        queue=period.queue.mean,
        waiting=period.waiting.mean,
        cpu_percent=period.cpu_percent.mean,
        memory_bytes=period.memory_bytes.mean,
        appliance_bytes=period.appliance_bytes.mean,
        disk_free=period.disk_free,
        celsius=None if period.celsius is None else period.celsius.mean,
        throttled=period.throttled,
    )


def _percentiles(found: Seconds) -> model.Percentiles | None:
    p50, p95, p99 = (history.percentile(found, share) for share in (0.5, 0.95, 0.99))
    if p50 is None or p95 is None or p99 is None:
        return None
    return model.Percentiles(count=sum(found.values()), p50=p50, p95=p95, p99=p99)


@blueprint.get("/deliveries")
@needs("operate")
@operation("Destinations, and what was not delivered", model.Deliveries, query=model.ListQuery)
def deliveries(asked: model.ListQuery) -> model.Deliveries:
    rows = here.store().undelivered(asked.limit)
    return model.Deliveries(destinations=_destinations(), undelivered=[delivery_of(row) for row in rows])


@blueprint.get("/quarantine")
@needs("operate")
@operation("Images that are set aside, the latest first", model.Quarantine, query=model.ListQuery)
def quarantine(asked: model.ListQuery) -> model.Quarantine:
    custody = Custody(here.config().ledger_path, read_only=True)
    try:
        rows = custody.quarantined(asked.limit)
    finally:
        custody.close()
    return model.Quarantine(studies=[study_of(row_of(row["id"])) for row in rows])
