"""What is usual for a package: its drift reference, from the validation patients, by the device's own path.

One image a patient, since images of one patient are alike and a device counts a study once. None of it is an image:
counts of values in coarse bins, and the mean and principal axes of the training images' embeddings.

Which images these are is for `compression.build` and `compression.segmentation.reference` to say.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from pydicom import Dataset

from appliance import interpret
from appliance.drift.measure import Space
from appliance.drift.measure import values as measured
from appliance.drift.reference import gather
from appliance.drift.streams import STREAMS, VERSION, Value
from appliance.image import Image
from appliance.package import DriftSpec, Manifest, Package
from appliance.preprocess import preprocess
from appliance.volume import Volume
from compression import data
from compression.arrays import npz
from compression.inference import INPUT, RUNTIMES, open_network
from compression.recipe import RecipeError

if TYPE_CHECKING:
    from compression.build import Build

FILE = "drift.npz"
_AXES = 32  # of the embeddings' principal component analysis
_GROUPS = ("image", "embedding", "output")  # headers of data sets say nothing of a site
# What shrinking the images of a data set and storing them in 8 bits decides, so that every scanner would differ.
_OF_THE_FILES = ("levels", "aspect", "sharpness", "noise", "clipped_dark", "clipped_bright")
VALIDATION = "validation patients"
Sources = Callable[[], Iterable[Image | Volume]]


@dataclass(frozen=True)
class Answered:
    """What a target says of one image or volume."""

    source: Image | Volume
    outputs: dict[str, np.ndarray]


def data_digest(build: Build) -> str:
    """SHA-256 that tells a package's training set."""
    return hashlib.sha256(data.version(build).encode()).hexdigest()


def check_same(build: Build, before: Package) -> None:
    """Raise `RecipeError` where a package was made of other data, or of patients that are dealt otherwise today."""
    made, folder = before.manifest.training, build.data_root / build.recipe.data.train
    if made.get("data_manifest_sha256") != data_digest(build):
        raise RecipeError(f"{before} was made of other data than {folder}")
    dealt = {split: len(data.load(build, split)) for split in data.SPLITS}
    if (made.get("images"), made.get("validation_dealt_by")) != (dealt, data.dealt_by(build)):
        raise RecipeError(
            f"{before} was made of {made.get('images')}, and here the images of {folder} are dealt to {dealt} "
            f"(by site: {data.dealt_by(build) or 'no'}): its reference would be of images that it learned from"
        )


def plain(pixels: np.ndarray) -> Image:
    """An image of which nothing else is known."""
    return Image(pixels, Dataset(), None)


def ask(opened: Package, target: str, sources: Iterable[Image | Volume]) -> Iterator[Answered]:
    """Each through the device's preprocessing and a target's network."""
    network = open_network(opened.artifact(target), target)
    for source in sources:
        tensor = preprocess(source.pixels, opened.manifest.input.steps, source.spacing)
        outputs = network.run({INPUT: tensor})
        yield Answered(source, {name: value[0] for name, value in outputs.items()})


def space(embeddings: np.ndarray) -> Space:
    """Of the training images' embeddings ``(images, features)``."""
    mean = embeddings.mean(axis=0)
    offsets = embeddings - mean
    _, scales, axes = np.linalg.svd(offsets, full_matrices=False)
    kept = min(_AXES, int((scales > 1e-6 * scales[0]).sum()))
    deviations = scales[:kept] / np.sqrt(len(embeddings))
    inside = offsets @ axes[:kept].T
    rest = np.sqrt(np.maximum((offsets**2).sum(axis=1) - (inside**2).sum(axis=1), 0).mean())
    return Space(
        mean.astype(np.float32), (axes[:kept] / deviations[:, None]).astype(np.float32), max(float(rest), 1e-6)
    )


