"""Rates, their differences and what follows from them, against published values and repeated draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression import rates
from compression.rates import Rate

sure = st.integers(1, 99).map(lambda hits: Rate(hits, 100))


# Newcombe, Statistics in Medicine 1998 (17:857), table I, score method without continuity correction.
@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(hits: int, total: int, low: float, high: float) -> None:
    assert rates.wilson(Rate(hits, total)) == pytest.approx((hits / total, low, high), abs=5e-5)
    mirrored = rates.wilson(Rate(total - hits, total))
    assert mirrored == pytest.approx((1 - hits / total, 1 - high, 1 - low), abs=5e-5)


# Newcombe, Statistics in Medicine 1998 (17:873), table II, method 10.
@pytest.mark.parametrize(
    ("one", "other", "low", "high"),
    [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((10, 10), (0, 10), 0.6075, 1.0),
    ],
)
def test_the_interval_of_a_difference_is_the_published_one(
    one: tuple[int, int], other: tuple[int, int], low: float, high: float
) -> None:
    gap, below, above, p = rates.difference(Rate(*one), Rate(*other))
    assert (below, above) == pytest.approx((low, high), abs=5e-5)
    assert gap == pytest.approx(one[0] / one[1] - other[0] / other[1])
    assert p < 0.05
    assert rates.difference(Rate(*other), Rate(*one))[:3] == pytest.approx((-gap, -above, -below))


@given(hits=st.integers(0, 40), copies=st.integers(1, 5))
def test_copies_of_images_are_no_evidence(hits: int, copies: int) -> None:
    right = np.arange(40) < hits
    found = rates.rate(np.repeat(right, copies), np.repeat(np.arange(40), copies))
    assert found.value == pytest.approx(hits / 40)
    assert found.total == pytest.approx(40)


def test_images_never_count_for_more_than_they_are() -> None:
    """Patients who are all alike, half of their images right, would else make images of nothing."""
    hits, total = rates.rate(np.tile([True, False], 30), np.repeat(np.arange(30), 2))
    assert 55 < total <= 60
    assert hits == pytest.approx(total / 2)


def test_one_error_more_does_not_make_the_lowest_rate_much_higher() -> None:
    """One error of ten patients with ten images each tells next to nothing of how alike a patient's images are."""
    right, patients = np.ones(100, dtype=bool), np.repeat(np.arange(10), 10)
    before = rates.wilson(rates.rate(right, patients))[1]
    for errors in range(1, 10):
        right[errors * 10] = False
        low = rates.wilson(rates.rate(right, patients))[1]
        assert low < before + 0.06
        before = low


@pytest.mark.parametrize(
    ("truth", "count", "images", "alike"),
    [(0.8, 60, 4, 1.5), (0.9, 12, 5, 1.5), (0.9, 12, 5, 0.5), (0.95, 40, 4, 1.5), (0.98, 150, 3, 0.5)],
)
def test_an_interval_of_patients_with_several_images_holds_the_truth_as_often_as_stated(
    truth: float, count: int, images: int, alike: float
) -> None:
    chance, patients = np.random.default_rng(0), np.repeat(np.arange(count), images)
    held = {"patients": 0, "images": 0}
    for _ in range(500):
        right = chance.random(len(patients)) < chance.beta(truth * alike, (1 - truth) * alike, count)[patients]
        for name, counted in (("patients", patients), ("images", np.arange(len(patients)))):
            _, low, high = rates.wilson(rates.rate(right, counted))
            held[name] += low <= truth <= high
    assert 0.935 <= held["patients"] / 500 <= 0.985
    assert held["images"] / 500 < 0.87


@given(sensitivity=sure, specificity=sure)
def test_a_result_means_nothing_new_at_the_ends_of_prevalence(sensitivity: Rate, specificity: Rate) -> None:
    ppv, npv = rates.predictive_values(sensitivity, specificity, 1e-9)
    assert ppv[0] == pytest.approx(0, abs=1e-6)
    assert npv[0] == pytest.approx(1, abs=1e-6)
    ppv, npv = rates.predictive_values(sensitivity, specificity, 1 - 1e-9)
    assert ppv[0] == pytest.approx(1, abs=1e-6)
    assert npv[0] == pytest.approx(0, abs=1e-6)


