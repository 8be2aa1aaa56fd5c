"""What the study page and the printed report tell of a result beside what the ledger's row has."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from flask import current_app

from appliance import manifests
from appliance.assessment_store import REASONS, Assessments, Subject, Verdict, reasons
from appliance.manifests import Manifests
from appliance.package import OperatingPoint
from appliance.reading_order import of_rank
from appliance.result import Finding
from appliance.web.language import gettext as _
from appliance.worklist_store import Worklists

# Two volumes of what has not changed differ by this many median errors at most in 19 of 20 pairs: by 1.96 deviations of
# a difference (Bland & Altman, BMJ 1996), where errors are normal, so that the median one is 0.6745 deviations.
_CHANCE = 1.96 * 2**0.5 / 0.6745
_WIDTH, _HEIGHT, _MARGIN = 300.0, 90.0, 12.0  # of a trend, in units of its picture


@dataclass(frozen=True)
class Judged:
    """A finding or a segment with what readers said of it, the latest first, and the reasons to choose from."""

    subject: Subject
    label: str
    said: list[dict[str, Any]]
    reasons: dict[Verdict, dict[str, str]]

    @property
    def counts(self) -> dict[str, Any] | None:
        """The assessment that counts."""
        return self.said[0] if self.said else None


@dataclass(frozen=True)
class Trend:
    """The volumes of one segment over a patient's results, the earliest first, with their places in the picture.

    ``error``: by how large a share half of the model's volumes are off at the least; None where that is not known.
    """

    label: str
    color: tuple[int, int, int]
    points: list[dict[str, Any]]
    error: float | None

    @property
    def line(self) -> str:
        return " ".join(f"{point['x']:.1f},{point['y']:.1f}" for point in self.points)

    @property
    def least_change(self) -> float | None:
        """How large a change must be to tell something, as a share; None where the error is not known."""
        return None if self.error is None else _CHANCE * self.error

    @property
    def change(self) -> float:
        """Of the latest against the earliest, as a share of that."""
        return float(self.points[-1]["ml"] / self.points[0]["ml"] - 1.0)


def telling(row: dict[str, Any]) -> dict[str, Any]:
    """What the templates ``study.html`` and ``report.html`` take beside the row."""
    worklists: Worklists = current_app.config["SCANSIDE_WORKLISTS"]
    assessments: Assessments = current_app.config["SCANSIDE_ASSESSMENTS"]
    priors, left_out = worklists.priors(row)
    said = assessments.of_instance(row["id"])
    return {
        "judged": {(each.subject, each.label): each for each in _judged(row, said)},
        "reason_words": REASONS,
        "points": _points(row),
        "priors": priors,
        "priors_left_out": left_out,
        "trends": _trends(row, priors),
        "why_now": _why_now(row),
    }


def _judged(row: dict[str, Any], said: list[dict[str, Any]]) -> list[Judged]:
    segments = row["outlines"]["segments"] if row["outlines"] else ()
    findings = msgspec.convert(row["findings"] or (), tuple[Finding, ...])
    subjects: list[tuple[Subject, str, str]] = [("finding", each.label, each.reported_as) for each in findings]
    subjects += [("segment", each["label"], "") for each in segments]
    found = []
    for subject, label, answer in subjects:
        of_it = [each for each in said if (each["subject"], each["label"]) == (subject, label)]
        found.append(Judged(subject, label, of_it, reasons(subject, answer)))
    return found


def _points(row: dict[str, Any]) -> dict[str, tuple[OperatingPoint, list[Any]]]:
    """Label of a finding -> its operating point, and how well that did; nothing of a package that is gone."""
    made = row["provenance"]
    known: Manifests = current_app.config["SCANSIDE_MANIFESTS"]
    manifest = known.of(made["package_sha256"]) if made else None
    if manifest is None:
        return {}
    target, found = made.get("target", ""), {}
    for finding in row["findings"] or ():
        point = manifests.operating_point(manifest, target, finding["operating_point"])
        if point is not None:
            found[finding["label"]] = point, manifests.measured(manifest, target, point.name)
    return found


def _trends(row: dict[str, Any], priors: list[dict[str, Any]]) -> list[Trend]:
    """Of volumes that the same model measured at two times or more."""
    drawn_by = row["outlines"]["provenance"]["package"] if row["outlines"] else None
    known: Manifests = current_app.config["SCANSIDE_MANIFESTS"]
    of_model = [each for each in (row, *priors) if each["outlines"]
                and each["outlines"]["provenance"]["package"] == drawn_by and not each["superseded_by"]]  # fmt: skip
    found = []
    for segment in row["outlines"]["segments"] if row["outlines"] else ():
        points = sorted(
            (
                {"at": _taken(each), "ml": one["volume_ml"], "id": each["id"]}
                for each in of_model
                for one in each["outlines"]["segments"]
                if one["label"] == segment["label"] and one["volume_ml"]
            ),
            key=lambda point: (point["at"], point["id"]),
        )
        if len({point["at"] for point in points}) > 1:
            made = row["outlines"]["provenance"]
            manifest = known.of(made["package_sha256"])
            error = manifests.volume_error(manifest, made["target"], segment["label"]) if manifest else None
            found.append(Trend(segment["label"], segment["color"], _placed(points), error))
    return found


def _placed(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With their places in the picture, in which nothing is 0 mL and the largest is at the top."""
    first, last = points[0]["at"], points[-1]["at"]
    most = max(point["ml"] for point in points)
    wide, tall = _WIDTH - 2 * _MARGIN, _HEIGHT - 2 * _MARGIN
    return [
        {
            **point,
            "x": _MARGIN + wide * ((point["at"] - first) / (last - first)),
            "y": _HEIGHT - _MARGIN - tall * point["ml"] / most,
        }
        for point in points
    ]


def _taken(row: dict[str, Any]) -> float:
    """When an image was taken, or else received, in seconds since 1970."""
    try:
        return datetime.fromisoformat(row["acquired_at"]).astimezone().timestamp()
    except (ValueError, OverflowError, OSError):
        return float(row["received_at"])


def _why_now(row: dict[str, Any]) -> str:
    """Why it stands where it does in the worklist, in a sentence; empty where it has no special place."""
    if row["provenance"] is None or row["reviewed_at"]:
        return ""
    priority, tier = of_rank(row["reading_rank"])
    if row["priority"] == "stat":
        return _("It is read first, since who sent it asked for that, or a rule of the configuration says so.")
    if tier == "high" and priority == "stat":
        return _("It is read first, since the model is sure of an urgent finding.")
    if tier == "high":
        return _("It is read before others, since the model is sure of an urgent finding.")
    if tier == "medium":
        return _("It is read before others, since the model is unsure about an urgent finding.")
    return ""
