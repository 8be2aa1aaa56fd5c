"""What a decision is worth: each operating point with its intervals, and the decision curve over all thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np

from compression import rates
from compression.decision_curve import gain, net_benefit
from compression.statistics import bootstrap
from compression.subgroups import Sample, rounded

PREVALENCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
# From "act at the least hint" to "act only if it is likelier than not"; finer where acting is cheap.
THRESHOLDS = np.array([0.01, 0.02, 0.03, 0.05, *np.arange(0.1, 0.85, 0.05)])


def at_point(sample: Sample, site_prevalence: float) -> dict[str, Any]:
    """What the decisions of one operating point are worth; both classes must be there.

    Returns
    -------
    ``[value, low, high]`` of sensitivity, specificity, accuracy and both likelihood ratios, and a row of
    ``prevalence``, ``ppv`` and ``npv`` for each of `PREVALENCES` and the site's.
    """
    sensitivity, specificity = sample.rate(True), sample.rate(False)
    positive, negative = rates.likelihood_ratios(sensitivity, specificity)
    rows = []
    for prevalence in sorted({*PREVALENCES, site_prevalence}):
        ppv, npv = rates.predictive_values(sensitivity, specificity, prevalence)
        rows.append({"prevalence": prevalence, "ppv": rounded(ppv), "npv": rounded(npv)})
    return {
        "sensitivity": rounded(rates.wilson(sensitivity)),
        "specificity": rounded(rates.wilson(specificity)),
        "accuracy": rounded(rates.wilson(sample.accuracy())),
        "likelihood_ratio_positive": rounded(positive),
        "likelihood_ratio_negative": rounded(negative),
        "predictive_values": rows,
    }


def curve(probabilities: np.ndarray, labels: np.ndarray, patients: np.ndarray, resamples: int) -> dict[str, Any]:
    """Net benefit and gain at each of `THRESHOLDS`, ``[value, low, high]``, and where the gain is shown to be one."""

    def measure(chosen: np.ndarray) -> list[float]:
        return [
            float(value)
            for figure in (net_benefit, gain)
            for value in figure(probabilities[chosen], labels[chosen], THRESHOLDS)
        ]

    found = bootstrap(measure, labels, patients, resamples)
    gains = found[len(THRESHOLDS) :]
    useful = [low is not None and low > 0 for _, low, _ in gains]
    return {"net_benefit": found[: len(THRESHOLDS)], "gain": gains, "useful": useful}
