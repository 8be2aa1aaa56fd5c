"""Streams of real images, taken once by the device's own path, for `tests.benchmarks.drift` to draw from.

Pools: ``children`` (validation patients of chest-kermany, one image a patient), ``adults`` (chest-nih, with ages), and
``children`` through other X-ray machines, of which a change makes one each. They are kept below .build/.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageFilter

from appliance import package
from appliance.drift.measure import Space
from appliance.drift.streams import INDEX, STREAMS, Categories, Value
from compression import data, reference

KEPT = Path(".build/drift-pools.json")
TARGET = "cpu"


def _gamma(power: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: (255 * (pixels / 255) ** power).round().astype(np.uint8)


def _noise(pixels: np.ndarray) -> np.ndarray:
    chance = np.random.default_rng(int(pixels.sum()))
    return np.clip(pixels + chance.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)


def _filtered(what: ImageFilter.Filter) -> Callable[[np.ndarray], np.ndarray]:
    return lambda pixels: np.asarray(PillowImage.fromarray(pixels).filter(what))


def _window(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels, (8, 92))
    return (255 * np.clip((pixels - low) / max(high - low, 1), 0, 1)).astype(np.uint8)


def _lateral(pixels: np.ndarray) -> np.ndarray:
    """No set has lateral views: one half of the chest, as wide as the whole, stands in for them."""
    half = PillowImage.fromarray(pixels[:, : pixels.shape[1] // 2])
    return np.asarray(half.resize(pixels.shape[::-1], PillowImage.Resampling.BILINEAR))


def _collimated(pixels: np.ndarray) -> np.ndarray:
    rows, columns = (size // 8 for size in pixels.shape)
    inner = np.zeros_like(pixels)
    inner[rows:-rows, columns:-columns] = pixels[rows:-rows, columns:-columns]
    return inner


MACHINES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gamma 0.7": _gamma(0.7),
    "gamma 1.4": _gamma(1.4),
    "noise": _noise,
    "softer": _filtered(ImageFilter.GaussianBlur(1.0)),
    "sharper": _filtered(ImageFilter.UnsharpMask(2, 120, 0)),
    "windowed": _window,
    "not inverted": lambda pixels: 255 - pixels,
    "lateral": _lateral,
    "collimated": _collimated,
}


def children(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The first image of each validation patient, as the package's build splits them."""
    rows = [row for row in data.read_manifest(folder) if not row.get("exact_duplicate_of")]
    split = np.array([row["split"] for row in rows], dtype=object)
    labels = np.array([row["label"] == "PNEUMONIA" for row in rows])
    patients = np.array([row["patient_id"] for row in rows])
    chosen, seen = data._validation(split, labels, patients, 7, 20260101), set()
    for number in chosen:
        if patients[number] not in seen:
            seen.add(patients[number])
            yield rows[number]["file"], data.decode(folder / rows[number]["file"])


def pools(shared: Path) -> tuple[dict[str, np.ndarray], Categories]:
    """By name int ``(studies, streams)``: the bin of each study in each stream."""
    if not KEPT.exists():
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(_measured(shared)))
    taken, categories = json.loads(KEPT.read_text()), Categories()
    return {name: bins(studies, categories) for name, studies in taken.items()}, categories


def _measured(shared: Path) -> dict[str, list[dict[str, Value]]]:
    opened = package.read(package.bundled("chest-pneumonia")[0], None)
    where = Space.of_package(opened.drift(), TARGET)

    def taken(images: Iterator[np.ndarray], **known: Value) -> list[dict[str, Value]]:
        answers = reference.ask(opened, TARGET, map(reference.plain, images))
        return [{**reference.values(opened, TARGET, each, where), **known} for each in answers]

    images = [pixels for _, pixels in children(shared / "chest-kermany")]
    chance = np.random.default_rng(1)
    found = {"children": taken(iter(images))}
    for change, machine in MACHINES.items():
        found[change] = taken(machine(pixels) for pixels in images)
        print(f"{change}: {len(found[change])} studies", flush=True)
    with (shared / "chest-nih" / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found["adults"] = taken(data.decode(shared / "chest-nih" / row["file"]) for row in rows)
    for study, row in zip(found["adults"], rows, strict=True):
        study.update(age=float(row["age"]), sex=row["sex"], view=row["view"])
    # The set is of children from one to five years, and does not say who is how old.
    for name, studies in found.items():
        for study in studies if name != "adults" else ():
            study.update(age=float(chance.uniform(1, 6)), sex=str(chance.choice(["F", "M"])), view="AP")
    return found


def bins(studies: list[dict[str, Value]], categories: Categories) -> np.ndarray:
    found = np.zeros((len(studies), len(STREAMS)), np.int64)
    for row, study in zip(found, studies, strict=True):
        for stream in STREAMS:
            value = study.get(stream.name)
            if stream.numeric:
                row[INDEX[stream.name]] = stream.bin(value if not isinstance(value, str) else None)
            else:
                row[INDEX[stream.name]], _ = categories.number(stream.name, None if value is None else str(value))
    return found
