"""What augmentation may not do to anatomy: mirror it, turn it by a quarter, or tilt it by more than 15 degrees.

The judgment is on the transforms as they were made, not on how a recipe spells them: a limit of 45, a rotate of
[-45, 45] and a negative scale, which mirrors, are all seen. What is not known to be bounded is refused. A recipe may
allow a transform by name, with a reason that goes into the package's provenance, its card and its report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import albumentations

from compression.recipe import AugmentPolicyRecipe, RecipeError
from compression.transforms import AbdomenBelow

# A patient's lean and a detector's tilt stay well below; beyond it a radiograph would be taken again.
MOST_DEGREES = 15.0
_QUARTER_TURNS = (
    albumentations.RandomRotate90, albumentations.Transpose, albumentations.D4, albumentations.SquareSymmetry,
)  # fmt: skip
_FLIPS = {albumentations.HorizontalFlip: "left-right", albumentations.VerticalFlip: "head-foot"}
# They move the picture as a whole, cut it, or cover parts of it.
_STRAIGHT = (
    albumentations.NoOp, albumentations.CenterCrop, albumentations.Crop, albumentations.RandomCrop,
    albumentations.RandomCropFromBorders, albumentations.Pad, albumentations.PadIfNeeded, albumentations.RandomScale,
    albumentations.CoarseDropout, albumentations.Erasing, albumentations.GridDropout, albumentations.XYMasking,
    albumentations.PixelDropout, albumentations.Morphological,
)  # fmt: skip
_RESIZING = (albumentations.RandomResizedCrop, albumentations.RandomSizedCrop, albumentations.Resize)
_DEVIATIONS = 6  # of a normal distribution, which has no end; beyond these lies one draw in a billion
_UNIFORM_DEVIATION = 1 / math.sqrt(3)  # of noise between -1 and 1


@dataclass(frozen=True)
class Motion:
    """The most that a transform does to directions: tilts them by ``degrees``, stretches one axis over the other."""

    degrees: float = 0.0
    stretch: float = 1.0


class _RefusalError(Exception):
    """A transform that has no safe bound; the message says why."""


def check(transforms: Sequence[albumentations.BasicTransform], policy: AugmentPolicyRecipe) -> None:
    """Refuse what the policy does not allow.

    Parameters
    ----------
    transforms
        Those of a recipe, in order; containers are looked into.

    Raises
    ------
    RecipeError
        Naming the transform and why; also where an exception is made for a transform that is not there.
    """
    flat = list(_single(transforms))
    exempt = allowed(policy, [type(each).__name__ for each in flat])
    motions: dict[str, Motion] = {}
    for number, transform in enumerate(flat):
        name = type(transform).__name__
        if name not in exempt:
            try:
                motions[f"{name} ({number + 1})"] = _motion(transform, policy)
            except _RefusalError as fault:
                raise RecipeError(f"augment {name}: {fault}. {hint(name)}") from None
    tilt = most_tilt(motions.values())
    if tilt > MOST_DEGREES:
        names = [name for name, each in motions.items() if each != Motion()]
        raise RecipeError(
            f"augment {', '.join(names)}: the picture may be tilted by {tilt:.1f} degrees, where turns add up and "
            f"stretches widen them; more than {MOST_DEGREES:g} degrees are refused. {hint(names[0].split(' ')[0])}"
        )


def most_tilt(motions: Iterable[Motion]) -> float:
    """The most degrees by which transforms one after another tilt a line that runs along the picture's edge."""
    tilt = 0.0
    for each in motions:
        tilt += each.degrees
        if tilt >= 90.0:
            return tilt
        tilt = math.degrees(math.atan(each.stretch * math.tan(math.radians(tilt))))
    return tilt


def allowed(policy: AugmentPolicyRecipe, names: Iterable[str]) -> set[str]:
    """The transforms that are exempt; raises `RecipeError` where one is not among the ``names`` that there are."""
    exempt = {each.transform for each in policy.allow}
    unused = sorted(exempt.difference(names))
    if unused:
        raise RecipeError(f"augment_policy.allow names {', '.join(unused)}, which no [[augment]] has; take it out")
    return exempt


def exceptions(policy: AugmentPolicyRecipe) -> list[str]:
    """What a recipe allows against the policy, in words, for those who read the card."""
    return [f"Augmentation by {each.transform}, which the policy refuses: {each.reason}" for each in policy.allow]


