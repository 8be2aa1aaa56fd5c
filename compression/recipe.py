"""A recipe: one TOML file with every number that shapes a model, unknown keys refused."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from appliance.package import TASKS, Accepts, IntendedUse, Promotion
from appliance.preprocess import Step
from appliance.result import Code

Share = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0)]
T = TypeVar("T")
_CLASSES = 2  # labels that need no declaration
# The heart and the liver are on one side: mirrored, another anatomy is shown, and a rare disease of its own.
_WITH_SIDES = ("chest", "heart", "abdomen")
NetworkName = Literal["mobilenet_v2", "resnet18", "resnet50", "densenet121", "efficientnet_b0"]


class RecipeError(Exception):
    """A recipe is wrong; the message names the file and the key."""


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class FindingRecipe(_Table, frozen=True):
    label: str
    words_positive: str
    words_negative: str
    urgent: bool
    code: Code


class PackageRecipe(_Table, frozen=True):
    id: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]*$")]
    version: Annotated[str, Meta(pattern=r"^\d+\.\d+\.\d+$")]
    title: str
    intended_use: IntendedUse
    accepts: Accepts
    finding: FindingRecipe
    finding_site: Code
    promotion: Promotion | None = None


class DataRecipe(_Table, frozen=True):
    """``validation_folds``: one of so many groups of the training patients is for validation, unless the list's column
    ``split`` says itself which patients are. The sets of ``external`` are only evaluated.
    """

    train: str
    positive: str
    validation_folds: Annotated[int, Meta(ge=2)]
    seed: Annotated[int, Meta(ge=0, lt=1 << 31)]
    external: tuple[str, ...] = ()


class InputRecipe(_Table, frozen=True):
    """``mean`` and ``std`` are of images after the stretch, which lie between 0 and 1.

    ``aspect``: an image of other proportions is squashed to the network's, or padded to them.
    """

    rows: Count
    columns: Count
    percentile_low: Annotated[float, Meta(ge=0, lt=100)]
    percentile_high: Annotated[float, Meta(gt=0, le=100)]
    mean: Annotated[float, Meta(ge=0, le=1)]
    std: Annotated[float, Meta(gt=0, le=1)]
    aspect: Literal["squash", "pad"] = "squash"

    def geometry(self) -> tuple[Step, ...]:
        """Of these steps, those that bring an image to the network's size."""
        size = {"rows": self.rows, "columns": self.columns}
        squash = Step("resize", size)
        return (Step("pad_to_aspect", size), squash) if self.aspect == "pad" else (squash,)

    def stretched(self) -> tuple[float, float]:
        """The percentiles that become black and white."""
        return self.percentile_low, self.percentile_high

    def steps(self) -> tuple[Step, ...]:
        """The preprocessing that the package declares and the device runs."""
        return (
            *self.geometry(),
            Step("percentile_stretch", {"low": self.percentile_low, "high": self.percentile_high}),
            Step("normalize", {"mean": self.mean, "std": self.std}),
        )


class TrainRecipe(_Table, frozen=True, kw_only=True):
    """How the network learns, with AdamW.

    What most trainings do well with, and what holds where a key is left out: ``learning_rate`` 1e-4, ``dropout`` 0.2 to
    0.3, ``weight_decay`` 0.01, ``clip`` 1.0, ``patience`` 10 to 15 with ``keep`` "best".

    ``loss``: bce, weighted inversely to how often each class is drawn, or focal with ``focal_gamma``. ``missed_cost``:
    how much worse a missed finding is than a false alarm. ``sampling``: balanced draws both classes equally often, with
    ``sampling_column``, of the manifest, within each class each of its values equally often, a site for instance.
    ``clip``: the largest norm of a gradient, 0: any. ``keep``: the epoch whose weights go on, the best on validation or
    the last. The rest is explained at `compression.loop.Settings`. ``weights``: a file below the folder of the initial
    weights; empty means training from scratch.
    """

    network: NetworkName = "mobilenet_v2"
    weights: str = ""
    epochs: Count
    batch: Count
    learning_rate: Rate = 1e-4
    weight_decay: Annotated[float, Meta(ge=0)] = 0.01
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.25
    average_decay: Share
    threads: Count
    loss: Literal["bce", "focal"] = "bce"
    focal_gamma: Annotated[float, Meta(ge=0)] = 2.0
    missed_cost: Annotated[float, Meta(gt=0)] = 1.0
    sampling: Literal["uniform", "balanced"] = "uniform"
    sampling_column: str | None = None
    schedule: Literal["one_cycle", "cosine", "constant"] = "one_cycle"
    accumulate: Count = 1
    clip: Annotated[float, Meta(ge=0)] = 1.0
    patience: Count = 15
    keep: Literal["best", "last"] = "best"
    checkpoint_every: Count = 5
    spike: Annotated[float, Meta(gt=1)] = 10.0
    amp: Literal["auto", "off"] = "auto"


