"""Stage ``data``: images with their masks, dealt to folds by patient, brought to the network's grid."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from nibabel.affines import voxel_sizes
from sklearn.model_selection import StratifiedGroupKFold

from appliance.preprocess import MOVING, Step, preprocess
from compression import cache, levels, masks, sources, tables
from compression.content import content_version
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.segmentation.build import Build
    from compression.segmentation.recipe import DataRecipe, InputRecipe

SECTIONS = ("data", "input")
SPLIT_NOT_USED = "the list's split is not used: folds are dealt by patient"
_MADE_BY = (
    Path(__file__),
    *(Path(str(each.__file__)) for each in (levels, masks, sources)),
    Path(inspect.getfile(preprocess)),
)


class Case(msgspec.Struct, frozen=True):
    """One image or volume and its mask.

    ``file`` and ``mask`` are below the data set's folder; ``fold`` is -1 in an
    external set; ``group`` is the value of the column that is spread evenly.
    """

    file: str
    mask: str
    patient: str
    fold: int
    group: str


@dataclass(frozen=True)
class Source:
    """A case as it was read.

    Attributes
    ----------
    pixels
        ``(rows, columns)`` or ``(slices, rows, columns)``.
    labels
        uint8 of the same shape: 0 is background, then the segments of the recipe in their order.
    spacing
        Millimeters along each axis; of an image without one, 1.
    """

    pixels: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, ...]


@dataclass(frozen=True)
class Prepared:
    """Cases on the network's grid, before augmentation.

    Attributes
    ----------
    pixels
        float32 ``(cases, ...)``: of images as `compression.levels` has them, of volumes as the steps leave them.
    labels
        uint8 ``(cases, ...)``.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: np.ndarray) -> Prepared:
        return Prepared(self.pixels[chosen], self.labels[chosen])


def fingerprint(build: Build) -> bytes:
    """Of the files, and of what labels 1, 2... of a mask are; not of the segments' colors and codes."""
    segments = [segment.label for segment in build.recipe.package.segments]
    return content_version(build.data_root / build.recipe.data.train).encode() + msgspec.json.encode(segments)


def list_digest(build: Build) -> str:
    """SHA-256 of what the list says of each case: the same cases are dealt alike."""
    digest = hashlib.sha256()
    for case in of_training(build.recipe.data, build.data_root):
        digest.update(f"{case.file}\0{case.mask}\0{case.patient}\0{case.group}\n".encode())
    return hashlib.sha256(digest.digest()).hexdigest()  # twice, as in packages that are out


def run(build: Build) -> str:
    recipe = build.recipe
    cases = dealt(of_training(recipe.data, build.data_root), recipe.data.folds, recipe.data.seed)
    prepared = _prepared(build, cases)
    np.savez(build.folder("data") / "prepared.npz", pixels=prepared["pixels"], labels=prepared["labels"])
    (build.folder("data") / "cases.json").write_bytes(msgspec.json.encode(cases))
    patients = {case.patient for case in cases}
    said = f"{len(cases)} cases of {len(patients)} patients in {recipe.data.folds} folds"
    return f"{said}; {SPLIT_NOT_USED}" if has_split(build.data_root / recipe.data.train) else said


