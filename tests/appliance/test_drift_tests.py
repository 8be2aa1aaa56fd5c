"""The tests behind drift alarms: valid for exchangeable studies of any distribution, and quick where these change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from appliance.drift import change_point, martingale
from appliance.drift.martingale import Capitals
from appliance.drift.monitor import Monitor, weights
from appliance.drift.streams import (
    BY_NAME,
    INDEX,
    MISSING,
    MOST_BINS,
    NUMERIC,
    OTHER,
    STREAMS,
    WEIGHTS,
    Categories,
    Stream,
)

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
ONE = np.array([True])


def spread(low: int, high: int) -> Draw:
    return lambda chance, shape: chance.integers(low, high, shape)


def heavy(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.clip(20 + 5 * chance.standard_cauchy(shape), 1, 100).astype(int)


def rare(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(chance.random(shape) < 0.01, 90, 10)


def constant(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, 7)


def missing(chance: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.where(chance.random(shape) < 0.4, MISSING, chance.integers(1, 100, shape))


def highest(before: np.ndarray, after: np.ndarray, numeric: np.ndarray = ONE, seed: int = 1) -> np.ndarray:
    """The most that each run's martingale was worth (logarithm); studies are int ``(runs, studies)``."""
    runs, every = len(before), np.arange(len(before))
    chance = np.random.default_rng(seed)
    counts = np.zeros((runs, 1, MOST_BINS), np.int64)
    for column in before.T:
        counts[every, 0, column] += 1
    capitals = Capitals.new((runs, 1))
    most = np.zeros(runs)
    for column in after.T:
        counts[every, 0, column] += 1
        p = martingale.p_values(counts, column[:, None], numeric, chance.random((runs, 1)))
        capitals.update(p)
        most = np.maximum(most, capitals.evidence()[:, 0])
    assert np.isfinite(capitals.evidence()).all()
    return most


@pytest.mark.parametrize("numeric", [True, False], ids=["number", "category"])
@pytest.mark.parametrize("draw", [spread(1, 101), spread(1, 4), heavy, rare, constant, missing])
def test_what_never_changes_seldom_alarms_whatever_its_distribution(draw: Draw, numeric: bool) -> None:
    chance = np.random.default_rng(17)
    before, after = draw(chance, (400, 100)), draw(chance, (400, 300))
    found = highest(before, after, np.array([numeric]))
    # Ville: a share of 1 % at the most; of 400 runs 10 or more would have a probability of 1 %.
    assert (found >= np.log(100)).sum() < 10


@pytest.mark.parametrize("numeric", [True, False], ids=["number", "category"])
@pytest.mark.parametrize("draw", [spread(1, 101), spread(1, 4), heavy, constant, missing])
def test_p_values_are_uniform_and_independent(draw: Draw, numeric: bool) -> None:
    chance = np.random.default_rng(3)
    counts, found = np.zeros((400, 1, MOST_BINS), np.int64), []
    for column in draw(chance, (400, 60)).T:
        counts[np.arange(400), 0, column] += 1
        found.append(martingale.p_values(counts, column[:, None], np.array([numeric]), chance.random((400, 1)))[:, 0])
    p = np.stack(found)
    assert np.abs(np.histogram(p, 10, (0, 1))[0] / p.size - 0.1).max() < 0.01
    assert abs(np.corrcoef(p[1:].ravel(), p[:-1].ravel())[0, 1]) < 0.03


def test_every_bet_is_fair() -> None:
    p = (np.arange(200_000) + 0.5) / 200_000
    assert np.allclose(martingale.bets(p[:, None])[:, 0].mean(axis=0), 1.0, atol=1e-4)


def test_a_warning_is_as_rare_as_its_run_length_says() -> None:
    chance = np.random.default_rng(5)
    capitals, warned, studies = Capitals.new((400, 1)), np.zeros(400, bool), 400
    for _ in range(studies):
        capitals.update(chance.random((400, 1)))
        warned |= capitals.warnings()[:, 0] >= 4000
    # The mean run length is 4,000 at the least, so in 400 studies a tenth of the runs has one at the most.
    assert warned.mean() <= 0.13


