"""What turns an artifact's logits into probabilities and decisions, fitted on what that very artifact gives.

Clean validation images look easier than the next hospital's, and a threshold that is chosen on them does not hold. So
validation images are used together with augmented copies of them, and thresholds are chosen on the copies alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from scipy.optimize import minimize

from appliance.package import Conformal, OperatingPoint
from appliance.probability import Heads, calibrated
from compression import data
from compression.augment import compose
from compression.inference import ACTIVATION_MAP, EMBEDDING, LOGITS, Network, tensors
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.build import Build
    from compression.recipe import CalibrateRecipe

_AUGMENTATION_SEED = 7
_BINS = 15
_DIGITS = 9  # so many of a share of a count are no rounding error


class Calibration(msgspec.Struct, frozen=True):
    """What belongs to one artifact on one runtime.

    ``reliability`` has a row for each bin of clean validation images: mean probability, observed rate, images; errors
    are expected calibration errors on the same images, before and after.
    """

    temperature: float
    bias: float
    activation_map_scale: float
    operating_points: tuple[OperatingPoint, ...]
    conformal: Conformal
    ece_before: float
    ece_after: float
    reliability: tuple[tuple[float, float, int], ...]

    def threshold(self, name: str) -> float:
        return next(point.threshold for point in self.operating_points if point.name == name)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        return calibrated(logits, self.temperature, self.bias)

    def heads(self, heads: Heads, embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Probabilities ``(heads, images)`` of an ensemble, of the one finding there is."""
        return heads.probabilities(embeddings, logits[:, None], self.temperature, self.bias)[:, :, 0].T


@dataclass(frozen=True)
class Answers:
    """An artifact's outputs on the validation images and on augmented copies of them.

    Attributes
    ----------
    logits
        ``(copies + 1, images)``; the first row is the images themselves.
    maps
        Activation maps of the images themselves, ``(images, rows, columns)``.
    labels
        bool ``(images,)``.
    embeddings
        ``(copies + 1, images, features)``, as the logits.
    """

    logits: np.ndarray
    maps: np.ndarray
    labels: np.ndarray
    embeddings: np.ndarray


def ask(build: Build, network: Network, what: str) -> Answers:
    """Run an artifact on what calibration needs; every artifact sees the same copies."""
    validation = data.load(build, "validation")
    augment = compose(build.recipe.augment, build.recipe.augment_policy, _AUGMENTATION_SEED)
    outputs = [network.run(tensors(build, validation.pixels, f"{what}: validation"))]
    for number in range(build.recipe.calibrate.augmented_copies):
        copies = (augment(image=image)["image"] for image in validation.pixels)
        outputs.append(network.run(tensors(build, copies, f"{what}: copies {number + 1}")))
    return Answers(
        logits=np.stack([each[LOGITS][:, 0] for each in outputs]),
        maps=outputs[0][ACTIVATION_MAP][:, 0],
        labels=validation.labels,
        embeddings=np.stack([each[EMBEDDING] for each in outputs]),
    )


def fit(recipe: CalibrateRecipe, answers: Answers) -> Calibration:
    """Fit temperature and bias, choose the thresholds, measure the conformal quantiles."""
    copies = len(answers.logits) - 1
    # The clean images weigh as much as all their copies together.
    logits = np.concatenate([np.tile(answers.logits[0], copies), answers.logits[1:].ravel()])
    temperature, bias = (round(value, 6) for value in fit_logistic(logits, np.tile(answers.labels, 2 * copies)))
    hard = calibrated(answers.logits[1:].ravel(), temperature, bias)
    hard_labels = np.tile(answers.labels, copies)
    clean = calibrated(answers.logits[0], temperature, bias)
    strongest = answers.maps[answers.labels].max(axis=(1, 2))
    return Calibration(
        temperature=temperature,
        bias=bias,
        activation_map_scale=round(float(np.percentile(strongest, 99)), 6),
        operating_points=tuple(
            _operating_point(point.name, point.sensitivity, hard, hard_labels) for point in recipe.operating_points
        ),
        conformal=fit_conformal(hard, hard_labels, recipe.coverage),
        ece_before=expected_calibration_error(calibrated(answers.logits[0], 1.0), answers.labels),
        ece_after=expected_calibration_error(clean, answers.labels),
        reliability=reliability(clean, answers.labels),
    )