def _prepared(build: Build, cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """Pixels and labels of all cases, from the cache where it has them."""
    recipe, folder = build.recipe, build.data_root / build.recipe.data.train
    segments = [segment.label for segment in recipe.package.segments]

    def make(number: int) -> dict[str, np.ndarray]:
        pixels, labels = prepare(read(folder, cases[number], segments), recipe.input)
        if pixels.shape != recipe.input.shape:
            named = cases[number].file
            raise RecipeError(f"input.steps make {pixels.shape} of {named}, not input.shape {recipe.input.shape}")
        return {"pixels": pixels, "labels": labels}

    path = build.work / "cache" / f"{folder.name}-{'x'.join(str(each) for each in recipe.input.shape)}.h5"
    made_by = [*recipe.input.early(), Step("masks", {"segments": segments})]
    if len(recipe.input.shape) == 2:
        made_by.append(Step("levels", {"stretched": recipe.input.stretched()}))
    wanted = cache.key(folder, made_by, _MADE_BY)
    return cache.load(path, wanted, len(cases), make)


def load(build: Build) -> tuple[list[Case], Prepared]:
    """Every case, and what was prepared of it."""
    cases = msgspec.json.decode((build.folder("data") / "cases.json").read_bytes(), type=list[Case])
    with np.load(build.folder("data") / "prepared.npz") as arrays:
        return cases, Prepared(arrays["pixels"], arrays["labels"])


def split(build: Build, cases: Sequence[Case], fold: int) -> dict[str, np.ndarray]:
    """Where ``fold`` is for the test: the indices of the cases for train, validation and test; patients apart."""
    recipe = build.recipe.data
    folds = np.array([case.fold for case in cases])
    rest = [number for number in range(recipe.folds) if number != fold]
    # Some patients of every other fold validate.
    chance = np.random.default_rng(recipe.seed + fold)
    validating: set[str] = set()
    for number in rest:
        patients = sorted({case.patient for case in cases if case.fold == number})
        count = max(round(len(patients) * recipe.validation_share), 1)
        validating |= set(chance.permutation(patients)[:count].tolist())
    validates = np.array([case.patient in validating for case in cases])
    return {
        "train": np.flatnonzero((folds != fold) & ~validates),
        "validation": np.flatnonzero((folds != fold) & validates),
        "test": np.flatnonzero(folds == fold),
    }


def of_training(recipe: DataRecipe, data_root: Path) -> list[Case]:
    """The cases of a recipe's training set, not yet dealt; raises `RecipeError`, for unknown patients, too."""
    found = listed(data_root / recipe.train, recipe.even)
    joined = {patient: group[0] for group in recipe.same_patient for patient in group}
    if unknown := sorted(joined.keys() - {case.patient for case in found}):
        names = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
        raise RecipeError(f"data.same_patient: {recipe.train} has no patient {names}; is this another data set?")
    return [msgspec.structs.replace(case, patient=joined.get(case.patient, case.patient)) for case in found]


def listed(folder: Path, even: str | None = None) -> list[Case]:
    """The cases of a data set without exact duplicates, not yet dealt; raises `RecipeError` where it has none."""
    manifest = folder / "manifest.csv"
    if manifest.is_file():
        read = tables.read(manifest, ("file", "mask", "patient_id", *([even] if even else [])))
        if not (rows := [row for row in read if not tables.left_out(row)]):
            raise RecipeError(f"{manifest}: exact_duplicate_of leaves out every case; name the first of each in it")
        return [Case(row["file"], row["mask"], row["patient_id"], -1, row[even] if even else "") for row in rows]
    images = sorted((folder / "images").glob("*.nii*"))
    if not images:
        raise RecipeError(f"{folder} has neither manifest.csv nor images/*.nii.gz; is --data right?")
    return [Case(f"images/{path.name}", f"labels/{path.name}", path.name.split(".")[0], -1, "") for path in images]


def has_split(folder: Path) -> bool:
    """Whether a data set's list has a split, of which `dealt` takes no notice."""
    manifest = folder / "manifest.csv"
    return manifest.is_file() and any(row.get("split") for row in tables.read(manifest, ("file",)))


def dealt(cases: Sequence[Case], folds: int, seed: int) -> list[Case]:
    """Each case with its fold: no patient in two, groups spread evenly; raises `RecipeError` where that can't be."""
    groups, patients = [case.group for case in cases], [case.patient for case in cases]
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    given = np.full(len(cases), -1)
    try:
        for number, (_, test) in enumerate(splitter.split(patients, groups, patients)):
            given[test] = number
    except ValueError as error:
        raise RecipeError(_undealt(cases, folds, str(error))) from error
    if empty := set(range(folds)) - set(given.tolist()):
        raise RecipeError(_undealt(cases, folds, f"{len(empty)} would be empty"))
    return [msgspec.structs.replace(case, fold=int(fold)) for case, fold in zip(cases, given, strict=True)]


def _undealt(cases: Sequence[Case], folds: int, why: str) -> str:
    patients = len({case.patient for case in cases})
    return f"data.folds: {patients} patients can't be dealt to {folds} folds ({why}); bring more, or lower data.folds"


def read(folder: Path, case: Case, segments: Sequence[str]) -> Source:
    """Decode one case; ``segments`` are the names of labels 1, 2...

    A volume is turned as DICOM lays an axial series out: slices to the head, rows to the back, columns to the left.

    Raises
    ------
    RecipeError
        A file can't be read, the mask has another size or lies elsewhere, or a label that is none of the segments.
    """
    source = decode(folder, case)
    return laid_out(source, masks.read(folder / case.mask, source, segments))


def laid_out(source: sources.Source, labels: np.ndarray) -> Source:
    """An image and its labels as they lie in their files, turned as `read` says."""
    if source.affine is None:
        return Source(source.pixels, labels, (1.0, 1.0))
    pixels, affine = sources.to_ras(source.pixels, source.affine)
    labels, _ = sources.to_ras(labels, source.affine)
    columns, rows, slices = (float(value) for value in voxel_sizes(affine))
    return Source(_axial(pixels), _axial(labels), (slices, rows, columns))


def decode(folder: Path, case: Case) -> sources.Source:
    """A case's image as it lies in its file; raises `RecipeError` where it can't be read."""
    path = folder / case.file
    if not (sources.is_nifti(path) or path.suffix.lower() in sources.PICTURES):  # import looks whether DICOM identifies
        raise RecipeError(f"{path} is neither a picture nor NIfTI; bring it in first: python -m compression import")
    return sources.read([path])


def _axial(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array[::-1, ::-1].transpose(2, 1, 0))


def prepare(source: Source, recipe: InputRecipe) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and labels of a case after the steps before augmentation, as `Prepared` has them."""
    steps = recipe.early()
    if source.pixels.ndim == 2:
        pixels = levels.spread(source.pixels, steps, recipe.stretched())
    else:
        pixels = preprocess(source.pixels, steps, source.spacing)[0, 0]
    return pixels, moved(source.labels, steps, source.spacing)


def moved(labels: np.ndarray, steps: Sequence[Step], spacing: tuple[float, ...]) -> np.ndarray:
    """Labels as the steps move the pixels below them: uint8, each voxel with the label that covers most of it."""
    moving = [step for step in steps if step.name in MOVING]
    shares = [preprocess(labels == number, moving, spacing)[0, 0] for number in range(int(labels.max(initial=0)) + 1)]
    return np.asarray(np.argmax(shares, axis=0)).astype(np.uint8)