@given(sensitivity=sure, specificity=sure, one=st.floats(0.01, 0.98), more=st.floats(0.001, 0.01))
def test_a_positive_result_means_more_where_the_finding_is_more_frequent(
    sensitivity: Rate, specificity: Rate, one: float, more: float
) -> None:
    before, after = (rates.predictive_values(sensitivity, specificity, each) for each in (one, one + more))
    assert all(low < high for low, high in zip(before[0], after[0], strict=True))
    assert all(low > high for low, high in zip(before[1], after[1], strict=True))
    for value, low, high in (*before, *after):
        assert 0 <= low <= value <= high <= 1


@given(hits=st.integers(1, 99), alarms=st.integers(1, 99))
def test_at_the_prevalence_of_the_study_ppv_and_npv_are_the_shares_counted_there(hits: int, alarms: int) -> None:
    ppv, npv = rates.predictive_values(Rate(hits, 100), Rate(300 - alarms, 300), 0.25)
    assert ppv[0] == pytest.approx(hits / (hits + alarms))
    assert npv[0] == pytest.approx((300 - alarms) / (300 - alarms + 100 - hits))


@given(hits=st.integers(1, 99), right=st.integers(1, 99), prevalence=st.floats(0.01, 0.5))
def test_a_likelihood_ratio_turns_the_odds_before_into_the_odds_after(hits: int, right: int, prevalence: float) -> None:
    sensitivity, specificity = Rate(hits, 100), Rate(right, 100)
    before = prevalence / (1 - prevalence)
    ratios, values = (
        rates.likelihood_ratios(sensitivity, specificity),
        rates.predictive_values(sensitivity, specificity, prevalence),
    )
    # The same sampling error, too: both intervals are of one log odds.
    assert [before * each for each in ratios[0]] == pytest.approx([each / (1 - each) for each in values[0]])
    odds = [(1 - each) / each for each in values[1]]
    assert [before * each for each in ratios[1]] == pytest.approx([odds[0], odds[2], odds[1]])


# The adjusted form, as R's bdpv 1.3 gives it: BDtest(matrix(c(2, 4, 2, 0), ncol = 2), pr = 0.1).
def test_the_adjusted_intervals_of_ppv_and_npv_are_those_of_another_implementation() -> None:
    ppv, npv = rates.predictive_values(Rate(2, 6), Rate(0, 2), 0.1)
    assert ppv[1:] == pytest.approx((0.02475575, 0.1462819), rel=1e-6)
    assert npv[1:] == pytest.approx((0.58123420, 0.9457484), rel=1e-6)


@pytest.mark.parametrize("sensitivity", [Rate(0, 30), Rate(28, 30), Rate(30, 30)])
@pytest.mark.parametrize("specificity", [Rate(0, 50), Rate(47, 50), Rate(50, 50)])
def test_rates_of_0_and_1_leave_finite_figures(sensitivity: Rate, specificity: Rate) -> None:
    for value, low, high in (
        *rates.predictive_values(sensitivity, specificity, 0.1),
        *rates.likelihood_ratios(sensitivity, specificity),
    ):
        assert np.isfinite([value, low, high]).all()
        assert low <= value <= high
        assert low < high


@settings(deadline=None)
@given(truth=st.sampled_from([(0.95, 0.9), (0.8, 0.97)]), prevalence=st.sampled_from([0.05, 0.2]))
def test_intervals_of_ppv_and_npv_hold_the_truth_as_often_as_stated(
    truth: tuple[float, float], prevalence: float
) -> None:
    chance, (sensitivity, specificity) = np.random.default_rng(0), truth
    right = sensitivity * prevalence, specificity * (1 - prevalence)
    wrong = (1 - specificity) * (1 - prevalence), (1 - sensitivity) * prevalence
    expected = [good / (good + bad) for good, bad in zip(right, wrong, strict=True)]
    held = np.zeros(2)
    for hits, correct in zip(
        chance.binomial(200, sensitivity, 600), chance.binomial(200, specificity, 600), strict=True
    ):
        found = rates.predictive_values(Rate(hits, 200), Rate(correct, 200), prevalence)
        held += [low <= each <= high for each, (_, low, high) in zip(expected, found, strict=True)]
    assert (held / 600 >= 0.92).all()
    assert (held / 600 <= 0.99).all()
