"""How good a model is at this site: figures, the test against its floor, and the retraining ticket that it opens.

A ticket is a row, a notice and a metric. Nothing retrains by itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np

from appliance import measures, sequential, truth
from appliance.audit import Record, Trail
from appliance.config import Config
from appliance.measures import Calibration, Estimate, Trend
from appliance.sequential import Evidence
from appliance.truth import Case, Trouble
from appliance.truth_store import Measure, TruthStore

log = logging.getLogger("scanside.performance")

GROUPS = {"age": "Age", "sex": "Sex", "scanner": "Scanner", "view": "View"}
AHEAD_DAYS = 90.0
_COUNTED_DAYS = 90.0  # in which results without a truth are counted
_SHOWN_DAYS = 366.0  # of which figures are made
_DAY = 86400.0
_ONE_SIDED = 0.5  # negatives verified less than this share as often as positives


@dataclass(frozen=True)
class Figures:
    """Of some cases. None where there are none of that kind."""

    n: int
    present: int
    sensitivity: Estimate | None
    specificity: Estimate | None
    auc: Estimate | None


@dataclass(frozen=True)
class Coverage:
    """Of how many answers of some time the truth is known, by what they said."""

    positive: int
    negative: int
    known_positive: int
    known_negative: int

    @property
    def unknown(self) -> int:
        return self.positive + self.negative - self.known_positive - self.known_negative

    @property
    def one_sided(self) -> bool:
        """Whether negative answers are verified so much more seldom that misses stay unseen."""
        if not self.known_positive or not self.negative:
            return False
        share = self.known_positive / max(self.positive, 1)
        return self.known_negative / max(self.negative, 1) < _ONE_SIDED * share


@dataclass(frozen=True)
class Report:
    """One finding of one package."""

    package: str
    name: str
    finding: str
    figures: Figures
    calibration: Calibration | None
    months: list[tuple[str, Figures]]
    groups: dict[str, list[tuple[str, Figures]]]
    tests: dict[Measure, Evidence]
    trend: Trend | None
    coverage: Coverage
    corrected: Estimate | None
    latest: float


@dataclass(frozen=True)
class Performance:
    """All that is known; ``latest``: when the latest truth became known, None where there is none."""

    reports: list[Report]
    troubles: list[Trouble]
    latest: float | None
    unknown: int
    cases: int

    def counted(self) -> dict[str, int]:
        """Kind of trouble -> how many."""
        return {kind: sum(each.kind == kind for each in self.troubles) for kind in truth.TROUBLES}


def cases_of(store: TruthStore) -> tuple[list[Case], list[Trouble]]:
    """As of `appliance.truth.cases`, from the ledger."""
    matched, assessed = store.matched(), store.assessed()
    wanted = store.of_studies({row["instance_id"] for row in (*matched, *assessed)} - {None})
    found, troubles = truth.cases(matched, assessed, store.results(wanted))
    now = time.time()
    ahead = (case for case in found if case.made_at > now)
    return found, troubles + [Trouble("clock_ahead", case.finding, case.study, "", case.instance) for case in ahead]


def measure(config: Config, store: TruthStore) -> Performance:
    """Figures of the last year, the tests of all time, and what has no truth."""
    found, troubles = cases_of(store)
    now = time.time()
    said = store.said(now - _COUNTED_DAYS * _DAY)
    said_in_year = cache(lambda: store.said(now - _SHOWN_DAYS * _DAY))  # takes long, and is seldom needed
    begun = _begun(store)
    reports = []
    for package, finding in dict.fromkeys((case.package, case.finding) for case in found):
        chosen = [case for case in found if (case.package, case.finding) == (package, finding)]
        of_year = [case for case in chosen if now - _SHOWN_DAYS * _DAY < case.made_at <= now]
        recent = [case for case in of_year if case.made_at > now - _COUNTED_DAYS * _DAY]
        coverage = _coverage(said.get((package, finding), (0, 0)), recent)
        corrected = None
        if coverage.one_sided:
            corrected = _corrected(of_year, _coverage(said_in_year().get((package, finding), (0, 0)), of_year))
        reports.append(_report(config, of_year, chosen, coverage, corrected, begun, now))
    answered = {(report.package, report.finding) for report in reports}
    unknown = sum(report.coverage.unknown for report in reports)
    unknown += sum(studies for key, (_, studies) in said.items() if key not in answered)
    latest = max((case.known_at for case in found if case.known_at <= now), default=None)
    return Performance(sorted(reports, key=lambda each: -each.latest), troubles, latest, unknown, len(found))


def _coverage(said: tuple[int, int], known: Sequence[Case]) -> Coverage:
    """Of studies with a positive answer, and of all; and of those whose truth is known, in the same time."""
    positive, studies = said
    known_positive = sum(case.positive for case in known)
    known_negative = len(known) - known_positive
    return Coverage(
        max(positive, known_positive), max(studies - positive, known_negative), known_positive, known_negative
    )


def _report(
    config: Config,
    of_year: Sequence[Case],
    of_all: Sequence[Case],
    coverage: Coverage,
    corrected: Estimate | None,
    begun: dict[tuple[str, ...], float],
    now: float,
) -> Report:
    first = of_all[0]
    months: dict[str, list[Case]] = {}
    for case in sorted(of_year, key=lambda case: case.made_at):
        months.setdefault(time.strftime("%Y-%m", time.localtime(case.made_at)), []).append(case)
    present = [case for case in of_year if case.truth]
    return Report(
        first.package,
        first.name,
        first.finding,
        figures(of_year),
        measures.calibration(
            np.array([case.probability for case in of_year]),
            np.array([case.truth for case in of_year], bool),
            np.array([case.patient for case in of_year]),
        ),
        [(month, figures(chosen)) for month, chosen in months.items()],
        {group: _by(of_year, lambda case, group=group: case.groups[group]) for group in GROUPS},  # type: ignore[misc]
        tests(config, of_all, begun),
        measures.trend(
            [(case.made_at - now) / _DAY for case in present], [case.positive for case in present], AHEAD_DAYS
        ),
        coverage,
        corrected,
        max(case.known_at for case in of_all),
    )


def _by(found: Sequence[Case], key: Callable[[Case], str]) -> list[tuple[str, Figures]]:
    values = dict.fromkeys(sorted(key(case) for case in found))
    return [(value, figures([case for case in found if key(case) == value])) for value in values]


def figures(found: Sequence[Case]) -> Figures:
    said = np.array([case.positive for case in found], bool)
    present = np.array([case.truth for case in found], bool)
    scores = np.array([case.probability for case in found], float)
    patients = np.array([case.patient for case in found])
    return Figures(
        len(found),
        int(present.sum()),
        measures.rate(said[present], patients[present]),
        measures.rate(~said[~present], patients[~present]),
        measures.auc(scores, present, patients),
    )


def _corrected(found: Sequence[Case], coverage: Coverage) -> Estimate | None:
    studies = coverage.positive + coverage.negative
    counts = [sum(case.positive is said and case.truth is present for case in found)
              for said, present in ((True, True), (True, False), (False, True), (False, False))]  # fmt: skip
    hits, alarms, missed, cleared = counts
    return measures.corrected_sensitivity(hits, alarms, missed, cleared, coverage.positive / studies, studies)


# --- the test and its ticket ----------------------------------------------------------------------------------------


def tests(config: Config, found: Sequence[Case], begun: dict[tuple[str, ...], float]) -> dict[Measure, Evidence]:
    """Of one finding of one package, by cases whose truth became known since the last ticket was closed.

    Of each patient only the first of them with such a truth counts: later ones are no independent evidence.
    """
    settings, made = config.performance, {}
    floors: tuple[tuple[Measure, float, bool], ...] = (
        ("sensitivity", settings.sensitivity_floor, True),
        ("specificity", settings.specificity_floor, False),
    )
    for name, floor, present in floors:
        if floor > 0.0:
            since = begun.get((found[0].package, found[0].finding, name), 0.0)
            first: dict[str, Case] = {}
            for case in found:
                if case.truth is present and case.known_at > since:
                    first.setdefault(case.patient, case)
            right = [case.positive is case.truth for case in first.values()]
            made[name] = sequential.test(right, floor, settings.alpha, settings.run_length)
    return made


def look(config: Config, store: TruthStore, trail: Trail) -> list[int]:
    """Open a ticket for each test that has reached its limit; the new ones."""
    found, _ = cases_of(store)
    begun, opened = _begun(store), []
    for package, finding in dict.fromkeys((case.package, case.finding) for case in found):
        chosen = [case for case in found if (case.package, case.finding) == (package, finding)]
        for name, evidence in tests(config, chosen, begun).items():
            if evidence.by == "none":
                continue
            content = msgspec.json.encode(evidence)
            number = store.open_ticket(package, chosen[0].name, finding, name, content)
            if number is not None:
                opened.append(number)
                log.error("retraining ticket %d: the %s of %s is below its floor", number, name, chosen[0].name)
                trail.append(
                    Record(time.time(), "act", "retraining ticket opened", how="device",
                           target=f"retraining ticket {number}", detail=f"{name} of {chosen[0].name}")
                )  # fmt: skip
    return opened


def _begun(store: TruthStore) -> dict[tuple[str, ...], float]:
    """(package, finding, measure) -> when the last ticket was closed.

    One that a clock which was ahead has dated into the future would keep the test from counting until then.
    """
    found: dict[tuple[str, ...], float] = {}
    for ticket in store.tickets(most=10_000):
        if ticket["closed_at"] is not None and ticket["closed_at"] <= time.time():
            key = ticket["package"], ticket["finding"], ticket["measure"]
            found[key] = max(found.get(key, 0.0), ticket["closed_at"])
    return found


def as_json(found: Performance) -> dict[str, Any]:
    """For programs; nothing of a patient."""
    said: dict[str, Any] = msgspec.to_builtins(found.reports)
    return {
        "cases": found.cases, "latest": found.latest, "without_truth": found.unknown, "left_out": found.counted(),
        "reports": said,
    }  # fmt: skip
