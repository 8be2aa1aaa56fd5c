"""A recipe: one TOML file with every number that shapes a model, unknown keys refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from appliance.package import Accepts, IntendedUse
from appliance.preprocess import Step
from appliance.result import Code

Share = Annotated[float, Meta(gt=0, lt=1)]
Count = Annotated[int, Meta(ge=1)]


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


class DataRecipe(_Table, frozen=True):
    train: str
    positive: str
    validation_folds: Annotated[int, Meta(ge=2)]
    seed: int
    external: str | None = None


class InputRecipe(_Table, frozen=True):
    rows: Count
    columns: Count
    percentile_low: float
    percentile_high: float
    mean: float
    std: float

    def steps(self) -> tuple[Step, ...]:
        """The preprocessing that the package declares and the device runs."""
        return (
            Step("resize", {"rows": self.rows, "columns": self.columns}),
            Step("percentile_stretch", {"low": self.percentile_low, "high": self.percentile_high}),
            Step("normalize", {"mean": self.mean, "std": self.std}),
        )


class TrainRecipe(_Table, frozen=True):
    weights: str
    epochs: Count
    batch: Count
    learning_rate: float
    weight_decay: float
    dropout: float
    average_decay: Share
    threads: Count


class AugmentRecipe(_Table, frozen=True):
    name: str
    p: Annotated[float, Meta(ge=0, le=1)]
    parameters: dict[str, Any] = {}


class PruneRecipe(_Table, frozen=True):
    ratios: tuple[Share, ...]
    most_of_a_layer: Share
    round_to: Count
    epochs: Count
    learning_rate: float
    distillation: Annotated[float, Meta(ge=0, le=1)]
    map_distillation: Annotated[float, Meta(ge=0)]


class QuantizeRecipe(_Table, frozen=True):
    targets: tuple[Literal["cpu", "openvino", "tensorrt"], ...]
    images: Count
    method: Literal["MinMax", "Entropy", "Percentile"]
    aware_epochs: Count
    aware_learning_rate: float


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


class GoldenRecipe(_Table, frozen=True):
    count: Count
    components: Count
    spread: float
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
    """What the model card says besides what was measured."""

    test: str
    sources: tuple[str, ...]
    limits: tuple[str, ...]
    external_note: str = ""


class CheckRecipe(_Table, frozen=True):
    """What only ``check-data`` reads: a change here makes no stage run again.

    ``labels``: all that the list may hold. ``site``: its column that tells the hospital or scanner. ``readers``: a CSV
    of image, reader, label in the data set's folder.
    """

    labels: tuple[str, ...] = ()
    site: str | None = None
    readers: str | None = None


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
    check: CheckRecipe = CheckRecipe()


def read(path: Path) -> Recipe:
    """Read a recipe; raises `RecipeError`."""
    try:
        text = path.read_text()
        recipe = msgspec.toml.decode(text, type=Recipe)
    except OSError as error:
        raise RecipeError(f"{path} can't be read: {error.strerror}") from error
    except msgspec.ValidationError as error:
        raise RecipeError(f"{path}{_line(text, str(error))}: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # of a TOML error, the line stands in its text
        raise RecipeError(f"{path}: {error}") from error
    names = [point.name for point in recipe.calibrate.operating_points]
    if recipe.calibrate.default_operating_point not in names:
        raise RecipeError(f"{path}: calibrate.default_operating_point is none of {', '.join(names)}")
    if recipe.check.labels and recipe.data.positive not in recipe.check.labels:
        raise RecipeError(f"{path}: data.positive {recipe.data.positive!r} is not among check.labels")
    return recipe


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
