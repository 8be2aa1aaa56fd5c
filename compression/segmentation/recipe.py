"""The recipe of a segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from appliance.package import Accepts, IntendedUse, SegmentSpec
from appliance.preprocess import MOVING, Step
from appliance.result import Code
from compression import loop
from compression.recipe import AugmentPolicyRecipe, AugmentRecipe, CardRecipe, Count, RecipeError, Share, decode

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
    evenly. ``external`` is only evaluated. ``same_patient``: groups of patients of the list who are one person; without
    a list, names of NIfTI files without their suffix.
    """

    train: str
    folds: Annotated[int, Meta(ge=2)]
    cross_validated: Count
    validation_share: Share
    seed: int
    external: str | None = None
    even: str | None = None
    same_patient: tuple[tuple[str, ...], ...] = ()


class InputRecipe(_Table, frozen=True):
    """``shape``: what the steps make of any source; ``augment_after``: so many steps run before augmentation."""

    shape: tuple[Count, ...]
    steps: tuple[Step, ...]
    augment_after: int


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
    """``mirrored``: the test cases are also drawn with left and right exchanged, as a set of their own."""

    bootstrap: Count
    mirrored: bool = False


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
    early = recipe.input.steps[: recipe.input.augment_after]
    if len(recipe.input.shape) == 2 and any(step.name not in MOVING for step in early):
        raise RecipeError(
            f"{path}: input.augment_after: images are augmented at 8 bits, before any step but {', '.join(MOVING)}"
        )
    return recipe
