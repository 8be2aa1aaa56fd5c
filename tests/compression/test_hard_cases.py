"""Hard cases: the right ones first, and what they share only where they share it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from compression import hard_cases, report_hard_cases
from compression.subgroups import Sample

COUNT = 400


def made(share_wrong: float = 0.03, old_share_wrong: float = 0.4) -> tuple[Sample, list[dict[str, str]]]:
    """Images of which those of the old device are missed more often than others."""
    chance = np.random.default_rng(0)
    labels = np.arange(COUNT) % 2 == 0
    old = chance.random(COUNT) < 0.2
    wrong = chance.random(COUNT) < np.where(old & labels, old_share_wrong, share_wrong)
    sure = chance.uniform(0.05, 0.45, COUNT)
    scores = np.where(labels != wrong, 1 - sure, sure)
    rows = [
        {"file": f"{n}.png", "label": "x", "patient_id": f"p{n}", "device": "old" if old[n] else "new",
         "width": f"{chance.integers(200, 900)}", "always": "the same", "sex": "MF"[n % 3 == 0], "note": ""}
        for n in range(COUNT)
    ]  # fmt: skip
    return Sample(scores, scores >= 0.5, labels, np.array([row["patient_id"] for row in rows])), rows


def find(sample: Sample, rows: list[dict[str, str]]) -> dict[str, Any]:
    return hard_cases.find(sample, 0.5, [row["file"] for row in rows], hard_cases.columns(rows))


def test_the_most_confidently_wrong_and_the_nearest_come_first() -> None:
    sample, rows = made()
    found = find(sample, rows)
    wrong = sample.said != sample.labels
    assert found["wrong"] == wrong.sum()
    surest = max(np.flatnonzero(wrong), key=lambda n: abs(sample.scores[n] - 0.5))
    first = found["confidently_wrong"][0]
    assert (first["file"], first["patient"]) == (f"{surest}.png", f"p{surest}")
    assert first["score"] == pytest.approx(sample.scores[surest], abs=1e-4)
    assert set(first["columns"]) == {"device", "width", "sex"}
    assert found["near_threshold"][0]["number"] == np.abs(sample.scores - 0.5).argmin()
    assert len(found["confidently_wrong"]) <= hard_cases.SHOWN
    # How far from the threshold is counted in odds: 0.98 is farther from 0.9 than 0.5 is from 0.8 in probability only.
    apart = Sample(np.array([0.99, 0.60]), np.array([True, False]), np.array([False, True]), np.array(["a", "b"]))
    hard = hard_cases.find(apart, 0.9, ["a", "b"], {})
    assert [row["file"] for row in hard["confidently_wrong"]] == ["a", "b"]


def test_what_missed_images_share_is_found() -> None:
    found = find(*made())
    (shared,) = found["shared"]
    assert (shared["group"], shared["what"]) == ("missed", "device: old")
    assert shared["hard"] > 2 * shared["others"]
    assert shared["p_holm"] < 0.001


def test_nothing_is_made_up_where_errors_fall_anywhere() -> None:
    found = find(*made(0.1, 0.1))
    assert found["wrong"] > 20
    assert found["tests"] >= 6
    assert found["shared"] == []


def test_a_patient_counts_once() -> None:
    """One patient whose 60 images are all missed is one patient, and no evidence about the device."""
    sample, rows = made(0.0, 0.0)
    same = np.arange(COUNT) < 120
    said = sample.said & ~same
    scores = np.where(same & sample.labels, 0.1, sample.scores)
    patients = np.where(same, "one", sample.patients)
    rows = [{**row, "device": "old" if mine else row["device"]} for row, mine in zip(rows, same, strict=True)]
    found = find(Sample(scores, said, sample.labels, patients), rows)
    assert found["wrong"] == 60
    assert found["shared"] == []


def test_a_scale_is_compared_by_its_ranks() -> None:
    sample, rows = made(0.0, 0.0)
    missed = sample.labels & (np.arange(COUNT) % 10 == 0)
    scores = np.where(missed, 0.2, sample.scores)
    rows = [{**row, "width": f"{900 + n}" if missed[n] else f"{300 + n}"} for n, row in enumerate(rows)]
    (shared,) = find(Sample(scores, scores >= 0.5, sample.labels, sample.patients), rows)["shared"]
    assert shared["what"] == "width (median)"
    assert shared["hard"] > shared["others"]


def test_the_report_shows_images_only_where_it_is_given_them() -> None:
    sample, rows = made()
    rows[0]["device"] = "<b>old</b>"
    found = {"hard_cases": {"cpu": find(sample, rows)}}
    text = "".join(report_hard_cases.of_set(found, None))
    assert "<img" not in text
    assert "data:" not in text
    assert "device: old" in text
    assert "<b>old" not in text
    shown = "".join(report_hard_cases.of_set(found, np.zeros((COUNT, 8, 8), dtype=np.uint8)))
    assert shown.count("<img src='data:image/png") == min(found["hard_cases"]["cpu"]["wrong"], hard_cases.SHOWN)
    assert report_hard_cases.of_set({"hard_cases": {}}, None) == []
