"""From the layouts in which images come to the house's own: a folder with ``manifest.csv``, images and masks.

A layout (one module each in `compression.importers`) finds cases and what is known of them; here they are read at full
depth, checked, and written. A case that is wrong stops the import, or is left out where a rule says so, and counted.
The target appears when it is whole.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from appliance import signature
from appliance.errors import SignatureError
from compression import content, data_set, durable, masks, sources, splits
from compression.masks import MaskLabelError, MaskSizeError
from compression.problems import DataError

# What may be wrong with a case: how the report calls it, and the rule that leaves it out ("" where nothing does).
RULES = {
    "corrupt image": "--skip-corrupt",
    "no label": "--skip-labels",
    "label outside the set": "--skip-labels",
    "label without an image": "--skip-labels",
    "corrupt mask": "--skip-masks",
    "mask of another size": "--skip-masks",
    "mask with an undeclared label": "--skip-masks",
    "no mask": "--skip-masks",
    "other object": "--skip-other",
    "no patient": "",
}
FIRST_COLUMNS = ("file", "label", "patient_id", "split", "mask", "view", "age", "sex", "site")


@dataclass(frozen=True)
class Options:
    """What a user may say of an import; a layout reads what concerns it.

    Attributes
    ----------
    skip
        Rules of `RULES` that are in force.
    labels
        The declared labels; empty: any.
    segments
        Names of the masks' labels 1, 2...
    label_file
        A CSV of labels (``dicom-tree``).
    columns
        Our name of a column -> its name in the source's list (``folder``).
    finding, others
        The wanted finding, and whether images with other findings only are ``negative`` or left out (``nih``).
    agreement
        Why identifying DICOM may be imported; empty: it may not.
    device_key
        The public key of the device that exported the bundle (``folder``); None: its signature is not checked.
    """

    skip: frozenset[str] = frozenset()
    labels: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()
    label_file: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    finding: str = ""
    others: str = "negative"
    agreement: str = ""
    device_key: Path | None = None


@dataclass(frozen=True)
class Case:
    """One image or volume before it is read.

    ``name``: of its files in the target, without suffix; ``paths``: one file, or the slices of a series; ``row``: its
    columns in the list but for the files.
    """

    name: str
    paths: tuple[Path, ...]
    row: dict[str, str]
    mask: Path | None = None


class Faults:
    """Stops at the first fault that no rule leaves out; keeps and counts the others."""

    def __init__(self, skip: frozenset[str]) -> None:
        self._skip = skip
        self.skipped: dict[str, list[str]] = {}

    def add(self, kind: str, what: str) -> None:
        """Raises `DataError`, unless the kind's rule is in force."""
        rule = RULES[kind]
        if rule not in self._skip:
            hint = f"; mend it, or leave out and count all such cases with {rule}" if rule else ""
            raise DataError(f"{kind}: {what}{hint}")
        self.leave_out(kind, what)

    def leave_out(self, kind: str, what: str) -> None:
        """Count what an option of the layout leaves out."""
        self.skipped.setdefault(kind, []).append(what)


class Importer(Protocol):
    """One layout.

    ``about``: one line for the help.
    """

    layout: str
    about: str

    def find(self, source: Path, options: Options, faults: Faults) -> list[Case]:
        """The cases, in an order that the same source gives again; raises `DataError` where it is no such layout."""
        ...