def values(opened: Package, target: str, answered: Answered, where: Space | None) -> dict[str, Value]:
    """One study's value in each stream, as the device takes them."""
    source = answered.source
    if opened.segments:
        said = interpret.segments(opened, answered.outputs, source)
    else:
        said = interpret.findings(opened, target, answered.outputs, None, source.pixels.shape)
    return measured(source.pixels, Dataset(), None, said, where)


def make(
    opened: Package,
    training: Sources,
    validation: Sources,
    targets: Sequence[str] = tuple(RUNTIMES),
) -> tuple[dict[str, np.ndarray], int]:
    """A package's reference for each of its targets, and of how many studies it is."""
    arrays: dict[str, np.ndarray] = {}
    studies = 0
    names = [stream.name for stream in STREAMS if stream.group in _GROUPS and stream.name not in _OF_THE_FILES]
    for target in (name for name in targets if name in opened.manifest.targets):
        embedding = opened.manifest.outputs.embedding
        where = space(np.stack([each.outputs[embedding] for each in ask(opened, target, training())]))
        taken = [values(opened, target, each, where) for each in ask(opened, target, validation())]
        usual = [name for name in names if any(each.get(name) is not None for each in taken)]
        studies = len(taken)
        arrays.update(gather(taken, usual).arrays(target))
        arrays[f"{target}/mean"], arrays[f"{target}/axes"] = where.mean, where.axes
        arrays[f"{target}/rest"] = np.array(where.rest, np.float32)
    return arrays, studies


def spec(opened: Package, studies: int, who: str = VALIDATION) -> DriftSpec:
    return DriftSpec(FILE, VERSION, studies, f"{who}: {opened.manifest.intended_use.population}")


def added(
    opened: Package,
    files: dict[str, bytes],
    arrays: dict[str, np.ndarray],
    studies: int,
    who: str = VALIDATION,
) -> Package:
    """The package with its reference, in memory; ``who`` the studies are of."""
    manifest = msgspec.structs.replace(opened.manifest, drift=spec(opened, studies, who))
    return Package(opened.path, opened.sha256, manifest, {**files, FILE: npz(arrays)}, opened.signed_by)


def validation_images(build: Build) -> Iterator[Image]:
    """The first image of each validation patient, as it lies in the data set."""
    folder = build.data_root / build.recipe.data.train
    patients = set(data.load(build, "validation").patients.tolist())
    for row in data.training_rows(folder):
        if row["patient_id"] in patients:
            patients.remove(row["patient_id"])
            yield plain(data.decode(folder / row["file"]))


def training_images(build: Build) -> Iterator[Image]:
    yield from map(plain, data.load(build, "train").pixels)


def check_becomes(before: Package, identifier: str, version: str) -> None:
    """Raise `RecipeError` where a package of this id and version can't be made of another one."""
    old = before.manifest
    if old.id != identifier or old.version == version:
        raise RecipeError(f"{before} can't become {identifier} {version}: the same id and another version are needed")


def later_version(
    identifier: str, version: str, before: Package, training: Sources, validation: Sources, who: str = VALIDATION
) -> tuple[Manifest, dict[str, bytes], str]:
    """A package that was built before under the recipe's id and version, with a reference: manifest, files and card.

    Networks, calibration and golden vectors stay the very bytes that they were.

    Raises
    ------
    RecipeError
        As `check_becomes`.
    """
    old = before.manifest
    check_becomes(before, identifier, version)
    files = {name: before.file(name) for name in old.files if name != FILE}
    arrays, studies = make(before, training, validation)
    card = before.card.replace(f"`{old.id}` {old.version}", f"`{old.id}` {version}")
    opened = added(before, {**files, old.card: card.encode()}, arrays, studies, who)
    origin = {"version": old.version, "package_sha256": before.sha256}
    manifest = msgspec.structs.replace(
        opened.manifest, version=version, training={**old.training, "reference_added_to": origin}
    )
    contents = {name: opened.file(name) for name in (*files, FILE)}
    return manifest, contents, card
