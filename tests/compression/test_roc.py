"""Areas under curves against their definitions, scikit-learn, and repeated draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score

from compression import roc


def drawn(seed: int, images: int = 60, models: int = 2, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores ``(models, images)`` with ties, labels with both classes, and patients of several images each."""
    chance = np.random.default_rng(seed)
    labels = np.arange(images) % 3 == 0
    scores = chance.normal(size=(models, images)) + labels
    return (np.round(scores, 1) if ties else scores), labels, chance.integers(0, images // 2, images)


def covariance_by_definition(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """DeLong's, pair by pair, as the paper writes it."""
    by_positive, by_negative = [], []
    for row in scores:
        positive, negative = row[labels], row[~labels]
        kernel = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in negative] for x in positive])
        by_positive.append(kernel.mean(axis=1))
        by_negative.append(kernel.mean(axis=0))
    found: np.ndarray = np.cov(by_positive) / labels.sum() + np.cov(by_negative) / (~labels).sum()
    return found


@given(seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=30, deadline=None)
def test_area_and_covariance_are_those_of_the_definition(seed: int, ties: bool) -> None:
    scores, labels, _ = drawn(seed, ties=ties)
    found = roc.delong(scores, labels, np.arange(len(labels)))
    assert found.value == pytest.approx([roc_auc_score(labels, row) for row in scores])
    assert found.covariance == pytest.approx(covariance_by_definition(scores, labels))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_a_monotone_transform_changes_nothing(seed: int) -> None:
    scores, labels, patients = drawn(seed)
    one, other = (roc.delong(each, labels, patients) for each in (scores, np.exp(scores / 2) + 3))
    assert np.array_equal(one.value, other.value)
    assert np.array_equal(one.covariance, other.covariance)
    assert roc.average_precision(scores[0], labels) == roc.average_precision(np.exp(scores[0] / 2), labels)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_turning_scores_and_labels_round_changes_nothing(seed: int) -> None:
    scores, labels, patients = drawn(seed)
    one, other = roc.delong(scores, labels, patients), roc.delong(-scores, ~labels, patients)
    assert one.value == pytest.approx(other.value)
    assert one.covariance == pytest.approx(other.covariance)


@given(seed=st.integers(0, 10_000), copies=st.integers(2, 4))
@settings(max_examples=20, deadline=None)
def test_copies_of_images_are_no_evidence(seed: int, copies: int) -> None:
    scores, labels, _ = drawn(seed)
    once = roc.delong(scores, labels, np.arange(len(labels)))
    again = roc.delong(np.tile(scores, copies), np.tile(labels, copies), np.tile(np.arange(len(labels)), copies))
    assert again.value == pytest.approx(once.value)
    assert again.covariance == pytest.approx(once.covariance)


def test_the_interval_of_patients_with_several_images_holds_the_truth_as_often_as_stated() -> None:
    chance, truth = np.random.default_rng(0), norm.cdf(1.6 / np.sqrt(2))
    patients, labels = np.repeat(np.arange(80), 3), np.repeat(np.arange(80) % 2 == 0, 3)
    held = {"patients": 0, "images": 0}
    for _ in range(400):
        shared = chance.normal(scale=np.sqrt(0.8), size=80)[patients]
        scores = (1.6 * labels + shared + chance.normal(scale=np.sqrt(0.2), size=240))[None]
        for name, counted in (("patients", patients), ("images", np.arange(240))):
            _, low, high = roc.auc_interval(roc.delong(scores, labels, counted))
            held[name] += low <= truth <= high
    assert 0.92 <= held["patients"] / 400 <= 0.985
    assert held["images"] / 400 < 0.9  # what counting images would claim


@pytest.mark.parametrize("labels", [[False, True], [False] * 9 + [True] * 3, [False] * 40 + [True] * 60])
def test_classes_that_do_not_overlap_still_leave_doubt(labels: list[bool]) -> None:
    truth, count = np.array(labels), len(labels)
    value, low, high = roc.auc_interval(roc.delong(np.arange(count)[None], truth, np.arange(count)))
    assert (value, high) == (1.0, 1.0)
    assert low < 1 - 0.5 / count
    assert roc.auc_interval(roc.delong(-np.arange(count)[None], truth, np.arange(count)))[:2] == (0.0, 0.0)


def test_a_class_of_one_patient_leaves_more_doubt_than_its_variance_says() -> None:
    labels = np.arange(40) == 35
    value, low, high = roc.auc_interval(roc.delong(np.arange(40)[None], labels, np.arange(40)))
    assert value == pytest.approx(35 / 39)
    assert low < 0.4
    assert high < 1


def test_the_test_of_two_models_errs_as_often_as_stated_and_finds_what_is_there() -> None:
    chance, labels, patients = np.random.default_rng(1), np.arange(120) % 2 == 0, np.arange(120)
    wrong = found = 0
    for _ in range(400):
        shared, own = 1.2 * labels + chance.normal(size=120), chance.normal(scale=0.5, size=(2, 120))
        wrong += roc.auc_difference(roc.delong(shared + own, labels, patients), 0, 1)[3] < 0.05
        better = np.stack([1.5 * labels + shared + own[0], shared + own[1]])
        gap, low, _, p = roc.auc_difference(roc.delong(better, labels, patients), 0, 1)
        found += p < 0.05 and low > 0 and gap > 0
    assert 0.02 <= wrong / 400 <= 0.085
    assert found / 400 > 0.95


def test_a_model_does_not_differ_from_itself() -> None:
    scores, labels, patients = drawn(3, models=1)
    areas = roc.delong(np.concatenate([scores, scores]), labels, patients)
    assert roc.auc_difference(areas, 0, 1) == (0.0, 0.0, 0.0, 1.0)


@given(seed=st.integers(0, 10_000), ties=st.booleans())
@settings(max_examples=50, deadline=None)
def test_average_precision_is_scikit_learns(seed: int, ties: bool) -> None:
    scores, labels, _ = drawn(seed, ties=ties)
    assert roc.average_precision(scores[0], labels) == pytest.approx(average_precision_score(labels, scores[0]))
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    assert roc.average_precision(scores[0][shuffled], labels[shuffled]) == pytest.approx(
        roc.average_precision(scores[0], labels)
    )