def run(importer: Importer, source: Path, target: Path, options: Options) -> dict[str, Any]:
    """Import a source; what ``import.json`` in the target says.

    Raises
    ------
    DataError
        At the first fault that no rule leaves out, and where the disk is full; the target is not there then.
    """
    if target.exists():
        raise DataError(f"{target} is there already; name a new folder")
    lineage = _lineage(source, options.device_key)
    faults = Faults(options.skip)
    cases = _checked(importer.find(source, options, faults), options, faults)
    if not cases:
        raise DataError(f"{source} holds no case that can be used; left out: {_counts(faults) or 'none'}")
    _refuse_two_splits(cases)
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        return _write(importer, cases, unfinished, target, options, faults, lineage)
    except OSError as error:
        if durable.is_full(error):
            raise DataError(f"no room left on the disk for {target}; free some space and import again") from error
        raise DataError(f"{target} can't be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _lineage(source: Path, device_key: Path | None) -> dict[str, Any] | None:
    """Where a bundle that a device exported comes from, for ``import.json``; None of any other source.

    Raises
    ------
    DataError
        It can't be read, the bundle is no longer what was exported, or it is not signed with the device's key.
    """
    path = source / "lineage.json"
    if not path.is_file():
        if device_key is not None:
            raise DataError(f"{source} has no lineage.json that the device's key could have signed")
        return None
    try:
        written, signed = path.read_bytes(), path.with_name("lineage.sig").read_text(encoding="utf-8")
        lineage: dict[str, Any] = json.loads(written)
        exported, device = lineage["content"], lineage["device"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} can't be read: {error}; export the bundle again") from error
    if exported != content.content_version(source):
        raise DataError(f"{source} was changed since the device exported it; export it again")
    if device_key is not None:
        try:
            keys = {device: signature.public_key(device_key)}
            signature.verify(signed, written, keys, str(path))
        except SignatureError as error:
            raise DataError(f"{path} is not what the device of {device_key} has signed: {error.message}") from error
    return {**lineage, "signature_checked": device_key is not None}


def _write(
    importer: Importer,
    cases: Sequence[Case],
    folder: Path,
    target: Path,
    options: Options,
    faults: Faults,
    lineage: dict[str, Any] | None,
) -> dict[str, Any]:
    folder.mkdir(parents=True)
    rows, empty = [], []
    for case in tqdm(cases, desc=f"importing {importer.layout}", unit="case"):
        row = _one(case, folder, options, faults)
        if row is not None:
            rows.append(row)
            if row.pop("_empty"):
                empty.append(row["mask"])
    if not rows:
        raise DataError(f"no case of {len(cases)} can be used; left out: {_counts(faults)}")
    names = dict.fromkeys([*FIRST_COLUMNS, *(name for row in rows for name in row)])
    used = [name for name in names if name in FIRST_COLUMNS[:3] or any(row.get(name) for row in rows)]
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, used, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    report = {
        "layout": importer.layout,
        "content": content.content_version(folder),
        "cases": len(rows),
        "patients": len({row["patient_id"] for row in rows}),
        "labels": {label: sum(row["label"] == label for row in rows) for label in sorted({r["label"] for r in rows})},
        "masks": sum(bool(row.get("mask")) for row in rows),
        "empty_masks": empty,
        "skipped": faults.skipped,
        "rules": sorted(options.skip),
        "segments": list(options.segments),
        "identified_by_agreement": options.agreement or None,
    }
    if lineage is not None:
        report["lineage"] = lineage
    (folder / "import.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    folder.rename(target)
    return report


def _one(case: Case, folder: Path, options: Options, faults: Faults) -> dict[str, Any] | None:
    """Read, check and write one case; its row, or None where a rule leaves it out."""
    try:
        source = sources.read(case.paths)
    except DataError as error:
        faults.add("corrupt image", str(error))
        return None
    mask = None
    if case.mask is not None:
        try:
            mask = masks.read(case.mask, source, options.segments)
        except DataError as error:
            size, label = isinstance(error, MaskSizeError), isinstance(error, MaskLabelError)
            kind = "mask of another size" if size else "mask with an undeclared label" if label else "corrupt mask"
            faults.add(kind, str(error))
            return None
    row: dict[str, Any] = {**case.row, **data_set.write_image(case.name, case.paths[0], source, folder)}
    if mask is not None:
        row["mask"] = data_set.write_mask(case.name, mask, source, folder)
    row["_empty"] = mask is not None and not mask.any()
    return row


# --- checks ---------------------------------------------------------------------------------------------------------


def _checked(cases: Iterable[Case], options: Options, faults: Faults) -> list[Case]:
    """Without those that a rule leaves out for their label or patient."""
    kept: list[Case] = []
    names: set[str] = set()
    for case in cases:
        label, shown = case.row.get("label", ""), case.paths[0]
        if case.name in names:
            raise DataError(f"{shown}: another case is called {case.name}, too; give each image a name of its own")
        names.add(case.name)
        if not case.row.get("patient_id"):
            faults.add("no patient", f"{shown} has no patient, so that no split can keep its patient together")
        elif not label and (options.labels or case.mask is None):
            faults.add("no label", f"{shown} has neither a label nor a mask" if case.mask is None else f"{shown}")
        elif options.labels and label not in options.labels:
            faults.add("label outside the set", f"{shown}: {label!r} is none of {', '.join(options.labels)}")
        else:
            kept.append(Case(case.name, case.paths, {"label": "", **case.row}, case.mask))
    return kept


def _refuse_two_splits(cases: Sequence[Case]) -> None:
    patients = np.array([case.row["patient_id"] for case in cases], dtype=str)
    found = splits.leaks(patients, np.array([case.row.get("split", "") for case in cases], dtype=str))
    if found:
        shown = "; ".join(f"{patient} in {' and '.join(names)}" for patient, names in list(found.items())[:5])
        raise DataError(f"{len(found)} patients are in two splits: {shown}; keep each patient in one")


def _counts(faults: Faults) -> str:
    return ", ".join(f"{kind} {len(each)}" for kind, each in faults.skipped.items())
