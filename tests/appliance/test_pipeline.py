"""What a prediction says of its own certainty."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest

from appliance import package
from appliance.backend import Options
from appliance.pipeline import Engine
from appliance.receipt import Receipt
from appliance.result import Finding
from appliance.serving import Answer, Server

pytestmark = pytest.mark.skipif(not package.bundled(), reason="no model package is bundled")


def answer(opened: package.Package, probability: float) -> Answer:
    """What a network says that gives this probability, once calibrated."""
    target, outputs = opened.target("cpu"), opened.manifest.outputs
    logit = (math.log(probability / (1 - probability)) - target.bias) * target.temperature
    says = {
        outputs.logits: np.array([logit]),
        outputs.activation_map: np.zeros((1, 7, 7)),
        outputs.embedding: np.zeros(8),
    }
    return Answer(says, cast(Receipt, Proof()))


class Proof:
    target = "cpu"


def predicted(probability: float, point: str = "balanced") -> tuple[Finding, tuple[str, ...]]:
    opened = package.read(package.bundled()[0], None)
    engine = Engine(Server(opened, (), Options(), 1.0), point, ())
    prediction = engine.predict(answer(opened, probability), ("of the image",))
    (finding,) = prediction.findings
    assert finding.probability == pytest.approx(probability)
    assert prediction.warnings[0] == "of the image"
    return finding, prediction.warnings[1:]


def test_where_the_prediction_set_is_the_decision_nothing_is_said() -> None:
    for probability, reported_as in ((0.01, "absent"), (0.999, "present")):
        finding, doubts = predicted(probability)
        assert (finding.reported_as, doubts) == (reported_as, ())


def test_between_the_classes_the_model_says_that_it_is_unsure() -> None:
    conformal = package.read(package.bundled()[0], None).target("cpu").conformal
    assert conformal is not None
    between = (conformal.absent + 1 - conformal.present) / 2
    finding, (doubt,) = predicted(between)
    assert not finding.positive
    assert finding.reported_as == "indeterminate"  # neither: "no signs were found" would be as wrong
    assert finding.words == "Unsure about pneumonia."
    assert doubt.startswith("The model is unsure about pneumonia on this image")
    assert f"{between:.1%} is unusual both with and without it" in doubt
    finding, (doubt,) = predicted(between, "high_sensitivity")
    assert finding.reported_as == "present"  # the threshold decides; the doubt is said


def test_where_the_threshold_contradicts_the_prediction_set_that_is_said() -> None:
    opened = package.read(package.bundled()[0], None)
    target = opened.target("cpu")
    assert target.conformal is not None
    strict = target.operating_point("high_specificity").threshold
    assert 1 - target.conformal.present < strict
    finding, (doubt,) = predicted((1 - target.conformal.present + strict) / 2, "high_specificity")
    assert finding.reported_as == "indeterminate"
    assert "usual with it, but below the threshold" in doubt
