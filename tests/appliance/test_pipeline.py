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


def warnings(probability: float, point: str = "balanced") -> tuple[str, ...]:
    opened = package.read(package.bundled()[0], None)
    engine = Engine(
        opened,
        cast(Backend, Says(opened, probability)),
        cast(Receipt, Proof()),
        opened.target("cpu").operating_point(point),
        (),
    )
    prediction = engine.predict(np.zeros((1, 1, 224, 224), dtype=np.float32), ("of the image",))
    assert prediction.findings[0].probability == pytest.approx(probability)
    assert prediction.warnings[0] == "of the image"
    return prediction.warnings[1:]


def test_where_the_prediction_set_is_the_decision_nothing_is_said() -> None:
    assert warnings(0.01) == ()
    assert warnings(0.999) == ()


def test_between_the_classes_the_model_says_that_it_is_unsure() -> None:
    conformal = package.read(package.bundled()[0], None).target("cpu").conformal
    assert conformal is not None
    between = (conformal.absent + 1 - conformal.present) / 2
    (doubt,) = warnings(between)
    assert doubt.startswith("The model is unsure about Pneumonia on this image")
    assert f"{between:.1%} is unusual both with and without it" in doubt


def test_where_the_threshold_contradicts_the_prediction_set_that_is_said() -> None:
    opened = package.read(package.bundled()[0], None)
    target = opened.target("cpu")
    assert target.conformal is not None
    strict = target.operating_point("high_specificity").threshold
    assert 1 - target.conformal.present < strict
    (doubt,) = warnings((1 - target.conformal.present + strict) / 2, "high_specificity")
    assert "usual with it, but below the threshold" in doubt