class AugmentRecipe(_Table, frozen=True):
    name: str
    p: Annotated[float, Meta(ge=0, le=1)]
    parameters: dict[str, Any] = {}


class AllowRecipe(_Table, frozen=True):
    """An exception to the augmentation policy: a transform by its name, and why it is right for these images."""

    transform: str
    reason: Annotated[str, Meta(min_length=10)]


class AugmentPolicyRecipe(_Table, frozen=True):
    """What holds for all of ``[[augment]]``.

    ``may_flip``: for anatomy that looks the same from both sides. ``some_of``: from how many to how many transforms an
    image gets, drawn in proportion to their ``p``; without it each is applied by its own ``p``.
    """

    anatomy: str = "chest"
    may_flip: tuple[Literal["left-right", "head-foot"], ...] = ()
    some_of: tuple[Count, Count] | None = None
    allow: tuple[AllowRecipe, ...] = ()


class PruneRecipe(_Table, frozen=True):
    ratios: tuple[Share, ...]
    most_of_a_layer: Share
    round_to: Count
    epochs: Count
    learning_rate: Rate
    distillation: Annotated[float, Meta(ge=0, le=1)]
    map_distillation: Annotated[float, Meta(ge=0)]


class QuantizeRecipe(_Table, frozen=True):
    targets: Annotated[tuple[Literal["cpu", "openvino", "tensorrt"], ...], Meta(min_length=1)]
    images: Annotated[int, Meta(ge=2)]
    method: Literal["MinMax", "Entropy", "Percentile"]
    aware_epochs: Count
    aware_learning_rate: Rate


class PointRecipe(_Table, frozen=True):
    name: str
    sensitivity: Share


class GateRecipe(_Table, frozen=True):
    """What a network may cost against the unpruned float network, on validation images and copies of them.

    ``flips``: share of decisions at the default operating point. ``p99_probability``: 99th percentile of the
    difference of a calibrated probability. ``map_correlation``: median over images. ``auc_loss``: the loss itself, not
    its interval.
    """

    flips: Share
    p99_probability: Share
    map_correlation: Share
    auc_loss: Share
    calibration_error: Share


class CalibrateRecipe(_Table, frozen=True):
    coverage: Share
    augmented_copies: Count
    default_operating_point: str
    operating_points: tuple[PointRecipe, ...]


class EnsembleRecipe(_Table, frozen=True):
    """The heads whose disagreement is a device's uncertainty.

    ``inverse_regularization``: that of the logistic regressions; smaller is smoother. ``answered``: share of the
    augmented validation images on which they count as agreeing.
    """

    heads: Annotated[int, Meta(ge=2)] = 5
    inverse_regularization: Annotated[float, Meta(gt=0)] = 0.01
    answered: Share = 0.95


class GoldenRecipe(_Table, frozen=True):
    """``count``: half of them positive."""

    count: Annotated[int, Meta(ge=2, multiple_of=2)]
    components: Count
    spread: Annotated[float, Meta(gt=0, le=10)]
    rows: Count
    columns: Count
    probability_tolerance: Share


class EvaluateRecipe(_Table, frozen=True):
    """How the report judges.

    ``site_prevalence``: how often the finding is there at a site, a guess until it has counted; the report
    has a table of others, too. ``subgroup_margin``: by how much a subgroup may be worse than the rest without an alarm.
    """

    bootstrap: Count
    site_prevalence: Share = 0.2
    subgroup_margin: Share = 0.05


class CardRecipe(_Table, frozen=True):
    """What the model card says besides what was measured.

    ``looked_at``: those of ``data.external``, and ``test``, on which somebody saw results while making the model: they
    are not blind.
    """

    test: str
    sources: tuple[str, ...]
    limits: tuple[str, ...]
    external_note: str = ""
    looked_at: tuple[str, ...] = ()


class CheckRecipe(_Table, frozen=True):
    """What ``check-data`` reads, and a build before its first stage: a change here makes no stage learn again, but one.

    ``labels``: all that the list may hold; a list of more than two needs them. ``site``: the column of the
    training set's list that tells the hospital, over which a split is spread, and a subgroup of the report; where a
    build deals validation itself, it learns again with another one. ``readers``: a CSV of image, reader, label in the
    data set's folder.
    """

    labels: tuple[str, ...] = ()
    site: str | None = None
    readers: str | None = None

    def must_declare(self, labels: Collection[str]) -> bool:
        """Whether a misspelled label may be among these: all but the positive one count as negative."""
        return not self.labels and len(labels) > _CLASSES


