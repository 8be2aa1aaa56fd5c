"""The recipe of a segmentation."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from appliance.package import Accepts, IntendedUse, SegmentSpec
from appliance.preprocess import MOVING, STEPS, Step
from appliance.result import Code
from compression import loop
from compression.recipe import (
    AugmentPolicyRecipe,
    AugmentRecipe,
    CardRecipe,
    Count,
    RecipeError,
    Share,
    check_flips,
    check_looked_at,
    decode,
)

_TO_0_TO_1 = ("percentile_stretch", "window")
_Limit = Annotated[float, Meta(ge=0)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class PackageRecipe(_Table, frozen=True):
    id: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]*$")]
    version: Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+$")]
    title: str
    intended_use: IntendedUse
    accepts: Accepts
    finding_site: Code
    segments: tuple[SegmentSpec, ...]


class DataRecipe(_Table, frozen=True):
    """``train``: a folder with ``manifest.csv`` (file, mask, patient_id) or with ``images/`` and ``labels/`` of NIfTI.

    Patients are dealt to ``folds``, each of which is kept for a test once, in the first ``cross_validated`` of them;
    ``validation_share`` of a fold's training patients are for validation. ``even``: a column whose values are spread
    evenly. The sets of ``external`` are only evaluated. ``same_patient``: groups of patients of the list who are one
    person; without a list, names of NIfTI files without their suffix.
    """

    train: str
    folds: Annotated[int, Meta(ge=2)]
    cross_validated: Count
    validation_share: Share
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)]
    external: tuple[str, ...] = ()
    even: str | None = None
    same_patient: tuple[tuple[str, ...], ...] = ()


class InputRecipe(_Table, frozen=True):
    """``shape``: what the steps make of any source; ``augment_after``: so many steps run before augmentation."""

    shape: tuple[Count, ...]
    steps: tuple[Step, ...]
    augment_after: Annotated[int, Meta(ge=0)]

    def early(self) -> tuple[Step, ...]:
        """The steps before augmentation."""
        return self.steps[: self.augment_after]

    def late(self) -> tuple[Step, ...]:
        return self.steps[self.augment_after :]

    def stretched(self) -> tuple[float, float]:
        """Of images: the percentiles that become black and white."""
        parameters = self.late()[0].parameters
        return parameters["low"], parameters["high"]


class NetworkRecipe(_Table, frozen=True):
    width: Count
    levels: Count
    dropout: Annotated[float, Meta(ge=0, lt=1)]


class PruneRecipe(_Table, frozen=True):
    ratios: tuple[Share, ...]
    round_to: Count
    train: loop.Settings


class VolumesRecipe(_Table, frozen=True):
    """``unbiased``: the median case is drawn as large as its mask; see `compression.segmentation.volumes`."""

    unbiased: bool = False


class QuantizeRecipe(_Table, frozen=True):
    targets: tuple[Literal["cpu", "openvino", "tensorrt"], ...]
    images: Count
    method: Literal["MinMax", "Entropy", "Percentile"]


class GateRecipe(_Table, frozen=True):
    """What a network may cost against the unpruned float network, on the validation cases of each fold.

    ``dice_loss``: of the mean Dice coefficient of any segment; ``dice_between``: the least mean Dice coefficient
    between what the two draw; ``volume_error``: the largest median share by which their volumes differ.
    """

    dice_loss: _Limit
    dice_between: _Limit
    volume_error: _Limit


class GoldenRecipe(_Table, frozen=True):
    count: Count
    components: Count
    spread: float
    shape: tuple[Count, ...]
    smallest_dice: Share


class EvaluateRecipe(_Table, frozen=True):
    """``mirrored``: the test cases are also drawn with left and right exchanged, as a set of their own.

    ``subgroup_margin``: by how much a subgroup's Dice coefficient may be worse than the rest's without an alarm.
    """

    bootstrap: Count
    mirrored: bool = False
    subgroup_margin: Share = 0.05


class SegmentationRecipe(_Table, frozen=True):
    task: Literal["segmentation"]
    package: PackageRecipe
    card: CardRecipe
    data: DataRecipe
    input: InputRecipe
    network: NetworkRecipe
    train: loop.Settings
    augment: tuple[AugmentRecipe, ...]
    prune: PruneRecipe
    quantize: QuantizeRecipe
    gate: GateRecipe
    golden: GoldenRecipe
    evaluate: EvaluateRecipe
    augment_policy: AugmentPolicyRecipe = AugmentPolicyRecipe()
    volumes: VolumesRecipe = VolumesRecipe()


def read(path: Path) -> SegmentationRecipe:
    """Read a recipe; raises `RecipeError`."""
    recipe = decode(path, SegmentationRecipe)
    if recipe.data.cross_validated > recipe.data.folds:
        raise RecipeError(f"{path}: data.cross_validated is more than data.folds, {recipe.data.folds}")
    multiple = 2 ** (recipe.network.levels - 1)
    if any(size % multiple for size in recipe.input.shape):
        raise RecipeError(
            f"{path}: each of input.shape must be a multiple of {multiple}, for {recipe.network.levels} levels"
        )
    check_looked_at(path, recipe.card, recipe.data.external)
    check_flips(path, recipe.augment_policy)
    for number, step in enumerate(recipe.input.steps, start=1):
        _check_step(path, number, step)
        if step.name == "resample" and len(recipe.input.shape) == 2:
            raise RecipeError(
                f"{path}: input.steps: step {number}, resample: training knows no spacing of images, and devices "
                "do, so that they would see another size; take resize, or pad_to_aspect and resize"
            )
    _check_place_of_augmentation(path, recipe.input)
    return recipe


def _check_step(path: Path, number: int, step: Step) -> None:
    if step.name not in STEPS:
        raise RecipeError(
            f"{path}: input.steps: step {number} is {step.name!r}, which there is not; there are {', '.join(STEPS)}"
        )
    spacing = {"spacing": ()} if step.name == "resample" else {}
    try:
        inspect.signature(STEPS[step.name]).bind(None, **step.parameters, **spacing)
    except TypeError as error:
        raise RecipeError(f"{path}: input.steps: step {number}, {step.name}: {error}") from error
    for name in ("std", "width"):
        if step.parameters.get(name) == 0:
            raise RecipeError(
                f"{path}: input.steps: step {number}, {step.name}: {name} is 0, by which nothing is divided"
            )


def _check_place_of_augmentation(path: Path, recipe: InputRecipe) -> None:
    """Where values are changed before, at or after augmentation, such that training would see others than the device.

    Images are augmented at 8 bits, whatever they are stored with: only percentile stretching undoes that scale. Volumes
    are augmented in 0 to 1, and what augmentation takes beyond is cut off.
    """
    early, late = recipe.early(), recipe.late()
    changing = [step.name for step in early if step.name not in MOVING]
    if len(recipe.shape) > 2:
        if not changing or changing[-1] not in _TO_0_TO_1:
            raise RecipeError(
                f"{path}: input.augment_after: volumes are augmented in 0 to 1, so that of the steps before, the last "
                f"that changes values must be {' or '.join(_TO_0_TO_1)}, not {changing[-1] if changing else 'none'}"
            )
    elif changing:
        raise RecipeError(
            f"{path}: input.augment_after: images are augmented at 8 bits, before any step but {', '.join(MOVING)}"
        )
    elif not late or late[0].name != "percentile_stretch":
        first = late[0].name if late else "none"
        raise RecipeError(
            f"{path}: input.steps: percentile_stretch must be the first step after input.augment_after, not {first}: "
            "images are augmented at 8 bits, whose scale it alone undoes; others would see other values on a device "
            "than in training"
        )
