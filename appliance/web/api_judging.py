"""What the JSON API tells and takes of trust in results: safe mode, performance at this site, readers' assessments."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from flask import abort, current_app
from msgspec import UNSET

from appliance.assessment_store import Assessments
from appliance.performance import Figures, Report
from appliance.safe_mode import SafeMode, policy_in_words
from appliance.safe_mode_store import Entry, SafeModeStore
from appliance.sequential import Evidence
from appliance.truth_store import TruthStore
from appliance.web import api_judging_model as model
from appliance.web import here, performing
from appliance.web.api import operation, routes
from appliance.web.api_studies import row_of, told
from appliance.web.rights import current_person, needs

blueprint = routes("api_judging")


# --- safe mode ------------------------------------------------------------------------------------------------------


@blueprint.get("/safe-mode")
@needs("see")
@operation("What is in force, what was, and which alarm leads to which level", model.SafeMode)
def safe_mode() -> model.SafeMode:
    kept: SafeModeStore = current_app.config["SCANSIDE_SAFE_MODE"]
    return model.SafeMode(
        in_force=[_entry(each) for each in kept.in_force()],
        latest=[_entry(each) for each in kept.latest()],
        withheld=here.store().counts()["withheld"],
        policy=dict(policy_in_words(here.config().safe_mode)),
    )


@blueprint.post("/safe-mode/enter")
@needs("operate")
@operation("Enter safe mode", model.SafeModeEntry, body=model.EnterSafeMode, errors=(409,), status=201)
def enter_safe_mode(asked: model.EnterSafeMode) -> model.SafeModeEntry:
    return _changed(lambda mode: mode.enter(asked.level, current_person() or asked.by, asked.why))


@blueprint.post("/safe-mode/<row:number>/leave")
@needs("operate")
@operation("Leave what was entered under a number", model.SafeModeEntry, body=model.LeaveSafeMode, errors=(409,))
def leave_safe_mode(number: int, asked: model.LeaveSafeMode) -> model.SafeModeEntry:
    kept: SafeModeStore = current_app.config["SCANSIDE_SAFE_MODE"]
    if kept.entry(number) is None:
        abort(404, f"Safe mode {number} was never entered.")
    return _changed(lambda mode: mode.leave(number, current_person() or asked.by, asked.why))


def _changed(act: Callable[[SafeMode], Entry]) -> model.SafeModeEntry:
    mode = SafeMode(here.config(), current_app.config["SCANSIDE_TRAIL"])
    try:
        return _entry(act(mode))
    finally:
        mode.close()


def _entry(entry: Entry) -> model.SafeModeEntry:
    return model.SafeModeEntry(
        number=entry.id,
        level=entry.level,
        kind=entry.kind,
        source=entry.source,
        package_sha256=entry.package or None,
        why=told(entry.why),
        entered_at=entry.entered_at,
        entered_by=entry.entered_by or None,
        left_at=entry.left_at,
        left_by=entry.left_by or None,
        left_why=told(entry.left_why) if entry.left_at is not None else None,
    )


# --- performance ----------------------------------------------------------------------------------------------------


@blueprint.get("/performance")
@needs("see")
@operation("How good each model is at this site, by readers and final diagnoses", model.Performance)
def performance() -> model.Performance:
    truth, settings = TruthStore(here.config().ledger_path, read_only=True), here.config().performance
    try:
        found, tickets = performing.measured(truth), [_ticket(row) for row in truth.tickets()]
    finally:
        truth.close()
    return model.Performance(
        cases=found.cases,
        without_truth=found.unknown,
        left_out=found.counted(),
        latest=found.latest,
        old=found.latest is not None and time.time() - found.latest > settings.evidence_days * 86400,
        models=[_measured(each) for each in found.reports],
        tickets=tickets,
    )


def _measured(report: Report) -> model.ModelPerformance:
    return model.ModelPerformance(
        package=report.name,
        package_sha256=report.package,
        finding=report.finding,
        figures=_figures(report.figures),
        calibration=_like(report.calibration, model.Calibration),
        months=[model.MonthFigures(month=month, figures=_figures(each)) for month, each in report.months],
        groups={
            group: {value: _figures(each) for value, each in chosen} for group, chosen in report.groups.items()
        },
        floors=_floors(report.tests),
        trend=_like(report.trend, model.Trend),
        coverage=_like(report.coverage, model.Coverage),
        corrected_sensitivity=_like(report.corrected, model.Estimate),
        latest=report.latest,
    )  # fmt: skip


def _figures(found: Figures) -> model.Figures:
    return msgspec.convert(found, model.Figures, from_attributes=True)


def _like(found: Any, kind: type) -> Any:
    return None if found is None else msgspec.convert(found, kind, from_attributes=True)


def _floors(tests: Mapping[Any, Evidence]) -> dict[Any, model.FloorTest]:
    return {
        name: model.FloorTest(
            floor=each.floor,
            cases=each.cases,
            right=each.right,
            wealth=each.wealth,
            wealth_limit=each.wealth_limit,
            detector=each.detector if each.cases else None,
            detector_limit=each.detector_limit,
            below=each.by != "none",
        )
        for name, each in tests.items()
    }


def _ticket(row: dict[str, Any]) -> model.Ticket:
    return model.Ticket(
        number=row["id"],
        package=row["name"],
        package_sha256=row["package"],
        finding=row["finding"],
        measure=row["measure"],
        opened_at=row["opened_at"],
        closed_at=row["closed_at"],
        closed_by=row["closed_by"] or None,
        why=row["why"] or None,
    )


# --- assessments ----------------------------------------------------------------------------------------------------


@blueprint.get("/assessments")
@needs("see")
@operation(
    "What readers say of results, the latest first", model.AssessmentPage, query=model.AssessmentQuery
)  # fmt: skip
def assessments(asked: model.AssessmentQuery) -> model.AssessmentPage:
    kept: Assessments = current_app.config["SCANSIDE_ASSESSMENTS"]
    rows = kept.latest(asked.limit, asked.before, None if asked.study is UNSET else asked.study)
    following = rows[-1]["id"] if len(rows) == asked.limit else None
    return model.AssessmentPage(assessments=[_assessment(row) for row in rows], next=following)


@blueprint.post("/studies/<row:number>/assessments")
@needs("assess")
@operation(
    "Say whether a finding or a segment is right", model.Assessment, body=model.Assess, errors=(409,), status=201
)  # fmt: skip
def assess(number: int, asked: model.Assess) -> model.Assessment:
    row_of(number)
    kept = Assessments(here.config().ledger_path)
    try:
        identifier = kept.assess(
            number,
            asked.subject,
            asked.label,
            asked.verdict,
            asked.reason,
            asked.comment,
            current_person(),
            here.config().sends_assessments,
        )
        (row,) = kept.latest(1, identifier + 1)
    finally:
        kept.close()
    return _assessment(row)


def _assessment(row: dict[str, Any]) -> model.Assessment:
    return model.Assessment(
        number=row["id"],
        study=row["instance_id"],
        subject=row["subject"],
        label=row["label"],
        said=row["said"],
        verdict=row["verdict"],
        reason=row["reason"],
        comment=told(row["comment"]),
        person=row["person"] or None,
        made_at=row["made_at"],
        package=row["package"],
        superseded_by=row["superseded_by"],
    )
