"""What keeping silent where the model is unsure is worth."""

from __future__ import annotations

import numpy as np
import pytest

from compression import abstention
from compression.subgroups import Sample


def test_the_curve_is_the_error_rate_among_the_least_doubtful() -> None:
    wrong = np.array([False, True, False, True])
    doubt = np.array([0.1, 0.9, 0.2, 0.3])
    assert abstention.curve(wrong, doubt) == pytest.approx([0, 0, 1 / 3, 1 / 2])


def test_equal_doubts_are_worth_nothing_whatever_their_order() -> None:
    wrong = np.array([True, True, False, False])
    assert abstention.curve(wrong, np.zeros(4)) == pytest.approx([0.5] * 4)


def test_nearness_to_the_threshold_is_told_in_logits() -> None:
    doubt = abstention.near_threshold(np.array([0.0, 0.1, 0.2, 0.5, 1.0]), 0.2)
    assert doubt.argmax() == 2
    assert doubt[2] == 0
    assert doubt[1] > doubt[0]
    assert np.isfinite(doubt).all()


def test_a_useful_spread_beats_chance_and_its_limit_parts_right_from_wrong() -> None:
    chance = np.random.default_rng(0)
    labels = chance.random(600) < 0.5
    apart = chance.random(600)
    said = np.where(chance.random(600) < apart * 0.6, ~labels, labels)  # the farther apart, the likelier wrong
    sample = Sample(np.where(said, 0.9, 0.1), said, labels, np.arange(600).astype(str))
    found = abstention.measure(sample, apart, 0.5, 0.5)
    area, at = found["area"], found["at_limit"]
    assert area["best"] < area["ensemble"] < area["random"]
    assert area["ensemble"] < area["threshold"]  # all probabilities are about equally near
    assert at["answered"] == pytest.approx(0.5, abs=0.1)
    assert at["errors_answered"][2] < at["errors_unsure"][1]
    assert found["error_rates"]["ensemble"][0] == pytest.approx(area["random"], abs=1e-4)


def test_where_the_heads_agree_on_all_images_nothing_is_said_of_the_rest() -> None:
    sample = Sample(np.array([0.9, 0.1]), np.array([True, False]), np.array([True, False]), np.array(["a", "b"]))
    at = abstention.measure(sample, np.zeros(2), 0.1, 0.5)["at_limit"]
    assert at["answered"] == 1.0
    assert "errors_unsure" not in at