class Recipe(_Table, frozen=True):
    package: PackageRecipe
    card: CardRecipe
    data: DataRecipe
    input: InputRecipe
    train: TrainRecipe
    augment: tuple[AugmentRecipe, ...]
    prune: PruneRecipe
    quantize: QuantizeRecipe
    calibrate: CalibrateRecipe
    gate: GateRecipe
    golden: GoldenRecipe
    evaluate: EvaluateRecipe
    ensemble: EnsembleRecipe = EnsembleRecipe()
    check: CheckRecipe = CheckRecipe()
    augment_policy: AugmentPolicyRecipe = AugmentPolicyRecipe()
    task: Literal["classification"] = "classification"


def task(path: Path) -> str:
    """What a recipe makes: ``classification``, where it doesn't say, or ``segmentation``; raises `RecipeError`."""
    try:
        found = msgspec.toml.decode(path.read_text()).get("task", "classification")
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} can't be read: {error}") from error
    if found not in TASKS:
        raise RecipeError(f"{path}: task {found!r} is none of {', '.join(TASKS)}")
    return str(found)


def decode(path: Path, kind: type[T]) -> T:
    """A recipe's file as one kind of recipe; raises `RecipeError` with the line."""
    try:
        text = path.read_text()
        return msgspec.toml.decode(text, type=kind)
    except OSError as error:
        raise RecipeError(f"{path} can't be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}{_line(text, str(error))}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # of a TOML error, the line stands in its text
        raise RecipeError(f"{path}: {error}") from error


def read(path: Path) -> Recipe:
    """Read the recipe of a classification; raises `RecipeError`."""
    if task(path) == "segmentation":
        raise RecipeError(
            f"{path} is the recipe of a segmentation, and this is for classifications only; for both are check-data, "
            "contact-sheet, build and add-reference"
        )
    recipe = decode(path, Recipe)
    if recipe.input.percentile_low >= recipe.input.percentile_high:
        raise RecipeError(
            f"{path}: input.percentile_low {recipe.input.percentile_low:g} is not below input.percentile_high "
            f"{recipe.input.percentile_high:g}, so that every image would be flat; swap or mend them"
        )
    ages = recipe.package.intended_use.age_years
    if ages is not None and not 0 <= ages[0] < ages[1]:
        raise RecipeError(f"{path}: package.intended_use.age_years must be from a lower to a higher age, not {ages}")
    names = [point.name for point in recipe.calibrate.operating_points]
    for key, values in (("calibrate.operating_points", names), ("quantize.targets", recipe.quantize.targets)):
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise RecipeError(f"{path}: {key} has {', '.join(twice)} more than once; keep one of each")
    if recipe.calibrate.default_operating_point not in names:
        raise RecipeError(f"{path}: calibrate.default_operating_point is none of {', '.join(names)}")
    if recipe.train.sampling_column and recipe.train.sampling == "uniform":
        raise RecipeError(f'{path}: train.sampling_column needs train.sampling = "balanced"')
    if recipe.check.labels and recipe.data.positive not in recipe.check.labels:
        raise RecipeError(f"{path}: data.positive {recipe.data.positive!r} is not among check.labels")
    check_looked_at(path, recipe.card, recipe.data.external)
    check_flips(path, recipe.augment_policy)
    return recipe


def check_looked_at(path: Path, card: CardRecipe, external: Collection[str]) -> None:
    """Raise `RecipeError` where a recipe of any task names a set that it does not measure on."""
    for name in card.looked_at:
        if name not in ("test", *external):
            raise RecipeError(f"{path}: card.looked_at: {name!r} is neither test nor in data.external; mend the name")


def check_flips(path: Path, policy: AugmentPolicyRecipe) -> None:
    """Raise `RecipeError` where a recipe of any task says that anatomy with sides may be flipped."""
    if policy.may_flip and policy.anatomy in _WITH_SIDES:
        raise RecipeError(
            f"{path}: augment_policy.may_flip: a {policy.anatomy} has sides; where a flip is right "
            "nonetheless, augment_policy.allow names it with a reason"
        )


def _line(text: str, fault: str) -> str:
    """Where a validation error points (``$.table.key`` or an unknown field): ", line N", or nothing if not found."""
    place = re.search(r"`\$\.?([^`]*)`", fault)
    names = [re.sub(r"\[.*?\]", "", name) for name in place.group(1).split(".") if name] if place else []
    unknown = re.search(r"unknown field `([^`]+)`", fault)
    if unknown:
        names.append(unknown.group(1))
    if not names:
        return ""
    *tables, key = names
    table = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if header := re.match(r"\s*\[+([\w.]+)\]+", line):
            table = header.group(1)
            if table == ".".join(names):
                return f", line {number}"
        elif table == ".".join(tables) and re.match(rf"\s*{re.escape(key)}\s*=", line):
            return f", line {number}"
    return ""
