"""Net benefit, and what stands beside a model that it must beat."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from compression import calibrate, data, decisions, evaluate
from compression.decision_curve import gain, net_benefit, rules_that_look_at_nothing, treat_all
from compression.page import interval
from compression.recipe import read
from compression.statistics import bootstrap
from compression.subgroups import Sample
from tests.compression.test_quantize import CALIBRATION
from tests.running import CHECKOUT

THRESHOLDS = np.linspace(0.01, 0.99, 50)


def drawn(seed: int, prevalence: float, images: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Honest probabilities with their labels."""
    chance = np.random.default_rng(seed)
    probabilities = chance.beta(2 * prevalence, 2 * (1 - prevalence), images)
    return probabilities, chance.random(images) < probabilities


@given(seed=st.integers(0, 1000), prevalence=st.floats(0.1, 0.9))
def test_a_model_that_says_yes_or_no_to_all_is_acting_on_everybody_or_nobody(seed: int, prevalence: float) -> None:
    _, labels = drawn(seed, prevalence)
    everybody = net_benefit(np.ones(len(labels)), labels, THRESHOLDS)
    assert everybody == pytest.approx(treat_all(float(labels.mean()), THRESHOLDS))
    assert not net_benefit(np.zeros(len(labels)), labels, THRESHOLDS).any()
    assert (gain(np.ones(len(labels)), labels, THRESHOLDS) <= 1e-12).all()


@given(seed=st.integers(0, 1000), prevalence=st.floats(0.1, 0.9))
def test_no_model_gains_more_than_one_that_knows(seed: int, prevalence: float) -> None:
    probabilities, labels = drawn(seed, prevalence)
    perfect = net_benefit(labels.astype(float), labels, THRESHOLDS)
    assert perfect == pytest.approx(np.full(len(THRESHOLDS), labels.mean()))
    assert (net_benefit(probabilities, labels, THRESHOLDS) <= perfect + 1e-12).all()


@given(prevalence=st.floats(0.05, 0.95))
def test_acting_on_everybody_is_worth_nothing_where_the_threshold_is_the_prevalence(prevalence: float) -> None:
    assert treat_all(prevalence, np.array([prevalence])) == pytest.approx([0])


def test_net_benefit_by_hand() -> None:
    """Two found, one false alarm among ten; at 20 % a false alarm costs a quarter."""
    probabilities = np.array([0.9, 0.3, 0.1, 0.25, *[0.05] * 6])
    labels = np.array([True, True, True, *[False] * 7])
    assert net_benefit(probabilities, labels, np.array([0.2])) == pytest.approx([(2 - 0.25) / 10])


def test_honest_probabilities_are_of_use_and_turned_ones_are_not() -> None:
    probabilities, labels = drawn(0, 0.3, 4000)
    found, turned = (
        decisions.curve(each, labels, np.arange(4000), resamples=50) for each in (probabilities, 1 - probabilities)
    )
    assert all(found["useful"][5:-2])
    assert not any(turned["useful"])
    assert all(low <= value <= high for value, low, high in found["net_benefit"])
    assert len(found["net_benefit"]) == len(found["gain"]) == len(found["useful"]) == len(decisions.THRESHOLDS)


@pytest.mark.parametrize(("patients", "told"), [(9, False), (10, True)])
def test_of_too_few_patients_there_is_no_interval_and_nothing_is_shown_to_be_of_use(patients: int, told: bool) -> None:
    probabilities, labels = drawn(0, 0.3, 400)
    found = decisions.curve(probabilities, labels, np.arange(400) % patients, resamples=50)
    assert all((low is not None) == told for _, low, _ in found["net_benefit"])
    assert any(found["useful"]) == told
    (figure,) = bootstrap(lambda _: [0.5], labels, np.zeros(400), 10)
    assert figure == [0.5, None, None]
    assert interval(figure, 2) == "0.50 (too few patients)"


def test_a_subgroup_is_of_patients_not_of_images() -> None:
    chance = np.random.default_rng(0)
    labels, patients = np.arange(160) % 2 == 0, np.arange(160) // 4  # of 40 patients
    scores = np.clip(chance.normal(0.3 + 0.4 * labels, 0.2), 0.01, 0.99)
    site = np.where(patients < 19, "19 patients", "21 patients")
    shown = evaluate.Set(data.Undecoded([Path()] * 160, labels, patients), (), {"site": site}, {})
    recipe = read(CHECKOUT / "models" / "chest-pneumonia" / "recipe.toml")
    build: Any = SimpleNamespace(recipe=replace(recipe, evaluate=replace(recipe.evaluate, bootstrap=20)))
    contenders = {evaluate.UNPRUNED: evaluate.Contender(Path(), "cpu", CALIBRATION)}
    answers = evaluate.Answers({evaluate.UNPRUNED: Sample(scores, scores > 0.5, labels, patients)}, {}, {})
    found = evaluate._set_figures(build, contenders, shown, answers)
    assert list(found["subgroups"]) == ["site: 21 patients"]
    assert found["calibration"][evaluate.UNPRUNED] == calibrate.measured(scores, labels)


def test_balance_makes_accuracy_out_of_nothing() -> None:
    rules = rules_that_look_at_nothing(np.arange(100) < 8)
    assert rules["always normal"] == {"accuracy": 0.92, "sensitivity": 0.0, "specificity": 1.0}
    assert rules["always positive"]["accuracy"] == pytest.approx(0.08)


def test_an_operating_point_has_a_table_with_the_sites_prevalence() -> None:
    labels = np.arange(300) < 100
    said = labels.copy()
    said[:5], said[-20:] = False, True
    found = decisions.at_point(Sample(said.astype(float), said, labels, np.arange(300)), site_prevalence=0.07)
    assert [row["prevalence"] for row in found["predictive_values"]] == [
        0.01,
        0.02,
        0.05,
        0.07,
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
    ]
    assert found["sensitivity"][0] == 0.95
    assert found["specificity"][0] == 0.9
    assert found["accuracy"][0] == pytest.approx(275 / 300, abs=1e-4)
    assert found["likelihood_ratio_positive"][0] == pytest.approx(9.5)