def test_the_cusum_limit_keeps_its_run_length() -> None:
    chance, limit = np.random.default_rng(6), martingale.cusum_limit(500)
    lengths = []
    for _ in range(150):
        worth, length = 0.0, 0
        while worth < limit:
            worth, length = martingale.cusum(worth, float(chance.normal())), length + 1
        lengths.append(length)
    assert 380 < np.mean(lengths) < 640


@pytest.mark.parametrize(
    ("after", "most"),
    [
        (lambda chance, shape: chance.integers(40, 141, shape), 60),  # a shift
        (lambda chance, shape: np.where(chance.random(shape) < 0.1, 140, chance.integers(1, 101, shape)), 120),
        (lambda chance, shape: np.full(shape, 50), 40),  # nothing but the middle
        (lambda chance, shape: np.where(chance.random(shape) < 0.5, 1, 100), 60),  # nothing but the ends
        (lambda chance, shape: np.full(shape, MISSING), 20),
    ],
)
def test_changes_are_noticed_even_after_a_long_quiet(after: Draw, most: int) -> None:
    chance = np.random.default_rng(8)
    quiet, changed = spread(1, 101)(chance, (60, 600)), after(chance, (60, 300))
    before = spread(1, 101)(chance, (60, 500))
    assert np.mean(highest(before, np.concatenate([quiet, changed[:, :most]], axis=1)) >= np.log(100)) > 0.9


# --- a monitor ------------------------------------------------------------------------------------------------------


def monitor(chance: np.random.Generator, seed: int = 1) -> Monitor:
    counts = np.zeros((len(STREAMS), MOST_BINS), np.int64)
    for _ in range(200):
        counts[np.arange(len(STREAMS)), study(chance)] += 1
    return Monitor(counts, weights(np.ones(len(STREAMS), bool), np.zeros(len(STREAMS), bool)), seed)


def study(chance: np.random.Generator) -> np.ndarray:
    return np.array([chance.integers(0, min(stream.bins, 60)) for stream in STREAMS])


def test_the_same_studies_give_the_same_bits_wherever_it_is_saved_and_read_again() -> None:
    chance = np.random.default_rng(9)
    straight, broken = monitor(np.random.default_rng(1)), monitor(np.random.default_rng(1))
    for number in range(50):
        bins = study(chance)
        straight.observe(bins)
        if number % 7 == 0:
            broken = Monitor.from_bytes(broken.to_bytes())
        broken.observe(bins)
    assert straight.to_bytes() == broken.to_bytes()
    other = monitor(np.random.default_rng(1), seed=2)
    other.observe(study(chance))
    assert other.signals() != straight.signals()


def test_dependent_streams_alarm_no_more_often_than_one() -> None:
    """All streams see the same: the limit holds for the mean of their martingales as it does for one."""
    chance, runs, streams = np.random.default_rng(10), 300, 4
    counts, capitals = np.zeros((runs, streams, MOST_BINS), np.int64), Capitals.new((runs, streams))
    most = np.zeros(runs)
    for number, column in enumerate(chance.integers(1, 60, (400, runs))):
        bins = np.repeat(column[:, None], streams, axis=1)
        counts[np.arange(runs)[:, None], np.arange(streams), bins] += 1
        if number >= 100:
            capitals.update(martingale.p_values(counts, bins, np.ones(streams, bool), chance.random((runs, streams))))
            most = np.maximum(most, martingale.combined(capitals.evidence(), np.ones(streams)))
    assert (most >= np.log(100)).sum() <= 8


def test_the_stake_is_whole_and_shared_by_groups() -> None:
    assert WEIGHTS.sum() == pytest.approx(1)
    assert WEIGHTS[INDEX["age"]] == WEIGHTS[INDEX["distance"]] == pytest.approx(0.1)
    assert WEIGHTS[INDEX["hour"]] == WEIGHTS[INDEX["seconds"]] == 0


# --- bins, categories, independence, since when ---------------------------------------------------------------------


