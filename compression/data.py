"""Stage ``data``: from image files and a manifest to one array, split by patient."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from PIL import Image as PillowImage
from sklearn.model_selection import StratifiedGroupKFold
from tqdm import tqdm

from appliance.preprocess import Step, preprocess
from compression import cache, columns, duplicates, levels, sources, splits, tables
from compression.content import content_version
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.build import Build
    from compression.recipe import InputRecipe

SECTIONS = ("data", "input")
SPLITS = splits.NAMES
_NAMED = 3
_MADE_BY = (
    Path(__file__),
    *(Path(str(each.__file__)) for each in (sources, duplicates, levels)),
    Path(inspect.getfile(preprocess)),
)


class ConstantImageError(RecipeError):
    """Every pixel of a listed image has the same value, so that it shows nothing."""


@dataclass(frozen=True)
class Images:
    """Images of one split.

    Attributes
    ----------
    pixels
        ``(count, rows, columns)``: float32, as `compression.levels` has them; uint8 of augmented copies.
    labels
        bool ``(count,)``: positive or not.
    patients
        str ``(count,)``: identifiers, unique over all splits.
    """

    pixels: np.ndarray
    labels: np.ndarray
    patients: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, chosen: np.ndarray) -> Images:
        return Images(self.pixels[chosen], self.labels[chosen], self.patients[chosen])


@dataclass(frozen=True)
class Undecoded:
    """As `Images`, of any sizes, each decoded when it is its turn."""

    paths: Sequence[Path]
    labels: np.ndarray
    patients: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixels(self) -> Iterator[np.ndarray]:
        return (decode_listed(path) for path in self.paths)


class Picture(msgspec.Struct, frozen=True):
    """A listed image, by what it shows.

    ``split``: what the list says; of an external set, the set's name. ``digest``: as `compression.duplicates.digest`.
    """

    data_set: str
    file: str
    label: str
    split: str
    digest: str


def fingerprint(build: Build) -> bytes:
    """The training set's list and files, and by which column of sites its validation is dealt, if it is."""
    return (version(build) + (dealt_by(build) or "")).encode()


def version(build: Build) -> str:
    """Of the training set's list and files."""
    return content_version(build.data_root / build.recipe.data.train)


def run(build: Build) -> str:
    recipe = build.recipe
    folder = build.data_root / recipe.data.train
    rows = distinct_rows(folder)
    pixels, pictures = _read(build, folder, rows)
    _check_pictures(build, pictures)
    labels = np.array([row["label"] == recipe.data.positive for row in rows])
    patients = np.array([row["patient_id"] for row in rows])
    split = np.array([row["split"] for row in rows], dtype=object)
    dealt = _is_dealt(rows)
    if dealt:
        site = dealt_by(build)
        sites = np.array([row[site] for row in rows]) if site else None
        folds, seed = recipe.data.validation_folds, recipe.data.seed
        split[deal_validation(split, labels, patients, sites, folds, seed)] = "validation"
    return save(build, split, Images(pixels, labels, patients), recipe.data.validation_folds if dealt else None)


def save(build: Build, split: np.ndarray, images: Images, folds: int | None) -> str:
    """Write the images of each split, as `load` reads them; how many there are, in words.

    Parameters
    ----------
    split
        One of `SPLITS` for each image, ``(count,)``.
    folds
        Those that validation was dealt from, if it was.

    Raises
    ------
    RecipeError
        A split is empty, a patient is in two, or one to learn from has a single class.
    """
    _check_disjoint(split, images.patients)
    _check_classes(split, images.labels, folds)
    counts = []
    for name in SPLITS:
        part = images.where(split == name)
        np.savez(build.folder("data") / f"{name}.npz", pixels=part.pixels, labels=part.labels, patients=part.patients)
        counts.append(f"{name} {len(part)} ({part.labels.sum()} positive)")
    return ", ".join(counts)


def load(build: Build, split: str) -> Images:
    with np.load(build.folder("data") / f"{split}.npz") as arrays:
        return Images(arrays["pixels"], arrays["labels"], arrays["patients"])


def column(build: Build, split: str, name: str) -> np.ndarray:
    """What the manifest's column says of each image of a split, ``(count,)``; of its patient, if that has several."""
    folder = build.data_root / build.recipe.data.train
    values: dict[str, set[str]] = {}
    for row in read_manifest(folder):
        if name not in row:
            raise RecipeError(f"{_manifest(folder)} has no column {name}, which train.sampling_column names")
        values.setdefault(row["patient_id"], set()).add(row[name])
    return np.array([" and ".join(sorted(values[patient])) for patient in load(build, split).patients])


def read_manifest(folder: Path) -> list[dict[str, str]]:
    """Rows of ``manifest.csv``: at least file, label, patient_id."""
    path = _manifest(folder)
    if not path.is_file():
        raise RecipeError(f"the data set's list {path} is not there; is --data right?")
    return tables.read(path, ("file", "label", "patient_id"))


def training_rows(folder: Path) -> list[dict[str, str]]:
    """The list's rows of the training side, validation among them, without exact duplicates."""
    rows = [row for row in distinct_rows(folder) if row.get("split") in ("train", "validation")]
    if not rows:
        raise RecipeError(f"{_manifest(folder)} has no row with the split train")
    return rows


def distinct_rows(folder: Path) -> list[dict[str, str]]:
    """The list's rows without exact duplicates."""
    return [row for row in read_manifest(folder) if not tables.left_out(row)]


def _manifest(folder: Path) -> Path:
    return folder / "manifest.csv"


def decode(path: Path) -> np.ndarray:
    """An image file as ``(rows, columns)``: uint8, or the stored levels where they have more than 8 bits."""
    try:
        with PillowImage.open(path) as image:
            return sources.gray(image)
    except sources.UNREADABLE as error:
        raise RecipeError(f"{path} can't be decoded: {error}") from error


