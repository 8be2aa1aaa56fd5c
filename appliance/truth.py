"""From what readers and diagnoses say to cases: one for each study, package and finding. Pure.

A study's probability is the highest of its images', and it is positive where one of them is. Readers speak of images: a
study has a finding where they say so of one image, and none once they have said so of all. A diagnosis counts before
readers. What contradicts itself counts for nothing until somebody corrects it; all that is left out is counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Source = Literal["reader", "diagnosis"]
_AGES = ((1, "under 1"), (6, "1 to 5"), (18, "6 to 17"), (40, "18 to 39"), (65, "40 to 64"), (1000, "65 and over"))
_DAYS = {"D": 1.0, "W": 7.0, "M": 30.4375, "Y": 365.25}
_SAME = {"present": True, "absent": False}


@dataclass(frozen=True)
class Case:
    """An answer and the truth.

    ``known_at``: when this device learned the truth; ``made_at``: when the answer was made (seconds since 1970).
    ``groups``: of which subgroup by each of age, sex, scanner, view. ``patient`` is shown nowhere.
    """

    study: str
    patient: str = field(repr=False)
    instance: int
    package: str
    name: str
    finding: str
    probability: float
    positive: bool
    truth: bool
    source: Source
    known_at: float
    made_at: float
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trouble:
    """A diagnosis or an assessment that counts for nothing, or not alone: the kind of `TROUBLES`, and of what."""

    kind: str
    finding: str
    study_instance_uid: str
    accession_number: str
    instance: int | None


TROUBLES = {
    "unmatched": "Diagnoses of a study that has no result here; they count once it has",
    "ambiguous": "Diagnoses whose accession number is that of several patients",
    "not_looked_for": "Diagnoses of a finding that no model here looks for in that study",
    "contradictory": "Findings of a study that final diagnoses call both present and absent; none counts until one "
    "says that it is a correction",
    "readers_differ": "Findings where a reader and the diagnosis differ; the diagnosis counts",
    "clock_ahead": "Answers that a clock which was ahead has dated into the future; no figure by time has them",
}


def age_group(stated: str) -> str:
    """Of a DICOM Age String, as in 034Y."""
    if len(stated) != 4 or not stated[:3].isdecimal() or stated[3] not in _DAYS:
        return "not stated"
    years = int(stated[:3]) * _DAYS[stated[3]] / 365.25
    return next(words for below, words in _AGES if years < below)


def of_reader(said: str, verdict: str, reason: str) -> bool | None:
    """What a reader's assessment of a finding says of the truth; None where it says nothing of it."""
    answer = _SAME.get(said)
    if verdict == "agree":
        return answer
    if verdict == "amend":
        return None if reason == "other" else answer
    known = {"not_there": False, "missed": True}
    if reason in known:
        return known[reason]
    if reason == "image_quality" or answer is None:
        return None
    if reason == "other_cause":
        return False if answer else None
    return not answer


def word_of_reader(assessment: Mapping[str, Any]) -> str | None:
    """The same of an assessment's row: present, absent, or None."""
    answer = of_reader(assessment["said"], assessment["verdict"], assessment["reason"])
    return None if answer is None else "present" if answer else "absent"


def cases(
    matched: Sequence[dict[str, Any]], assessed: Iterable[dict[str, Any]], results: Iterable[dict[str, Any]]
) -> tuple[list[Case], list[Trouble]]:
    """Cases in the order in which their truth became known, and what is left out.

    Parameters
    ----------
    matched, assessed, results
        Rows as `appliance.truth_store.TruthStore` gives them; results of all instances in the studies of the others.
    """
    by_instance = {row["id"]: row for row in results}
    by_diagnosis, troubles = diagnosed(matched, by_instance)
    read: dict[tuple[int, str], tuple[bool, float]] = {}
    for row in assessed:
        meant = of_reader(row["said"], row["verdict"], row["reason"])
        if meant is not None:
            read[row["instance_id"], row["label"]] = meant, row["at"]
    found: dict[tuple[str, str, str], list[tuple[dict[str, Any], dict[str, Any]]]] = defaultdict(list)
    for row in by_instance.values():
        for finding in row["findings"]:
            found[study_of(row), row["package"], finding["label"]].append((row, finding))
    made = []
    for (study, package, label), images in found.items():
        readers = [read[row["id"], label] for row, _ in images if (row["id"], label) in read]
        there = any(meant for meant, _ in readers)
        by_reader = (there, max(at for _, at in readers)) if there or len(readers) == len(images) else None
        verdict = by_diagnosis.get((study, label))
        if verdict is not None and by_reader is not None and verdict[0] is not None and verdict[0] != by_reader[0]:
            troubles.append(Trouble("readers_differ", label, study, "", images[0][0]["id"]))
        if verdict is not None and verdict[0] is None:
            continue
        known = verdict or by_reader
        if known is None or known[0] is None:
            continue
        row, top = max(images, key=lambda each: each[1]["probability"])
        made.append(
            Case(
                study, patient_of(row), row["id"], package, row["name"], label, float(top["probability"]),
                any(finding["positive"] for _, finding in images), known[0],
                "diagnosis" if verdict is not None else "reader", known[1], row["made_at"],
                {
                    "age": age_group(row["patient_age"]),
                    "sex": {"M": "male", "F": "female"}.get(row["patient_sex"], "not stated"),
                    "scanner": row["ae_title"] or "files",
                    "view": row["view"] or "not stated",
                },
            )
        )  # fmt: skip
    return sorted(made, key=lambda case: (case.known_at, case.instance)), troubles


def study_of(row: Mapping[str, Any]) -> str:
    """What results of one study have in common."""
    return row["study_instance_uid"] or f"image {row['id']}"


def patient_of(row: Mapping[str, Any]) -> str:
    """What results of one patient have in common; without a patient's ID, those of one study."""
    return f"{row['issuer_of_patient_id']}\0{row['patient_id']}" if row["patient_id"] else study_of(row)


def diagnosed(
    matched: Sequence[dict[str, Any]], results: Mapping[int, dict[str, Any]]
) -> tuple[dict[tuple[str, str], tuple[bool | None, float]], list[Trouble]]:
    """(study, finding) -> what diagnoses say, None where they contradict each other, and when that was learned."""
    by_diagnosis: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in matched:
        by_diagnosis[row["id"]].append(row)
    said: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    troubles = []
    for rows in by_diagnosis.values():
        first = rows[0]
        images = [results[row["instance_id"]] for row in rows if row["instance_id"] in results]
        where = first["finding"], first["study_instance_uid"], first["accession_number"]
        if not images:
            troubles.append(Trouble("unmatched", *where, None))
        elif len({image["patient_id"] for image in images}) > 1:
            troubles.append(Trouble("ambiguous", *where, images[0]["id"]))
        elif not any(each["label"] == first["finding"] for image in images for each in image["findings"]):
            troubles.append(Trouble("not_looked_for", *where, images[0]["id"]))
        else:
            for study in {study_of(image) for image in images}:
                said[study, first["finding"]].append({**first, "image": images[0]["id"]})
    found: dict[tuple[str, str], tuple[bool | None, float]] = {}
    for (study, label), rows in said.items():
        begin = max((number for number, row in enumerate(rows) if row["corrected"]), default=0)
        counting = rows[begin:]
        answers = {bool(row["present"]) for row in counting}
        if len(answers) > 1:
            troubles.append(Trouble("contradictory", label, study, rows[0]["accession_number"], rows[0]["image"]))
        found[study, label] = (answers.pop() if len(answers) == 1 else None), counting[0]["at"]
    return found, troubles
