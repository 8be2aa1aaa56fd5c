"""Reads a data set once, row by row, and keeps what the checks need of each image. What can't be read is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from tqdm import tqdm

from appliance.preprocess import Step, preprocess
from compression import clipping, confounders, data, duplicates, levels, sources, tables
from compression.recipe import RecipeError

SIDE = 128  # of the small copies, in pixels
SMALL = (Step("resize", {"rows": SIDE, "columns": SIDE}),)
_UNREADABLE = (RecipeError, OSError, ValueError, SyntaxError, EOFError, PillowImage.DecompressionBombError)


@dataclass(frozen=True)
class Fault:
    """Something wrong with one row: a kind (``missing file``, ``corrupt image``...), the file, what is wrong."""

    kind: str
    file: str
    what: str


@dataclass(frozen=True)
class Inventory:
    """The images of one data set that could be read; ``count`` of them, in the order of the list.

    Attributes
    ----------
    name
        Folder of the data set.
    rows
        The list's row of each image.
    total
        Rows in the list, readable or not.
    used
        bool ``(count,)``: false where the list says ``exact_duplicate_of``, which training leaves out.
    digests, mask_digests
        str ``(count,)``: SHA-256 of decoded pixels; of masks, empty strings without.
    small
        uint8 ``(count, SIDE, SIDE)``.
    clipped
        float ``(count, 2)``: shares of pixels that preprocessing leaves at the lower and at the upper end.
    stored, prepared
        Statistics by name, float ``(count,)``: of the image as it is stored, and as the network gets it.
    faults
        What is wrong with single rows.
    """

    name: str
    rows: list[dict[str, str]]
    total: int
    used: np.ndarray
    digests: np.ndarray
    mask_digests: np.ndarray
    small: np.ndarray
    clipped: np.ndarray
    stored: dict[str, np.ndarray]
    prepared: dict[str, np.ndarray]
    faults: list[Fault]

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> np.ndarray:
        """Values of a column of the list, str ``(count,)``; empty strings where it has none."""
        return np.array([row.get(name, "") for row in self.rows], dtype=str)

    def has(self, name: str) -> bool:
        return bool(self.rows) and name in self.rows[0]


def take(folder: Path, labels: Sequence[str], steps: Sequence[Step]) -> Inventory:
    """Read a data set.

    Parameters
    ----------
    folder
        With ``manifest.csv``.
    labels
        The declared labels; empty if none are declared, then only empty ones and twins in spelling are faults.
    steps
        The network's preprocessing, without its normalization.

    Raises
    ------
    RecipeError
        Where the list itself can't be read, or no image can.
    """
    return take_rows(folder, data.read_manifest(folder), labels, steps)


def take_rows(
    folder: Path, listed: Sequence[dict[str, str]], labels: Sequence[str], steps: Sequence[Step]
) -> Inventory:
    """`take` for some rows of a list."""
    twins = spelled_twice([row["label"] for row in listed])
    faults: list[Fault] = []
    kept, digests, mask_digests, small, clipped = [], [], [], [], []
    stored: list[dict[str, float]] = []
    prepared: list[dict[str, float]] = []
    for row in tqdm(listed, desc=f"reading {folder.name}", unit="image"):
        found = _faults_of_row(row, labels, twins)
        pixels = _pixels(folder, row["file"], found)
        mask = _mask(folder, row, pixels, found) if row.get("mask") and pixels is not None else ""
        faults += found
        if pixels is None or any(fault.kind == "label" for fault in found):
            continue
        kept.append(row)
        digests.append(duplicates.digest(pixels))
        mask_digests.append(mask)
        small.append(levels.rounded(levels.spread(pixels, SMALL)))
        file_bytes = (folder / row["file"]).stat().st_size
        shown = levels.rounded(levels.spread(pixels, ()))
        bits = {"bits": 8.0 * pixels.itemsize}
        stored.append(confounders.measure(shown) | confounders.geometry(row, pixels.shape, file_bytes) | bits)
        network_input = preprocess(pixels, steps)[0, 0]
        clipped.append(clipping.ends(network_input))
        prepared.append(confounders.measure(network_input * 255))
    if kept and all(map(tables.left_out, kept)):
        raise RecipeError(
            f"{folder}: exact_duplicate_of leaves out every image; name the first of each in it, not itself"
        )
    if not kept:
        raise RecipeError(f"{folder}: none of {len(listed)} images can be used: {_first(faults)}")
    return Inventory(
        name=folder.name,
        rows=kept,
        total=len(listed),
        used=np.array([not tables.left_out(row) for row in kept]),
        digests=np.array(digests),
        mask_digests=np.array(mask_digests),
        small=np.stack(small),
        clipped=np.array(clipped),
        stored=_columns(stored),
        prepared=_columns(prepared),
        faults=faults,
    )


def _columns(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _first(faults: list[Fault]) -> str:
    return f"{faults[0].kind}: {faults[0].file}: {faults[0].what}" if faults else "no reason found"


def _faults_of_row(row: dict[str, str], labels: Sequence[str], twins: dict[str, str]) -> list[Fault]:
    found = []
    if not row["patient_id"]:
        found.append(Fault("no patient", row["file"], "patient_id is empty"))
    label = row["label"]
    if not label:
        found.append(Fault("label", row["file"], "label is empty"))
    elif labels and label not in labels:
        found.append(Fault("label", row["file"], f"label {label!r} is none of {', '.join(labels)}"))
    elif label in twins:
        found.append(Fault("label", row["file"], f"label {label!r}: most are spelled {twins[label]!r}"))
    return found


def spelled_twice(labels: Sequence[str]) -> dict[str, str]:
    """Rarer spellings of a label (case, spaces) and the most frequent one."""
    spellings: dict[str, dict[str, int]] = {}
    for label in labels:
        counts = spellings.setdefault(label.strip().casefold(), {})
        counts[label] = counts.get(label, 0) + 1
    twins: dict[str, str] = {}
    for counts in spellings.values():
        usual = max(counts, key=lambda label: counts[label])
        twins |= {label: usual for label in counts if label != usual}
    return twins


def _pixels(folder: Path, file: str, found: list[Fault]) -> np.ndarray | None:
    if not file or not (folder / file).is_file():
        found.append(Fault("missing file", file, "is not there"))
        return None
    try:
        return data.decode_listed(folder / file)
    except _UNREADABLE as error:
        kind = "constant image" if isinstance(error, data.ConstantImageError) else "corrupt image"
        found.append(Fault(kind, file, str(error).replace(f"{folder}/", "").removeprefix(f"{file}: ")))
        return None


def _mask(folder: Path, row: dict[str, str], pixels: np.ndarray, found: list[Fault]) -> str:
    """The digest of a row's mask; what is wrong with it goes to ``found``."""
    file = row["mask"]
    if not (folder / file).is_file():
        found.append(Fault("missing mask", file, f"is not there; it belongs to {row['file']}"))
        return ""
    try:
        with PillowImage.open(folder / file) as image:
            sources.check_one_page(image)
            mask = np.asarray(image)
    except _UNREADABLE as error:
        found.append(Fault("corrupt mask", file, str(error).replace(f"{folder}/", "")))
        return ""
    if mask.shape[:2] != pixels.shape:
        sizes = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (mask.shape, pixels.shape))
        found.append(Fault("mask of another size", file, f"mask and image are {sizes} (columns x rows)"))
    if not mask.any():
        found.append(Fault("empty mask", file, "nothing is marked"))
    return duplicates.digest(mask)
