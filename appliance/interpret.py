"""What a network's outputs mean: findings with calibrated probabilities, or segments with their sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from PIL import Image as PillowImage

from appliance.image import Image
from appliance.package import Conformal, Ensemble, Package, SegmentSpec
from appliance.preprocess import Move, Step, moves, restore
from appliance.probability import calibrated, softmax, spread
from appliance.result import SURE, Finding, Prediction, Segment, in_percent, percent
from appliance.volume import Volume

Source = Image | Volume


def findings(
    package: Package,
    target_name: str,
    outputs: Mapping[str, np.ndarray],
    operating_point: str | None,
    shape: tuple[int, ...],
) -> Prediction:
    """Of a classification, by the calibration of the very artifact that gave the outputs.

    Parameters
    ----------
    outputs
        Of one image, without the batch axis; see `appliance.package.OutputSpec`.
    operating_point
        None takes the package's default.
    shape
        Of the image, ``(rows, columns)``.
    """
    manifest, target = package.manifest, package.target(target_name)
    point = target.operating_point(operating_point)
    probabilities = calibrated(outputs[manifest.outputs.logits], target.temperature, target.bias)
    evidence = np.clip(outputs[manifest.outputs.activation_map] / target.activation_map_scale, 0.0, 1.0)
    heads = package.heads(target_name)
    embedding, logits = (outputs[name][np.newaxis] for name in (manifest.outputs.embedding, manifest.outputs.logits))
    answers = heads.probabilities(embedding, logits, target.temperature, target.bias)[0] if heads else None
    found, doubts = [], []
    for number, (spec, probability) in enumerate(zip(manifest.findings, probabilities, strict=True)):
        positive = bool(probability >= point.threshold)
        usual = _prediction_set(target.conformal, float(probability)) if target.conformal else None
        doubt = _doubt(usual, float(probability), positive) if usual is not None else None
        said = () if answers is None else tuple(sorted(map(float, answers[:, number])))
        if not doubt and target.ensemble:
            doubt = _disagreement(target.ensemble, said)
        if doubt:
            doubts.append(f"The model is unsure about {spec.label.lower()} on this image: {doubt}")
        words = f"Unsure about {spec.label.lower()}." if doubt else spec.words_negative
        found.append(
            Finding(
                label=spec.label,
                code=spec.code,
                probability=float(probability),
                threshold=point.threshold,
                operating_point=point.name,
                positive=positive,
                urgent=spec.urgent,
                words=spec.words_positive if positive else words,
                unsure=doubt is not None,
                heads=said,
                prediction_set=usual,
                coverage=target.conformal.coverage if target.conformal else None,
            )
        )
    return Prediction(
        findings=tuple(found),
        activation_maps={
            spec.label: _of_image(evidence[index], manifest.input.steps, shape)
            for index, spec in enumerate(manifest.findings)
        },
        embedding=outputs[manifest.outputs.embedding],
        warnings=tuple(doubts),
    )


def _of_image(evidence: np.ndarray, steps: Sequence[Step], shape: tuple[int, ...]) -> np.ndarray:
    """The part of a map over the network's grid that lies on the image, without what was padded to it."""
    scale, offset, size = _path(moves(steps, shape), shape)
    starts, stops = np.maximum(offset / size, 0.0), np.minimum((scale * np.array(shape) + offset) / size, 1.0)
    if not starts.any() and (stops == 1.0).all():
        return evidence
    rows, columns = evidence.shape
    box = (starts[1] * columns, starts[0] * rows, stops[1] * columns, stops[0] * rows)
    part = PillowImage.fromarray(evidence.astype(np.float32))
    return np.asarray(part.resize((columns, rows), PillowImage.Resampling.BILINEAR, box=box))