def decode_listed(path: Path) -> np.ndarray:
    """As `decode`, of an image that a list names; raises `ConstantImageError` where it shows nothing."""
    pixels = decode(path)
    if pixels.min() == pixels.max():
        raise ConstantImageError(f"{path}: every pixel is {pixels.min()}; mend it or take its row out of the list")
    return pixels


def decode_to(path: Path, recipe: InputRecipe) -> np.ndarray:
    """A listed image at the network's size, float32 ``(rows, columns)``, as the stages keep it."""
    return levels.spread(decode_listed(path), recipe.geometry(), recipe.stretched())


def _read(build: Build, folder: Path, rows: Sequence[dict[str, str]]) -> tuple[np.ndarray, list[Picture]]:
    """All images at the network's size, float32 ``(count, rows, columns)``, and what they show, as it was decoded.

    Both come from the cache where it has them.
    """
    recipe, paths = build.recipe.input, [folder / row["file"] for row in rows]

    def make(number: int) -> dict[str, np.ndarray]:
        pixels = decode_listed(paths[number])
        digest = np.frombuffer(bytes.fromhex(duplicates.digest(pixels)), dtype=np.uint8)
        return {"pixels": levels.spread(pixels, recipe.geometry(), recipe.stretched()), "digest": digest}

    arrays = cache.load(
        build.work / "cache" / f"{folder.name}-{recipe.rows}x{recipe.columns}.h5",
        cache.key(folder, [*recipe.geometry(), Step("levels", {"stretched": recipe.stretched()})], _MADE_BY),
        len(paths),
        make,
    )
    return arrays["pixels"], [
        Picture(build.recipe.data.train, row["file"], row["label"], row["split"], digest.tobytes().hex())
        for row, digest in zip(rows, arrays["digest"], strict=True)
    ]


def check_external(build: Build) -> None:
    """Compare the external sets, as they are now, with the training set's pictures.

    Raises
    ------
    RecipeError
        A picture is in both, or has two labels.
    """
    if build.recipe.data.external:
        folder = build.data_root / build.recipe.data.train
        _check_pictures(build, _read(build, folder, distinct_rows(folder))[1])


def _check_pictures(build: Build, known: Sequence[Picture]) -> None:
    """No picture is in two splits, of which each external set is one, or has two labels.

    External sets are read for it, so that what is wrong with one is known before hours of training. That they are there
    a build has made sure of before; what measures nothing, such as add-reference, does without.
    """
    pictures = list(known)
    for name in build.recipe.data.external:
        if not (folder := build.data_root / name).is_dir():
            continue
        for row in tqdm(distinct_rows(folder), desc=f"reading {name}", unit="image"):
            digest = duplicates.digest(decode_listed(folder / row["file"]))
            pictures.append(Picture(name, row["file"], row["label"], name, digest))
    for wrong in duplicates.contradictions(
        [each.digest for each in pictures], [each.split for each in pictures], [each.label for each in pictures]
    ):
        named = [
            " = ".join(f"{each.data_set}/{each.file} ({each.split}, {each.label})"
                       for each in (pictures[index] for index in group))
            for group in wrong.groups[:_NAMED]
        ]  # fmt: skip
        raise RecipeError(
            f"{wrong.what} ({len(wrong.groups)}): {'; '.join(named)}; {wrong.hint}. check-data lists them"
        )


def _is_dealt(rows: Sequence[dict[str, str]]) -> bool:
    """Whether validation is dealt out of train, since the list does not say which patients are for it."""
    return "validation" not in splits.expected(np.array([row.get("split", "") for row in rows]))


def dealt_by(build: Build) -> str | None:
    """The column of sites over which validation is spread evenly where it is dealt; None where the list has none."""
    rows = distinct_rows(build.data_root / build.recipe.data.train)
    return columns.site(rows[0], build.recipe.check.site) if _is_dealt(rows) else None


def deal_validation(
    split: np.ndarray, labels: np.ndarray, patients: np.ndarray, sites: np.ndarray | None, folds: int, seed: int
) -> np.ndarray:
    """Indices of one fold of the training patients, labels in proportion, and sites where they are known."""
    training = np.flatnonzero(split == "train")
    dealt_by = splits.strata(labels[training], patients[training], None if sites is None else sites[training], folds)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    try:
        _, validation = next(splitter.split(training, dealt_by, patients[training]))
    except ValueError as error:
        raise RecipeError(
            f"{len(set(patients[training]))} patients of the training side can't be dealt to {folds} folds ({error}); "
            "bring more, or lower data.validation_folds"
        ) from error
    return training[validation]


def _check_classes(split: np.ndarray, labels: np.ndarray, folds: int | None) -> None:
    """What learns and what it is judged by hold both classes; ``folds``: those that validation was dealt from."""
    otherwise = f", or lower data.validation_folds from {folds}" if folds else ""
    for name in ("train", "validation"):
        found = labels[split == name]
        if found.all() or not found.any():
            raise RecipeError(
                f"all {len(found)} images of {name} are {'positive' if found.all() else 'negative'}, of which nothing "
                f"can be learned; bring more patients of the other class{otherwise}"
            )


def _check_disjoint(split: np.ndarray, patients: np.ndarray) -> None:
    sets = {name: set(patients[split == name]) for name in SPLITS}
    for one in SPLITS:
        if not sets[one]:
            raise RecipeError(f"the split {one} has no images")
        for other in SPLITS:
            if one < other and sets[one] & sets[other]:
                raise RecipeError(f"patients {sorted(sets[one] & sets[other])[:5]} are in {one} and in {other}")
