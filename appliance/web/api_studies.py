"""What the JSON API tells of studies."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import abort, current_app
from msgspec import UNSET

from appliance.ledger_export import without_uids
from appliance.result import Finding, Outlines
from appliance.study_pages import StudyPages
from appliance.web import api_model as model
from appliance.web import here
from appliance.web.api import operation, routes
from appliance.web.rights import needs

blueprint = routes("api_studies")


@blueprint.get("/studies")
@needs("see")
@operation("Studies, the latest first", model.StudyPage, query=model.StudyQuery)
def studies(asked: model.StudyQuery) -> model.StudyPage:
    pages = StudyPages(here.config().ledger_path, read_only=True)
    state = None if asked.state is UNSET else asked.state
    try:
        if asked.sop_instance_uid is not UNSET:
            rows = pages.of_uid(asked.sop_instance_uid, asked.limit, asked.before)
        elif asked.study_instance_uid is not UNSET:
            rows = pages.of_uid(asked.study_instance_uid, asked.limit, asked.before, whole_study=True)
        else:
            rows = pages.latest(asked.limit, asked.before, state)
    finally:
        pages.close()
    following = rows[-1]["id"] if len(rows) == asked.limit else None
    chosen = [row for row in rows if state is None or row["state"] == state]
    return model.StudyPage(studies=[study_of(row) for row in chosen], next=following)


@blueprint.get("/studies/<row:number>")
@needs("see")
@operation("One study: its result, what happened to it, its objects and where they went", model.StudyDetail)
def study(number: int) -> model.StudyDetail:
    row = row_of(number)
    ledger, shown = here.store(), here.config().web.show_patient
    return model.StudyDetail(
        study=study_of(row),
        # Details may name the sender or quote it.
        events=[model.Event(at=each["at"], what=each["what"]) for each in ledger.events(number)],
        objects=[
            model.ResultObject(
                kind=each["kind"],
                sop_class_uid=each["sop_class_uid"],
                sop_instance_uid=each["sop_instance_uid"] if shown else None,
                digest=each["digest"],
            )
            for each in ledger.objects(number)
        ],
        deliveries=[delivery_of({**each, "instance_id": number}) for each in ledger.deliveries(number)],
        earlier=ledger.superseded(number),
    )


def row_of(number: int) -> dict[str, Any]:
    row = here.store().instance(number)
    if row is None:
        abort(404, f"There is no image number {number}.")
    return row


def study_of(row: dict[str, Any]) -> model.Study:
    """A row of the ledger as it is told outside, which is without the patient unless the page shows patients."""
    shown = here.config().web.show_patient
    name, identity = current_app.jinja_env.filters["person"](row)
    return model.Study(
        number=row["id"],
        state=row["state"],
        reason=told(row["reason"] or (row["why"] if row["why"] and not row["started_at"] else "")),
        priority=row["priority"],
        patient=model.Patient(
            name=name, id=identity if shown else None, sex=row["patient_sex"], age=row["patient_age"]
        ),
        modality=row["modality"],
        body_part=row["body_part"],
        view=row["view"],
        received_at=row["received_at"],
        finished_at=row["finished_at"],
        reviewed_at=row["reviewed_at"],
        images=row["images"] or 1,
        superseded_by=row["superseded_by"],
        undelivered=bool(row["undelivered"]),
        sop_instance_uid=row["sop_instance_uid"] if shown else None,
        study_instance_uid=row["study_instance_uid"] if shown else None,
        sender=row["sender"] if shown else None,
        result=_result(row) if row["provenance"] else None,
    )


def _result(row: dict[str, Any]) -> model.Result:
    made, outlines = row["provenance"], row["outlines"]
    segments = msgspec.convert(outlines, Outlines).segments if outlines else ()
    return model.Result(
        findings=msgspec.convert(row["findings"], list[Finding]),
        segments=list(segments),
        warnings=[told(each) for each in row["warnings"]],
        urgent=bool(row["urgent"]),
        made_at=row["made_at"],
        seconds=row["seconds"].get("total", 0.0),
        package=made["package"],
        version=made["version"],
        backend=made["backend"],
        device=made["device"],
        receipt=made["receipt"],
        intended_use=made["intended_use"],
        not_for=made["not_for"],
    )


def told(text: str) -> str:
    """Free text without the UIDs in it, unless the page shows patients."""
    return text if here.config().web.show_patient else without_uids(text)


def delivery_of(row: dict[str, Any]) -> model.Delivery:
    return model.Delivery(
        number=row["id"],
        study=row["instance_id"],
        kind=row["kind"],
        destination=row["destination"],
        state=row["state"],
        attempts=row["attempts"],
        next_attempt_at=row["next_attempt_at"] or None if row["state"] == "waiting" else None,
        sent_at=row["sent_at"],
        committed_at=row["committed_at"],
        last_error=told(row["last_error"]),
    )
