"""Two packages on the same images: how often they say the same, and which is right more often where the truth is known.

Both read every image, so all figures are paired: McNemar's exact test for decisions, DeLong's for areas under ROC
curves, and the difference of scores and of seconds for each image. Several images of a patient are no independent
evidence, so intervals, tests and the least numbers of cases go by patients.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from appliance.package import Promotion
from appliance.result import SAME_SIZE, Finding, Prediction
from appliance.roc import Interval, auc_difference, delong, mcnemar, paired_difference, rate
from appliance.shadow.store import ShadowStore
from appliance.truth import patient_of, word_of_reader


class Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a finding by both: calibrated probabilities, and whether it is reported as present, absent or neither."""

    probability: float
    said: str
    shadow_probability: float
    shadow_said: str


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One image by both packages.

    ``findings``: label -> what both said; ``segments``: label -> voxels by the one in force and by the shadow;
    ``seconds`` that each network took, the one in force first.
    """

    findings: dict[str, Said]
    segments: dict[str, tuple[int, int]]
    seconds: tuple[float, float]


def pair(result: dict[str, Any], model: str, said: Prediction, seconds: float) -> Pair:
    """A result of the ledger beside what the shadow said of the same image."""
    findings: dict[str, Said] = {}
    if result["provenance"]["package"] == model:
        now = {finding.label: finding for finding in said.findings}
        for was in msgspec.convert(result["findings"], tuple[Finding, ...]):
            if (new := now.get(was.label)) is not None:
                findings[was.label] = Said(was.probability, was.reported_as, new.probability, new.reported_as)
    drawn = result["outlines"]["segments"] if result["outlines"] else ()
    voxels = {segment.label: segment.voxels for segment in said.segments}
    segments = {each["label"]: (each["voxels"], voxels[each["label"]]) for each in drawn if each["label"] in voxels}
    return Pair(findings, segments, (float(result["seconds"].get("infer", 0.0)), seconds))


class FindingCompared(msgspec.Struct, frozen=True):
    """One finding on all images that both have read.

    Attributes
    ----------
    pairs, agreement, kappa
        How many images, how often both say the same of them, and Cohen's kappa of that.
    only_former, only_shadow, p_positive
        Images that only one of them calls positive, and McNemar's exact p by patients, each of whom counts for the one
        that calls more images positive.
    score_difference
        Of the shadow's probability to the former's: mean, standard deviation, and the largest.
    present, absent
        Images on which readers have said so; all that follows is on them.
    present_patients, absent_patients
        How many patients these are of; one may be among both.
    sensitivity, specificity
        The former's, the shadow's, and how much larger the shadow's is; None where there is no such image.
    auc
        The former's, the shadow's, and how much larger the shadow's is, with DeLong's interval and p.
    p_right
        McNemar's exact p by patients that both are right equally often.
    """

    pairs: int
    agreement: Interval
    kappa: float
    only_former: int
    only_shadow: int
    p_positive: float
    score_difference: tuple[float, float, float]
    present: int = 0
    absent: int = 0
    present_patients: int = 0
    absent_patients: int = 0
    sensitivity: tuple[float, float, Interval] | None = None
    specificity: tuple[float, float, Interval] | None = None
    auc: tuple[float, float, tuple[float, float, float, float]] | None = None
    p_right: float | None = None


class SegmentCompared(msgspec.Struct, frozen=True):
    """One segment: how often both outline nearly the same size, and the median ``ratio`` of the sizes."""

    pairs: int
    agreement: Interval
    ratio: float


class Compared(msgspec.Struct, frozen=True):
    """A shadow beside the package in force. ``seconds``: median and 95th percentile of both networks."""

    images: int
    failures: int
    findings: dict[str, FindingCompared]
    segments: dict[str, SegmentCompared]
    seconds: tuple[float, float, float, float]


class Criterion(msgspec.Struct, frozen=True):
    """One of the criteria of a promotion: what is needed, what was found, and whether that is enough."""

    what: str
    needed: str
    found: str
    met: bool


def compare(store: ShadowStore, shadow: int) -> Compared:
    """All that one shadow has read."""
    rows = store.readings(shadow)
    known = {(row["instance_id"], row["label"]): word_of_reader(row) for row in store.assessments(shadow)}
    read = [(row, msgspec.convert(row["pairs"], Pair)) for row in rows if not row["failure"]]
    labels = dict.fromkeys(label for _, both in read for label in both.findings)
    segments = dict.fromkeys(label for _, both in read for label in both.segments)
    former, new = [both.seconds[0] for _, both in read], [both.seconds[1] for _, both in read]
    return Compared(
        images=len(rows),
        failures=len(rows) - len(read),
        findings={label: _finding(read, label, known) for label in labels},
        segments={label: _segment(read, label) for label in segments},
        seconds=(*_middle_and_slow(former), *_middle_and_slow(new)) if read else (0.0, 0.0, 0.0, 0.0),
    )  # fmt: skip


def _finding(
    read: Sequence[tuple[dict[str, Any], Pair]], label: str, known: dict[tuple[int, str], str | None]
) -> FindingCompared:
    said = [(row, both.findings[label]) for row, both in read if label in both.findings]
    count = len(said)
    patients = np.array([patient_of(row) for row, _ in said])
    former, new = (np.array([word == "present" for word in words]) for words in _words(said))
    off = np.array([each.shadow_probability - each.probability for _, each in said])
    found = FindingCompared(
        pairs=count,
        agreement=rate(np.array([each.said == each.shadow_said for _, each in said]), patients),
        kappa=_kappa(*_words(said)),
        only_former=int((former & ~new).sum()),
        only_shadow=int((new & ~former).sum()),
        p_positive=_mcnemar(former, new, patients),
        score_difference=(float(off.mean()), float(off.std(ddof=1)) if count > 1 else 0.0, float(np.abs(off).max())),
    )
    truths = [known.get((row["instance_id"], label)) for row, _ in said]
    judged = np.array([word is not None for word in truths])
    if not judged.any():
        return found
    present = np.array([word == "present" for word in truths])[judged]
    former, new, patients = former[judged], new[judged], patients[judged]
    scores = np.array([[each.probability, each.shadow_probability] for _, each in said]).T[:, judged]
    right, new_right = former == present, new == present
    auc = None
    if present.any() and not present.all():
        areas = delong(scores, present, patients)
        auc = (float(areas.value[0]), float(areas.value[1]), auc_difference(areas, 1, 0))
    return msgspec.structs.replace(
        found,
        present=int(present.sum()),
        absent=int((~present).sum()),
        present_patients=len(np.unique(patients[present])),
        absent_patients=len(np.unique(patients[~present])),
        sensitivity=_rates(right[present], new_right[present], patients[present]),
        specificity=_rates(right[~present], new_right[~present], patients[~present]),
        auc=auc,
        p_right=_mcnemar(right, new_right, patients),
    )


def _words(said: Sequence[tuple[dict[str, Any], Said]]) -> tuple[list[str], list[str]]:
    return [each.said for _, each in said], [each.shadow_said for _, each in said]


def _rates(right: np.ndarray, new_right: np.ndarray, patients: np.ndarray) -> tuple[float, float, Interval] | None:
    if not len(right):
        return None
    return float(right.mean()), float(new_right.mean()), paired_difference(new_right, right, patients)


def _mcnemar(one: np.ndarray, other: np.ndarray, patients: np.ndarray) -> float:
    """By patients: the sign test (Dixon & Mood, JASA 1946), which is McNemar's where each patient has one image."""
    _, index = np.unique(patients, return_inverse=True)
    more = np.bincount(index, one.astype(float) - other)
    return mcnemar(int((more > 0).sum()), int((more < 0).sum()))


