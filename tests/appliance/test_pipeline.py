"""What a prediction says of its own certainty."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest

from appliance import package
from appliance.backend import Backend
from appliance.pipeline import Engine
from appliance.receipt import Receipt
from appliance.result import Finding

pytestmark = pytest.mark.skipif(not package.bundled(), reason="no model package is bundled")


class Says:
    """A backend that gives one probability, once calibrated."""

    name, device = "says", "none"

    def __init__(self, opened: package.Package, probability: float) -> None:
        target, self._outputs = opened.target("cpu"), opened.manifest.outputs
        self._logit = (math.log(probability / (1 - probability)) - target.bias) * target.temperature

    def run(self, _: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            self._outputs.logits: np.array([[self._logit]]),
            self._outputs.activation_map: np.zeros((1, 1, 7, 7)),
            self._outputs.embedding: np.zeros((1, 8)),
        }

    def close(self) -> None: ...


class Proof:
    target = "cpu"


def predicted(probability: float, point: str = "balanced") -> tuple[Finding, tuple[str, ...]]:
    opened = package.read(package.bundled()[0], None)
    engine = Engine(
        opened,
        cast(Backend, Says(opened, probability)),
        cast(Receipt, Proof()),
        opened.target("cpu").operating_point(point),
        (),
    )
    prediction = engine.predict(np.zeros((1, 1, 224, 224), dtype=np.float32), ("of the image",))
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