def _path(made: Sequence[Move], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the edges of a source come to lie on the network's grid, ``scale * source + offset``, and its size."""
    scale, offset, size = np.ones(len(shape)), np.zeros(len(shape)), np.array(shape, float)
    for move in made:
        before, after = np.array(move.before), np.array(move.after)
        if move.stretches:
            scale, offset = scale * after / before, offset * after / before
        else:
            offset = offset - np.where(before > after, (before - after) // 2, -((after - before) // 2))
        size = after.astype(float)
    return scale, offset, size


def _prediction_set(conformal: Conformal, probability: float) -> tuple[Literal["absent", "present"], ...]:
    """What the probability is usual for: in all but a share of ``1 - coverage`` of each class."""
    said: list[Literal["absent", "present"]] = []
    if probability <= conformal.absent:
        said.append("absent")
    if 1.0 - probability <= conformal.present:
        said.append("present")
    return tuple(said)


def _doubt(prediction_set: Sequence[str], probability: float, positive: bool) -> str | None:
    """Why the prediction set is not just the decision, in words; None where it is."""
    present, absent = "present" in prediction_set, "absent" in prediction_set
    said = f"a probability of {percent(probability)} is"
    if present == absent:
        return f"{said} {'usual both with and' if present else 'unusual both with and'} without it."
    if present != positive:
        return (
            f"{said} usual {'with' if present else 'without'} it, but {'below' if present else 'above'} the threshold."
        )
    return None


def _disagreement(ensemble: Ensemble, probabilities: tuple[float, ...]) -> str | None:
    """Why the heads of the ensemble are too far apart, in words; None where they are not."""
    if spread(np.array(probabilities)) <= ensemble.limit:
        return None
    return (
        f"{len(probabilities)} heads that learned from other samples of the patients give probabilities from "
        f"{in_percent(probabilities[0])} to {in_percent(probabilities[-1])}."
    )


def segments(package: Package, outputs: Mapping[str, np.ndarray], source: Source) -> Prediction:
    """Of a segmentation: each pixel of the source belongs to what is most probable there.

    The softmax is taken on the network's grid and brought to the source's, since probabilities may be averaged, but
    labels may not.
    """
    manifest = package.manifest
    shape, spacing = source.pixels.shape, source.spacing
    likely = restore(softmax(outputs[manifest.outputs.logits]), manifest.input.steps, shape, spacing)
    # As argmax and max along the first axis, which take ten times as long.
    mask, highest = np.zeros(shape, np.uint8), likely[0]
    for number, each in enumerate(likely[1:], start=1):
        mask[each > highest] = number
        highest = np.maximum(highest, each)
    found, warnings = [], []
    seen = _seen(manifest.input.steps, shape, spacing)
    if seen != tuple(slice(0, size) for size in shape):
        unseen = np.ones(shape, bool)
        unseen[seen] = False
        mask[unseen] = 0
        likely[:, unseen] = 0.0
        size = " x ".join(str(each.stop - each.start) for each in seen)
        warnings.append(
            f"The model looks at the middle {size} of {' x '.join(map(str, shape))} voxels only; "
            "outside of it nothing is outlined."
        )
    for number, spec in enumerate(manifest.segments, start=1):
        inside = mask == number
        found.append(_segment(spec, highest[inside], mask.size, spacing if len(shape) == 3 else None, source))
        warnings += _implausible(spec, inside[seen])
    return Prediction(
        findings=(),
        activation_maps={},
        embedding=outputs[manifest.outputs.embedding],
        warnings=tuple(warnings),
        segments=tuple(found),
        mask=np.ascontiguousarray(source.align(mask)) if isinstance(source, Volume) else mask[np.newaxis],
        probabilities=source.align(likely[1:]) if isinstance(source, Volume) else likely[1:, np.newaxis],
    )


def _seen(steps: Sequence[Step], shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> tuple[slice, ...]:
    """The part of the source that a crop among the steps leaves; beyond it the network has seen nothing.

    Edges are followed, in the units of the current grid: ``scale * source + offset``.
    """
    low, high = np.zeros(len(shape)), np.array(shape, float)
    made = moves(steps, shape, spacing)
    for number, move in enumerate(made, start=1):
        if not move.stretches:
            scale, offset, size = _path(made[:number], shape)
            low, high = np.maximum(low, -offset / scale), np.minimum(high, (size - offset) / scale)
    # A voxel counts where its center was seen.
    starts, stops = np.ceil(low - 0.5).astype(int), np.floor(high + 0.5).astype(int)
    return tuple(slice(int(start), int(stop)) for start, stop in zip(starts, stops, strict=True))


def _segment(
    spec: SegmentSpec, probabilities: np.ndarray, size: int, voxel: tuple[float, ...] | None, source: Source
) -> Segment:
    """``probabilities`` of its voxels, of ``size`` in all; ``voxel``: the millimeters of one, None of an image."""
    count = len(probabilities)
    pixel = source.spacing if voxel is None else None
    return Segment(
        label=spec.label,
        category=spec.category,
        type=spec.type,
        modifier=spec.modifier,
        color=spec.color,
        voxels=count,
        mean_probability=float(probabilities.mean()) if count else 0.0,
        uncertain_share=float((probabilities < SURE).mean()) if count else 0.0,
        volume_ml=None if voxel is None else count * float(np.prod(voxel)) / 1000.0,
        area_share=count / size if voxel is None else None,
        area_mm2=None if pixel is None else count * float(np.prod(pixel)),
    )


def _implausible(spec: SegmentSpec, inside: np.ndarray) -> list[str]:
    """What makes the size of a segment doubtful, in sentences."""
    kind, size = ("volume", "volume") if inside.ndim == 3 else ("image", "area")
    if not inside.any():
        return [f"The segment {spec.label} is empty: the model outlined nothing of it."]
    ends = (inside.take((0, -1), axis).any() for axis in range(inside.ndim))
    if any(ends):
        return [
            f"The segment {spec.label} touches the edge of the {kind}: a part of it may lie outside, "
            f"and its {size} be larger than it says."
        ]
    return []
