"""How many images a study needs: the formula and the exact test by hand, and the command."""

from __future__ import annotations

import json
from math import comb

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from compression.cli import main
from compression.sample_size import SampleSizeError, for_power, for_precision, in_all


def asked(*options: str) -> str:
    done = CliRunner().invoke(main, ["sample-size", *options])
    assert done.exit_code == 0, done.output
    return done.output


# The question of the worked example in Jones et al., Emergency Medicine Journal 2003;20:453: sensitivity 95 %,
# specificity 80 %, +-5 %, 30 % with the fracture. The answers are Buderer's formula by hand, each step rounded up:
# 1.96² 0.95 0.05 / 0.05² = 72.99 and 1.96² 0.8 0.2 / 0.05² = 245.86.
def test_buderers_steps_give_what_they_give_by_hand() -> None:
    assert for_precision(0.95, 0.05, 0.95) == 73
    assert in_all(73, 0.3) == 244
    assert for_precision(0.8, 0.05, 0.95) == 246
    assert in_all(246, 0.7) == 352


# n = 1.96² p (1 - p) / w², rounded up, by hand.
@pytest.mark.parametrize(
    ("rate", "margin", "images"),
    [(0.5, 0.05, 385), (0.5, 0.1, 97), (0.7, 0.1, 81), (0.8, 0.1, 62), (0.85, 0.1, 49), (0.9, 0.05, 139),
     (0.9, 0.1, 35), (0.95, 0.03, 203), (0.95, 0.1, 19)],
)  # fmt: skip
def test_sizes_for_precision_are_those_of_the_formula(rate: float, margin: float, images: int) -> None:
    assert for_precision(rate, margin, 0.95) == images


def tail(least: int, images: int, rate: float) -> float:
    return sum(comb(images, hits) * rate**hits * (1 - rate) ** (images - hits) for hits in range(least, images + 1))


def power_of(images: int, rate: float, floor: float, level: float) -> float:
    """Of the one-sided exact test, by going down from no miss as long as the level allows."""
    least = images + 1
    while least > 0 and binom.sf(least - 2, images, floor) <= level:
        least -= 1
    return float(binom.sf(least - 1, images, rate))


@settings(max_examples=10, deadline=None)
@given(
    rate=st.floats(0.6, 0.99), distance=st.floats(0.1, 0.3), power=st.sampled_from([0.8, 0.9]),
    level=st.sampled_from([0.025, 0.05]),
)  # fmt: skip
def test_the_study_keeps_its_level_and_its_power_and_so_do_larger_ones(
    rate: float, distance: float, power: float, level: float
) -> None:
    floor = rate - distance
    found = for_power(rate, floor, power, level)
    assert tail(found.pass_at, found.images, floor) <= level < tail(found.pass_at - 1, found.images, floor)
    assert tail(found.pass_at, found.images, rate) == pytest.approx(found.power)
    assert all(power_of(found.images + more, rate, floor, level) >= power for more in range(40))
    assert power_of(found.images - 1, rate, floor, level) < power


def test_without_a_single_miss_the_smallest_study_is_the_one_by_hand() -> None:
    """0.92 to the 45th is the first below 2.5 %."""
    found = for_power(0.9999, 0.92, 0.8, 0.025)
    assert (found.images, found.pass_at) == (45, 45)


def test_a_floor_that_cannot_be_shown_is_refused() -> None:
    with pytest.raises(SampleSizeError, match="lower the floor"):
        for_power(0.9, 0.9, 0.8, 0.025)
    with pytest.raises(SampleSizeError, match="so close"):
        for_power(0.92001, 0.92, 0.8, 0.025)


def test_the_command_answers_both_questions() -> None:
    options = ("--sensitivity", "0.95", "--margin", "0.05", "--prevalence", "0.2", "--sensitivity-floor", "0.92")
    said = asked(*options, "--power", "0.8")
    assert "73 images with the finding, 365 in all" in said
    assert "passes with 554 of 588" in said
    found = json.loads(asked(*options, "--specificity", "0.9", "--json"))
    assert found["figures"]["sensitivity"]["precision"] == {"of_class": 73, "in_all": 365}
    assert found["figures"]["specificity"]["precision"] == {"of_class": 139, "in_all": 174}
    assert found["in_all_for_precision"] == 365
    assert found["in_all_for_power"] == max(each["power"]["in_all"] for each in found["figures"].values())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--sensitivity", "0.95", "--prevalence", "0"), "prevalence"),
        (("--sensitivity", "95", "--prevalence", "0.2"), "sensitivity"),
        (("--sensitivity", "0.9", "--prevalence", "0.2", "--sensitivity-floor", "0.95"), "lower the floor"),
        (("--sensitivity", "0.9", "--prevalence", "0.2", "--specificity-floor", "0.8"), "needs --specificity"),
        (("--sensitivity", "0.2", "--prevalence", "0.2", "--margin", "0.3"), "leaves no floor"),
        (("--sensitivity", "nan", "--prevalence", "0.2"), "nan is no number"),
        (("--sensitivity", "0.9", "--prevalence", "nan"), "nan is no number"),
        (("--sensitivity", "0.9", "--prevalence", "1e-300"), "1e-300 is not in the range"),
        (("--sensitivity", "0.9", "--prevalence", "0.2", "--margin", "1e-200"), "1e-200 is not in the range"),
        (("--sensitivity", "0.9", "--prevalence", "0.5", "--confidence", "0.01"), "0.01 is not in the range 0.5<=x<="),
    ],
)
def test_a_question_without_an_answer_is_named(options: tuple[str, ...], word: str) -> None:
    refused = CliRunner().invoke(main, ["sample-size", *options])
    assert refused.exit_code != 0
    assert isinstance(refused.exception, SystemExit)
    assert word in refused.output


@pytest.mark.parametrize("rate", [1e-6, 0.5, 0.9, 1 - 1e-6])
@pytest.mark.parametrize("floor", [1e-9, 0.05, 0.4, 0.8])
@pytest.mark.parametrize("power", [1e-6, 0.5, 1 - 1e-6])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 1 - 1e-6])
def test_every_question_in_the_range_has_an_answer_or_a_sentence(
    rate: float, floor: float, power: float, confidence: float
) -> None:
    try:
        found = for_power(rate, floor, power, (1 - confidence) / 2)
    except SampleSizeError as error:
        assert "lower the floor" in str(error)
    else:
        assert 1 <= found.pass_at <= found.images
        assert found.power >= power


def test_a_study_that_any_size_would_pass_needs_one_image() -> None:
    assert for_power(0.9, 0.4, 0.5, 0.495).images == 1
