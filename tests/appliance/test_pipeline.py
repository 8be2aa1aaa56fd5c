"""What a prediction says of its own certainty."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from appliance import golden, interpret, package
from appliance.backend import Options
from appliance.backends import fake
from appliance.errors import PackageError, ReceiptError
from appliance.probability import Heads, spread
from appliance.result import Finding
from tests import fake_package

pytestmark = pytest.mark.skipif(not package.bundled("chest-pneumonia"), reason="no model package is bundled")


def outputs_for(opened: package.Package, probability: float) -> dict[str, np.ndarray]:
    """What a network says that gives this probability, once calibrated."""
    target, outputs = opened.target("cpu"), opened.manifest.outputs
    heads = opened.heads("cpu")
    features = 8 if heads is None else heads.weights.shape[-1]
    logit = (math.log(probability / (1 - probability)) - target.bias) * target.temperature
    return {
        outputs.logits: np.array([logit]),
        outputs.activation_map: np.zeros((1, 7, 7)),
        outputs.embedding: np.zeros(features),
    }


def predicted(probability: float, point: str = "balanced") -> tuple[Finding, tuple[str, ...]]:
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    prediction = interpret.findings(opened, "cpu", outputs_for(opened, probability), point, (300, 250))
    (finding,) = prediction.findings
    assert finding.probability == pytest.approx(probability)
    return finding, prediction.warnings


def test_where_the_prediction_set_is_the_decision_nothing_is_said() -> None:
    for probability, reported_as in ((0.01, "absent"), (0.999, "present")):
        finding, doubts = predicted(probability)
        assert (finding.reported_as, doubts) == (reported_as, ())


def test_between_the_classes_the_model_says_that_it_is_unsure() -> None:
    conformal = package.read(package.bundled("chest-pneumonia")[0], None).target("cpu").conformal
    assert conformal is not None
    between = (conformal.absent + 1 - conformal.present) / 2
    finding, (doubt,) = predicted(between)
    assert not finding.positive
    assert finding.reported_as == "indeterminate"  # neither: "no signs were found" would be as wrong
    assert finding.words == "Unsure about pneumonia."
    assert doubt.startswith("The model is unsure about pneumonia on this image")
    assert f"{between * 100:.1f} % is unusual both with and without it" in doubt
    finding, (doubt,) = predicted(between, "high_sensitivity")
    assert finding.reported_as == "present"  # the threshold decides; the doubt is said


def test_where_the_threshold_contradicts_the_prediction_set_that_is_said() -> None:
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    target = opened.target("cpu")
    assert target.conformal is not None
    strict = target.operating_point("high_specificity").threshold
    assert 1 - target.conformal.present < strict
    finding, (doubt,) = predicted((1 - target.conformal.present + strict) / 2, "high_specificity")
    assert finding.reported_as == "indeterminate"
    assert "usual with it, but below the threshold" in doubt


# --- ensembles ------------------------------------------------------------------------------------------------------


def with_heads(folder: Path, apart: float) -> package.Package:
    """A package whose five heads are ``apart`` logits from each other on the first feature, and alike on the rest."""
    weights = np.zeros((5, 1, 8), np.float32)
    weights[:, 0, 0] = apart * np.arange(-2, 3)
    return package.read(fake_package.make(folder, heads=Heads(weights, np.zeros((5, 1), np.float32))), None)


def said_of(opened: package.Package, probability: float, embedding: np.ndarray) -> tuple[Finding, tuple[str, ...]]:
    target, outputs = opened.target("fake"), opened.manifest.outputs
    logit = (math.log(probability / (1 - probability)) - target.bias) * target.temperature
    given = {
        outputs.logits: np.array([logit]),
        outputs.activation_map: np.zeros((1, 7, 7)),
        outputs.embedding: embedding.astype(np.float32),
    }
    prediction = interpret.findings(opened, "fake", given, None, (300, 250))
    return prediction.findings[0], prediction.warnings


def test_heads_that_agree_are_shown_and_raise_no_doubt(tmp_path: Path) -> None:
    finding, doubts = said_of(with_heads(tmp_path, 1.0), 0.999, np.array([0.0, *[1.0] * 7]))
    assert finding.heads == pytest.approx([0.999] * 5)
    assert (finding.reported_as, doubts) == ("present", ())


def test_heads_that_disagree_make_the_model_unsure(tmp_path: Path) -> None:
    opened = with_heads(tmp_path, 3.0)
    finding, (doubt,) = said_of(opened, 0.01, np.array([1.0, *[0.0] * 7]))
    assert list(finding.heads) == sorted(finding.heads)
    assert finding.heads[2] == pytest.approx(0.01)  # they lie about the network's own answer
    ensemble = opened.target("fake").ensemble
    assert ensemble is not None
    assert spread(np.array(finding.heads)) > ensemble.limit
    assert finding.reported_as == "indeterminate"  # the probability alone would have been a sure "absent"
    assert "5 heads that learned from other samples of the patients give probabilities from 0 % to 80 %" in doubt
    finding, (doubt,) = said_of(opened, 0.99, np.array([1.0, *[0.0] * 7]))
    assert finding.reported_as == "present"  # the threshold decides; the doubt is said
    assert "from 20 % to 100 %" in doubt


def test_a_backend_whose_embedding_is_off_gets_no_receipt(tmp_path: Path) -> None:
    """Logits and maps may agree where the embedding does not, on which the uncertainty hangs."""
    opened = with_heads(tmp_path, 1.0)
    backend, vectors = fake.open(opened.artifact("fake"), Options()), opened.golden()
    answers = [backend.run({opened.manifest.input.name: each}) for each in golden.tensors(opened, vectors)]
    assert golden.agreement(opened, "fake", vectors, answers).objection(opened, len(answers)) == ""
    off = [{**answer, "embedding": answer["embedding"] + 0.5} for answer in answers]
    assert "probability" in golden.agreement(opened, "fake", vectors, off).objection(opened, len(answers))
    short = {**answers[0], "embedding": answers[0]["embedding"][:, :5]}
    with pytest.raises(ReceiptError, match=r"'embedding' .* has the shape \(1, 5\)"):
        golden.check_shapes(opened, "fake", vectors, short, 1)


def test_an_ensemble_without_its_arrays_is_named(tmp_path: Path) -> None:
    opened = with_heads(tmp_path, 1.0)
    target = msgspec.structs.replace(
        opened.target("fake"), ensemble=msgspec.structs.replace(opened.target("fake").ensemble, file="card.md")
    )
    manifest = msgspec.structs.replace(opened.manifest, targets={"fake": target})
    broken = package.Package(opened.path, "", manifest, {"card.md": b"# For tests"}, None)
    with pytest.raises(PackageError, match=r"card\.md can't be read"):
        broken.heads("fake")
