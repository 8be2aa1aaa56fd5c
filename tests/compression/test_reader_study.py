"""The analysis of a reader study: against published figures, a simulation of known truth, and by hand."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from compression import mrmc, reader_study
from compression.cli import main
from compression.recipe import RecipeError


@pytest.mark.parametrize(
    ("value", "between", "covariance", "error", "freedom", "low", "high"),
    [
        (0.8970370, 0.003082629, 0.0004839618, 0.03317360, 12.74465, 0.8252236, 0.9688505),
        (0.9408374, 0.001304602, 0.0002041879, 0.02156637, 12.71019, 0.8941378, 0.9875369),
    ],
)
def test_a_mean_of_readers_has_the_published_interval(
    value: float, between: float, covariance: float, error: float, freedom: float, low: float, high: float
) -> None:
    """Van Dyke et al. 1993, five readers of 114 MR images by spin echo and by cine, as R's MRMCaov 0.3 analyzes it."""
    found = mrmc.interval(value, between, covariance, readers=5)
    assert found.standard_error == pytest.approx(error, abs=1e-7)
    assert found.degrees_of_freedom == pytest.approx(freedom, abs=1e-4)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-6)


def simulate(chance: np.random.Generator, readers: int, cases: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores ``(1 + readers, cases)`` and truth, of the model of Roe & Metz (Academic Radiology 1997)."""
    truth = np.arange(cases) % 2 == 0
    shared = chance.normal(0, np.sqrt(0.4), cases)
    own = chance.normal(0, np.sqrt(0.6), (1 + readers, cases))
    skill = np.vstack([np.zeros((1, 2)), chance.normal(0, 0.25, (readers, 2))])
    return shared + own + 1.5 * truth + np.where(truth, skill[:, :1], skill[:, 1:]), truth


def test_the_interval_of_model_less_mean_reader_holds_the_truth_as_often_as_it_says() -> None:
    chance = np.random.default_rng(1)
    # A normal reader effect in each class widens the difference of two scores by 2 * 0.25^2.
    true = norm.cdf(1.5 / np.sqrt(2)) - norm.cdf(1.5 / np.sqrt(2 + 2 * 0.25**2))
    held, trials = 0, 400
    for _ in range(trials):
        scores, truth = simulate(chance, 5, 80)
        values, covariance = mrmc.areas(scores, truth, np.arange(80))
        found = mrmc.against(values, covariance)
        held += found.low <= true <= found.high
    assert 0.92 <= held / trials <= 0.985


def test_the_covariances_are_the_jackknifes() -> None:
    scores, truth = simulate(np.random.default_rng(2), 4, 60)
    patients = np.arange(60)
    for measure in (
        lambda keep: mrmc.areas(scores[:, keep], truth[keep], patients[keep]),
        lambda keep: mrmc.shares(scores[:, keep] > 0.7, patients[keep]),
    ):
        _, covariance = measure(patients)
        left_out = np.array([measure(patients[patients != out])[0] for out in patients])
        off = left_out - left_out.mean(axis=0)
        assert covariance == pytest.approx(59 / 60 * off.T @ off, rel=0.12, abs=2e-5)


def test_readers_who_are_all_alike_leave_the_patients_as_chance() -> None:
    found = mrmc.of_readers(np.array([0.8, 0.8]), np.full((2, 2), 0.01))
    assert found.standard_error == pytest.approx(0.1)
    assert found.high == pytest.approx(0.8 + 1.959964 * 0.1)
    assert mrmc.of_readers(np.array([0.8]), np.array([[0.01]])).standard_error == pytest.approx(0.1)


# --- from files ------------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def make(folder: Path, readers: int = 3, cases: int = 60) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """A study's three files from simulated scores: the command's arguments, and their rows."""
    scores, truth = simulate(np.random.default_rng(3), readers, cases)
    ratings = np.clip(np.round(scores + 3.2), 1, 7).astype(int)
    answers = [
        {"image": f"i{case:02d}", "reader": f"r{reader}", "label": "present" if rating > 4 else "absent",
         "rating": rating, "seconds": 5.0 + reader,
         "label_again": "present" if case < 6 else "", "rating_again": rating + 1 if case < 6 else ""}
        for reader in range(readers) for case, rating in enumerate(ratings[1 + reader])
    ]  # fmt: skip
    answers[-1] |= {"label": "can't judge", "rating": ""}
    rows: dict[str, list[dict[str, Any]]] = {
        "answers": answers,
        "truth": [{"image": f"i{case:02d}", "label": "PNEUMONIA" if sick else "NORMAL"}
                  for case, sick in enumerate(truth)],
        "scores": [{"image": f"i{case:02d}", "score": score, "threshold": 0.75}
                   for case, score in enumerate(scores[0])],
    }  # fmt: skip
    paths = {name: write(folder / f"{name}.csv", each) for name, each in rows.items()}
    return [str(paths["answers"]), "--truth", str(paths["truth"]), "--scores", str(paths["scores"]),
            "--positive", "PNEUMONIA"], rows  # fmt: skip


def test_the_command_says_what_the_files_hold(tmp_path: Path) -> None:
    arguments, rows = make(tmp_path)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["reader-study", *arguments, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["images"], found["positive"], found["compared"]) == (60, 30, 59)
    truth = np.array([row["label"] == "PNEUMONIA" for row in rows["truth"]])
    scores = np.array([row["score"] for row in rows["scores"]])
    assert found["model"]["auc"][0] == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert found["model"]["sensitivity"][0] == pytest.approx((scores[truth] >= 0.75).mean(), abs=1e-4)
    alarms, hits, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert np.array(found["model"]["roc"]) == pytest.approx(np.stack([alarms, hits], axis=1), abs=1e-4)
    first, last = found["readers"][0], found["readers"][-1]
    given = np.array([row["rating"] for row in rows["answers"][:60]])
    assert first["auc"][0] == pytest.approx(roc_auc_score(truth, given), abs=1e-4)
    assert first["specificity"][0] == pytest.approx((given[~truth] <= 4).mean(), abs=1e-4)
    assert (first["cant_judge"], last["cant_judge"]) == (0, 1)
    assert last["strict_specificity"][0] < last["specificity"][0]
    assert first["again"]["images"] == 6
    assert first["again"]["rating_apart"] == 1.0
    assert first["seconds"] == [5.0, 5.0, 5.0]
    gap = found["difference"]["auc"]
    assert gap["interval"][1] < gap["bootstrap"][0]  # readers are a sample, too
    assert gap["interval"][0] == pytest.approx(
        found["model"]["auc"][0] - np.mean([row["auc"][0] for row in found["readers"]]), abs=0.01
    )
    text = out.read_text()
    assert text.count("<svg") == 1
    assert not re.search(r"(src|href|url)[=(]['\"]?https?:", text)
    assert "mean reader" in CliRunner().invoke(main, ["reader-study", *arguments]).stdout


def read(folder: Path) -> reader_study.Study:
    return reader_study.read(*(folder / f"{name}.csv" for name in ("answers", "truth", "scores")), "PNEUMONIA")


def test_images_of_one_patient_go_together(tmp_path: Path) -> None:
    _, rows = make(tmp_path)
    assert len(set(read(tmp_path).patients)) == 60
    write(tmp_path / "truth.csv", [{**row, "patient": f"p{n // 6}"} for n, row in enumerate(rows["truth"])])
    assert len(set(read(tmp_path).patients)) == 10


def test_readers_agreement_is_told_for_other_patients(tmp_path: Path) -> None:
    arguments, rows = make(tmp_path)
    page, widths = tmp_path / "page.html", []
    for images in (1, 3, 12):
        write(tmp_path / "truth.csv", [{**row, "patient": f"p{n // images}"} for n, row in enumerate(rows["truth"])])
        result = CliRunner().invoke(main, ["reader-study", *arguments, "--out", str(page), "--json"])
        value, low, high = json.loads(result.stdout)["agreement"]["fleiss"]["kappa"]
        assert page.read_text().count("too few patients") == (3 if images == 12 else 0)  # of the difference, too
        widths.append((value, None if low is None else high - low))
    assert widths[0][0] == widths[1][0] == widths[2][0]
    assert widths[0][1] != widths[1][1]
    assert widths[2][1] is None  # of five patients


def test_one_reader_is_compared_for_other_patients_only(tmp_path: Path) -> None:
    arguments, _ = make(tmp_path, readers=1)
    out = tmp_path / "page.html"
    result = CliRunner().invoke(main, ["reader-study", *arguments, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    gap = json.loads(result.stdout)["difference"]["auc"]
    assert gap["degrees_of_freedom"] is None
    assert gap["interval"][1] == pytest.approx(gap["bootstrap"][0], abs=0.05)
    assert "<svg" in out.read_text()


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("truth", lambda rows: rows[1:], "no row for image i00"),
        ("truth", lambda rows: [{**row, "label": "NORMAL"} for row in rows], "both classes"),
        ("truth", lambda rows: [{**rows[0], "label": "Pneumonia"}, *rows[1:]], "line 2: label 'Pneumonia', but most"),
        ("truth", lambda rows: [*rows[:4], {**rows[4], "label": "PNEUMONAI"}, *rows[5:]], "line 6: label 'PNEUMONAI'"),
        ("truth", lambda rows: [{**rows[0], "label": ""}, *rows[1:]], "line 2: label is empty"),
        ("scores", lambda rows: [{**row, "threshold": ""} for row in rows], "--threshold"),
        ("scores", lambda rows: [{"image": row["image"], "logit": 1} for row in rows], "columns image, score"),
        ("answers", lambda rows: [{**rows[0], "label": "maybe"}, *rows[1:]], "line 2: label 'maybe'"),
        ("answers", lambda rows: [{**rows[0], "rating": "high"}, *rows[1:]], "line 2: 'high' is no number"),
        ("answers", lambda rows: [*rows[:3], {**rows[3], "rating": ""}, *rows[4:]], "line 5: r0 judged image i03, and"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(name: str, change: Any, word: str, tmp_path: Path) -> None:
    arguments, rows = make(tmp_path)
    write(tmp_path / f"{name}.csv", change(rows[name]))
    result = CliRunner().invoke(main, ["reader-study", *arguments])
    assert result.exit_code == 1
    assert word in result.output


def test_labels_of_images_that_nobody_read_do_not_matter(tmp_path: Path) -> None:
    _, rows = make(tmp_path)
    write(tmp_path / "truth.csv", [*rows["truth"], {"image": "other", "label": "EFFUSION"}])
    assert read(tmp_path).truth.sum() == 30


def test_nothing_is_compared_where_no_image_of_a_class_was_judged_by_all(tmp_path: Path) -> None:
    _, rows = make(tmp_path, readers=2)
    sick = {row["image"] for row in rows["truth"] if row["label"] == "PNEUMONIA"}
    write(tmp_path / "answers.csv", [row for row in rows["answers"] if row["reader"] == "r0" or row["image"] in sick])
    with pytest.raises(RecipeError, match="nothing can be compared"):
        reader_study.analyze(read(tmp_path), resamples=10)


def test_nothing_is_compared_where_all_images_of_a_class_are_one_patients(tmp_path: Path) -> None:
    _, rows = make(tmp_path)
    for row in rows["truth"]:
        row["patient"] = "one" if row["label"] == "PNEUMONIA" else row["image"]
    write(tmp_path / "truth.csv", rows["truth"])
    with pytest.raises(RecipeError, match="nothing can be compared"):
        reader_study.analyze(read(tmp_path), resamples=10)
