"""How much there is of what: counts, class weights, and whether that is usual for a task of this kind.

The bands name what was published, so that a number gets a meaning. They prove nothing about another data set; a
learning curve on one's own does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from compression.inventory import Inventory

Band = tuple[float, str, str]  # up to this, in plain words, source

TRAINING_IMAGES: tuple[Band, ...] = (
    (2_000, "few: classifiers of radiographs still gained much from more images; pretrain, augment",
     "Dunnmon et al., Radiology 2019: AUC 0.84 with 2,000 chest radiographs, 0.95 with 20,000"),
    (20_000, "usual: enough for a clear finding with pretrained weights and augmentation",
     "Dunnmon et al., Radiology 2019 (20,000: AUC 0.95); Tang et al., npj Digital Medicine 2020 (8,500: pretraining "
     "on natural images still helps)"),
    (float("inf"), "plenty: more images of the same hospital gain little, other hospitals more",
     "Dunnmon et al., Radiology 2019: 200,000 images (AUC 0.96) not significantly better than 20,000 (0.95)"),
)  # fmt: skip
TRAINING_MASKS: tuple[Band, ...] = (
    (30, "few: works only for a simple structure, with strong elastic augmentation",
     "Ronneberger et al., MICCAI 2015: U-Net on 30 images of one kind"),
    (500, "usual for the segmentation of one organ",
     "Antonelli et al., Nature Communications 2022: tens to hundreds of cases in each of the Decathlon's ten tasks"),
    (float("inf"), "plenty for one organ", "Antonelli et al., Nature Communications 2022"),
)  # fmt: skip
PARAMETERS_PER_SAMPLE: tuple[Band, ...] = (
    (100, "low: the whole network can be trained",
     "CheXNet, Rajpurkar et al. 2017: DenseNet-121 (7.0 M) on 112,120 radiographs, 62 a sample"),
    (1_000, "usual for fine-tuning: start from pretrained weights, augment, stop early",
     "Tang et al., npj Digital Medicine 2020: some 7 M on 8,500 radiographs, 820 a sample, better if pretrained"),
    (float("inf"), "high: freeze most layers or take a smaller network; a good figure on the training set says nothing",
     "Zhang et al., ICLR 2017: networks with 33 parameters a sample learn random labels by heart"),
)  # fmt: skip
TEST_OF_EACH_CLASS: tuple[Band, ...] = (
    (100, "few: too few for sensitivity and specificity with useful intervals",
     "Vergouwe et al., Journal of Clinical Epidemiology 2005: at least 100 events and 100 non-events"),
    (float("inf"), "enough", "Vergouwe et al., Journal of Clinical Epidemiology 2005"),
)  # fmt: skip


def band(value: float, bands: Sequence[Band]) -> dict[str, Any]:
    """A value with the plain words for it and their source."""
    words, source = next((words, source) for limit, words, source in bands if value < limit)
    return {"value": value, "in_words": words, "source": source}


def counts(taken: Inventory, site: str | None) -> dict[str, Any]:
    """Images and patients of those that training uses, by label, sublabel, split and site; images per patient."""
    used = np.flatnonzero(taken.used)
    patients = taken.column("patient_id")[used]
    columns = [name for name in ("label", "sublabel", "split", site) if name and taken.has(name)]
    by: dict[str, dict[str, dict[str, int]]] = {}
    for name in columns:
        values = taken.column(name)[used]
        by[name] = {
            str(value): {"images": int((values == value).sum()), "patients": len(set(patients[values == value]))}
            for value in np.unique(values)
        }
    crossed: dict[str, dict[str, int]] = {}
    for split, label in zip(taken.column("split")[used], taken.column("label")[used], strict=True):
        of_split = crossed.setdefault(str(split) or "all", {})
        of_split[str(label)] = of_split.get(str(label), 0) + 1
    each = Counter(patients.tolist())
    labels_of: dict[str, set[str]] = {}
    for patient, label in zip(patients.tolist(), taken.column("label")[used].tolist(), strict=True):
        labels_of.setdefault(patient, set()).add(label)
    return {
        "listed": taken.total,
        "readable": len(taken),
        "left_out_as_duplicates": int((~taken.used).sum()),
        "used": len(used),
        "patients": len(each),
        "by": by,
        "split_by_label": crossed,
        "images_per_patient": {
            "median": float(np.median(list(each.values()))),
            "most": max(each.values()),
            "patient_with_most": max(each, key=lambda patient: each[patient]),
            "histogram": {str(number): times for number, times in sorted(Counter(each.values()).items())},
        },
        "patients_with_several_labels": sum(len(labels) > 1 for labels in labels_of.values()),
    }


def weighting(labels: np.ndarray, positive: str) -> dict[str, Any]:
    """Class weights inversely proportional to frequency (King & Zeng, Political Analysis 2001), mean 1 over images.

    Parameters
    ----------
    labels
        str ``(count,)``: of training images.

    Returns
    -------
    Weights by label and in words, the ``pos_weight`` of a binary cross-entropy that does the same, and the ratio of the
    most to the least frequent label.
    """
    values, numbers = np.unique(labels, return_counts=True)
    weights = {
        str(value): round(len(labels) / (len(values) * int(number)), 4)
        for value, number in zip(values, numbers, strict=True)
    }
    ones = int((labels == positive).sum())
    return {
        "class_weights": weights,
        "pos_weight": round((len(labels) - ones) / ones, 4) if ones else None,
        "imbalance": round(float(numbers.max() / numbers.min()), 2),
        "in_words": ", ".join(f"{label} {weight:g}" for label, weight in weights.items()),
    }