@given(st.floats(allow_nan=True, allow_infinity=True) | st.none())
def test_any_number_has_a_bin_and_bins_are_in_order(value: float | None) -> None:
    for stream in STREAMS:
        if stream.numeric:
            number = stream.bin(value)
            assert MISSING <= number < stream.bins
            if value is None or not np.isfinite(value):
                assert number == MISSING
            else:
                assert stream.low(number) <= value
                assert number == stream.bins - 1 or value < stream.low(number + 1)


def test_scanners_without_end_are_one_category_more() -> None:
    categories = Categories()
    numbers = [categories.number("detector", f"serial {each}")[0] for each in range(500)]
    assert max(numbers) == OTHER < BY_NAME["detector"].bins <= MOST_BINS <= 256
    assert categories.number("detector", "serial 3") == (4, False)
    assert categories.name("detector", OTHER) == "other"
    assert categories.name("detector", MISSING) == "not stated"


def test_dependence_between_studies_is_found_and_independence_is_not_taken_for_it() -> None:
    chance, found = np.random.default_rng(11), []
    for phi in (0.0, 0.0, 0.0, 0.0, 0.0, 0.4):
        noise, values = chance.normal(size=500), np.zeros(500)
        for number in range(500):
            values[number] = phi * values[number - 1] + noise[number]
        bins = np.zeros((500, len(STREAMS)), np.int64)
        bins[:, INDEX["sharpness"]] = np.clip(60 + 12 * values, 1, 120)
        column = INDEX["sharpness"]
        found.append(
            (
                change_point.autocorrelation(change_point.scores(bins, 1)[:, column]),
                change_point.autocorrelation(change_point.ranks(bins, 1)[:, column]),
            )
        )
    assert min(min(pair) for pair in found[:-1]) > 0.001
    assert max(found[-1]) < 0.001


@settings(max_examples=30, deadline=None)
@given(st.integers(10, 60), st.integers(20, 200), st.integers(0, 10_000))
def test_the_change_is_dated_about_right(changed: int, quiet: int, seed: int) -> None:
    chance, column = np.random.default_rng(seed), INDEX["sharpness"]
    reference = np.bincount(chance.integers(20, 60, 500), minlength=MOST_BINS)
    bins = np.concatenate([chance.integers(20, 60, quiet), chance.integers(70, 100, changed)])
    assert abs(change_point.change_point(column, bins, reference) - quiet) <= 6


@given(arrays.arrays(np.int64, st.tuples(st.integers(1, 30)), elements=st.integers(0, 65)))
def test_a_change_point_lies_among_the_studies_whatever_they_are(bins: np.ndarray) -> None:
    for column in (INDEX["view"], INDEX["age"]):
        for reference in (np.zeros(MOST_BINS, np.int64), np.bincount(bins, minlength=MOST_BINS)):
            assert 0 <= change_point.change_point(column, bins, reference) < len(bins)


def test_indices_for_show_tell_the_same_from_another() -> None:
    chance, column = np.random.default_rng(12), INDEX["sharpness"]
    usual, same, other = (
        np.bincount(chance.integers(low, low + 40, 2000), minlength=MOST_BINS) for low in (20, 20, 45)
    )
    assert (
        change_point.stability_index(column, usual, same)
        < 0.05
        < 1
        < change_point.stability_index(column, usual, other)
    )
    assert (change_point.kolmogorov_smirnov(column, usual, same) or 0) < 0.1
    assert (change_point.kolmogorov_smirnov(column, usual, other) or 0) > 0.5
    assert change_point.kolmogorov_smirnov(INDEX["view"], usual, same) is None


def test_numeric_streams_know_their_values() -> None:
    stream = Stream("x", "image", "X", "", np.array([1.0, 2.0, 4.0]))
    assert [stream.bin(each) for each in (0.5, 1.0, 3.0, 9.0, float("nan"), None)] == [1, 2, 3, 4, 0, 0]
    assert stream.middle(3) == 3.0
    assert len(NUMERIC) == len(STREAMS)