def fit_logistic(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Temperature and bias of least negative log-likelihood (Platt, 1999; Guo et al., 2017).

    A bias as well as a temperature: training weighs the classes, and int8 shifts a logit as well as it scales it.
    """
    signs = np.where(labels, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> float:
        return float(np.logaddexp(0.0, -signs * (logits * np.exp(-parameters[0]) + parameters[1])).mean())

    # Where the classes don't overlap, the likelihood has no end; these are the ends that make sense.
    bounds = [(np.log(0.1), np.log(20.0)), (-10.0, 10.0)]
    options = {"xatol": 1e-7, "fatol": 1e-12}
    best = minimize(loss, np.zeros(2), method="Nelder-Mead", bounds=bounds, options=options).x
    return float(np.exp(best[0])), float(best[1])


def fit_conformal(probabilities: np.ndarray, labels: np.ndarray, coverage: float) -> Conformal:
    """Split conformal prediction for each class on its own (Vovk, 2012): what share of a class its set must hold.

    A label belongs to the prediction set where one minus its probability is at most its quantile. Quantiles are rounded
    up, and where a class has too few images for the coverage, only a set that always holds it has it: a quantile of 1.
    """
    quantiles = []
    for label, score in ((False, probabilities), (True, 1.0 - probabilities)):
        scores = np.sort(score[labels == label])
        rank = _share_of(len(scores) + 1, coverage)
        quantiles.append(min(float(np.ceil(scores[rank - 1] * 1e6) / 1e6), 1.0) if rank <= len(scores) else 1.0)
    return Conformal(coverage=coverage, absent=quantiles[0], present=quantiles[1])


def measured(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """How far probabilities hold on some images.

    Returns
    -------
    ``ece``, the `expected_calibration_error`; ``in_the_large``, the mean probability less the share of positive images
    (Van Calster et al., BMC Medicine 2019); ``reliability``, its rows.
    """
    return {
        "ece": expected_calibration_error(probabilities, labels),
        "in_the_large": round(float(probabilities.mean() - labels.mean()), 4),
        "reliability": reliability(probabilities, labels),
    }


def largest_that_finds(share: float, scores: np.ndarray) -> float:
    """The largest threshold that at least this share of the scores ``(images,)`` reaches."""
    return float(np.sort(scores)[-_share_of(len(scores), share)])


def _share_of(count: int, share: float) -> int:
    """The fewest of so many that are at least this share of them."""
    return int(np.ceil(round(count * share, _DIGITS)))


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> tuple[tuple[float, float, int], ...]:
    """Mean probability, observed rate and count of equal-width bins; empty ones are left out."""
    index = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    return tuple(
        (
            round(float(probabilities[index == each].mean()), 4),
            round(float(labels[index == each].mean()), 4),
            int((index == each).sum()),
        )
        for each in np.unique(index)
    )


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean gap between predicted and observed rate over equal-width bins, weighted by their images."""
    rows = reliability(probabilities, labels)
    return round(sum(abs(mean - rate) * count for mean, rate, count in rows) / len(labels), 4)


def _operating_point(name: str, sensitivity: float, probabilities: np.ndarray, labels: np.ndarray) -> OperatingPoint:
    """The largest threshold that still finds this share of the positives, rounded down to what a page can show."""
    threshold = float(np.floor(largest_that_finds(sensitivity, probabilities[labels]) * 1e4) / 1e4)
    if threshold <= 0.0:
        raise RecipeError(
            f"calibrate.operating_points: {name} would call every image positive: to find {sensitivity:.1%} of the "
            "augmented validation positives, its threshold must lie below 0.0001; ask for a lower sensitivity, or look "
            "at the positives of which the network is that sure that they are none: check-data lists labels that look "
            "wrong"
        )
    positive = probabilities >= threshold
    return OperatingPoint(
        name=name,
        threshold=threshold,
        sensitivity=round(float(positive[labels].mean()), 4),
        specificity=round(float((~positive[~labels]).mean()), 4),
        chosen_on="augmented validation images",
    )