def _single(transforms: Iterable[object]) -> Iterable[albumentations.BasicTransform]:
    for each in transforms:
        if isinstance(each, albumentations.BaseCompose):
            yield from _single(each.transforms)
        else:
            yield each  # type: ignore[misc]


def hint(name: str) -> str:
    return (
        f'Where it is right for these images: [augment_policy] allow = [{{ transform = "{name}", reason = "..." }}]; '
        "the reason is recorded and shown"
    )


def _motion(transform: object, policy: AugmentPolicyRecipe) -> Motion:
    """The bound of one transform; raises `_RefusalError`."""
    if isinstance(transform, (albumentations.ImageOnlyTransform, *_STRAIGHT)):
        return Motion()
    if isinstance(transform, _QUARTER_TURNS):
        raise _RefusalError(f"a {policy.anatomy} image must not be turned by 90 degrees")
    for kind, direction in _FLIPS.items():
        if isinstance(transform, kind):
            if direction in policy.may_flip:
                return Motion()
            raise _RefusalError(
                f"a {policy.anatomy} image must not be flipped; of anatomy that has no sides, "
                f'augment_policy.may_flip = ["{direction}"] says so'
            )
    if isinstance(transform, (albumentations.Rotate, albumentations.SafeRotate)):  # the second is an Affine, too
        return Motion(_largest(transform.limit))
    if isinstance(transform, albumentations.Affine):
        return _affine(transform)
    if isinstance(transform, _RESIZING):
        return Motion(stretch=_resized(transform))
    if isinstance(transform, AbdomenBelow):
        return Motion(stretch=1 / (1 - _largest(transform.share)))
    if isinstance(transform, albumentations.Perspective):
        # Corners move by a normal share of the side, of which 0.32 is the end.
        share = min(0.32, _DEVIATIONS * _largest(transform.scale))
        return Motion(math.degrees(math.atan(share / (1 - 2 * share))), 1 / (1 - 2 * share))
    if isinstance(transform, albumentations.ElasticTransform):
        return _elastic(transform)
    if isinstance(transform, albumentations.GridDistortion):  # each row and column of cells is stretched on its own
        low, high = transform.distort_limit
        if low <= -1:
            raise _RefusalError(f"a distort_limit of {low:g} folds the picture")
        return Motion(stretch=(1 + high) / (1 + low))
    raise _RefusalError("how far it tilts or mirrors has no bound that is known here")


def _affine(transform: albumentations.Affine) -> Motion:
    scale, shear = transform.scale, transform.shear
    if min(*scale["x"], *scale["y"]) <= 0:
        raise _RefusalError("a scale of 0 or less mirrors the picture")
    stretch = 1.0
    if not transform.keep_ratio:
        stretch = max(scale["x"][1] / scale["y"][0], scale["y"][1] / scale["x"][0])
    return Motion(_largest(transform.rotate) + _largest(shear["x"]) + _largest(shear["y"]), stretch)


def _resized(transform: object) -> float:
    """How far a part of a square picture is stretched where it is resized to another shape."""
    if isinstance(transform, albumentations.Resize):
        aspect = transform.width / transform.height
        return float(max(aspect, 1 / aspect))
    given = transform.ratio if hasattr(transform, "ratio") else (transform.w2h_ratio,) * 2  # type: ignore[attr-defined]
    aspect = transform.size[1] / transform.size[0]  # type: ignore[attr-defined]
    return float(max(given[1] / aspect, aspect / given[0], 1.0))


def _elastic(transform: albumentations.ElasticTransform) -> Motion:
    """A displacement is smoothed noise; its slope along the picture's edge, where least is averaged, is the largest.

    Smoothing a line of white noise by a Gaussian of ``sigma`` leaves a slope of 0.375 / sigma ** 1.5 deviations; half
    of the noise at the edge is the repeated last line.
    """
    sigma = min(transform.sigma, 17 / math.sqrt(12)) if transform.approximate else transform.sigma  # its kernel has 17
    slope = _DEVIATIONS * transform.alpha * _UNIFORM_DEVIATION * 0.5 * 0.375 / sigma**1.5
    if slope >= 1:
        raise _RefusalError(f"alpha {transform.alpha:g} with sigma {transform.sigma:g} may fold the picture")
    return Motion(math.degrees(math.atan(slope / (1 - slope))), (1 + slope) / (1 - slope))


def _largest(limits: Sequence[float]) -> float:
    return float(max(abs(each) for each in limits))