def _kappa(one: Sequence[str], other: Sequence[str]) -> float:
    """Cohen's kappa; 1 where both always say one and the same word."""
    count = len(one)
    same = sum(a == b for a, b in zip(one, other, strict=True)) / count
    chance = sum(one.count(word) * other.count(word) for word in set(one)) / count**2
    return 1.0 if chance == 1.0 else (same - chance) / (1 - chance)


def _segment(read: Sequence[tuple[dict[str, Any], Pair]], label: str) -> SegmentCompared:
    drawn = [(row, both.segments[label]) for row, both in read if label in both.segments]
    near = np.array([abs(new - was) <= SAME_SIZE * max(was, 1) for _, (was, new) in drawn])
    return SegmentCompared(
        pairs=len(drawn),
        agreement=rate(near, np.array([patient_of(row) for row, _ in drawn])),
        ratio=statistics.median(new / max(was, 1) for _, (was, new) in drawn),
    )


def _middle_and_slow(seconds: Sequence[float]) -> tuple[float, float]:
    return float(np.median(seconds)), float(np.percentile(seconds, 95))


def criteria(found: Compared, wanted: Promotion) -> list[Criterion]:
    """What a package must show before it takes over, beside what it has shown."""
    share = found.failures / found.images if found.images else 0.0
    listed = [
        _at_most("images without an answer", wanted.largest_failure_share, share, "{:z.1%}"),
        *(each for label, one in found.segments.items() for each in _of_segment(label, one, wanted)),
        *(each for label, one in found.findings.items() for each in _of_finding(label, one, wanted)),
    ]
    if not found.findings and not found.segments:
        listed.append(Criterion("images read by both", f"at least {wanted.least_pairs}", "0", False))
    return listed


def _of_segment(label: str, found: SegmentCompared, wanted: Promotion) -> Iterator[Criterion]:
    yield _at_least(f"{label}: images read by both", wanted.least_pairs, found.pairs, "{:g}")
    agree = f"{label}: same size within {SAME_SIZE:.0%}, lower end"
    yield _at_least(agree, wanted.least_agreement, found.agreement[1], "{:z.1%}")


def _of_finding(label: str, found: FindingCompared, wanted: Promotion) -> Iterator[Criterion]:
    yield _at_least(f"{label}: images read by both", wanted.least_pairs, found.pairs, "{:g}")
    yield _at_least(f"{label}: agreement, lower end", wanted.least_agreement, found.agreement[1], "{:z.1%}")
    for word, least, patients in (
        ("present", wanted.least_present, found.present_patients),
        ("absent", wanted.least_absent, found.absent_patients),
    ):
        yield _at_least(f"{label}: patients where readers say {word}", least, patients, "{:g}")
    if found.auc is not None:
        yield _at_most(f"{label}: loss of AUC, worse end", wanted.largest_auc_loss, -found.auc[2][1], "{:z.3f}")
    for name, both in (("sensitivity", found.sensitivity), ("specificity", found.specificity)):
        if both is not None:
            worse = -both[2][1]
            yield _at_most(f"{label}: loss of {name}, worse end", wanted.largest_rate_loss, worse, "{:z.1%}")


def _at_least(what: str, needed: float, found: float, form: str) -> Criterion:
    return Criterion(what, f"at least {form.format(needed)}", form.format(found), found >= needed)


def _at_most(what: str, needed: float, found: float, form: str) -> Criterion:
    return Criterion(what, f"at most {form.format(needed)}", form.format(found), found <= needed)
