"""De-identifies a tree of DICOM files, and a list of labels that goes with it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import warnings
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.tag import BaseTag
from tqdm import tqdm

from appliance.errors import ImageError, SpoolError
from appliance.image import read_header, text
from compression import durable, tables
from compression.deidentify import EDITION, deidentify
from compression.identifying import burned_in, identifying
from compression.problems import DataError
from compression.pseudonyms import Pseudonyms

_IDENTIFIERS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass(frozen=True)
class Options:
    """What a user may say.

    Attributes
    ----------
    characteristics
        Keep age (89 at most), sex, size and weight.
    leave_out
        Leave out, and count, files that can't be de-identified, instead of stopping at the first.
    pixels_checked
        A person has looked at all pixels and none shows a name: Burned In Annotation becomes NO where it is not stated.
    """

    characteristics: bool = False
    leave_out: bool = False
    pixels_checked: bool = False


@dataclass
class Report:
    """What was done: files, patients, elements of which attribute were removed or changed how often, what was refused.

    Attributes
    ----------
    refused
        Files that were left out by a rule, with the reason.
    """

    files: int = 0
    patients: set[str] = field(default_factory=set)
    removed: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)

    def as_json(self, pseudonyms: Pseudonyms, options: Options) -> dict[str, Any]:
        """For a file that goes with the data: no value, no path of a source."""
        return {
            "profile": f"PS3.15 {EDITION}, Basic Application Level Confidentiality Profile",
            "options": ["Retain Patient Characteristics"] if options.characteristics else [],
            "library": f"dicom-anonymizer {version('dicom-anonymizer')}",
            "key_id": pseudonyms.key_id,
            "files": self.files,
            "patients": len(self.patients),
            "left_out": dict(Counter(self.refused.values())),
            "removed": dict(sorted(self.removed.items())),
            "changed": dict(sorted(self.changed.items())),
            "pixels": "not changed; " + ("a person has looked at them" if options.pixels_checked else "not looked at"),
        }


def run(source: Path, target: Path, pseudonyms: Pseudonyms, options: Options) -> Report:
    """De-identify all DICOM files below ``source`` into ``target``, named by pseudonyms, and say what was done.

    Raises
    ------
    DataError
        A file is damaged, shows names in its pixels, is no image or would still identify, and the options don't leave
        it out; or the disk is full. The target is not there then.
    """
    if target.exists():
        raise DataError(f"{target} is there already; name a new folder")
    paths = sorted(path for path in source.rglob("*") if path.is_file() and path.name != "DICOMDIR")
    report, unfinished = Report(), target.with_name(f"{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        for path in tqdm(paths, desc="de-identifying", unit="file"):
            reason = _refusal(path, options) or _one(path, unfinished, pseudonyms, options, report)
            if reason is None:
                continue
            if options.leave_out:
                report.refused[str(path.relative_to(source))] = reason
            else:
                raise DataError(f"{path}: {reason}; take it out, or leave out all such files with --leave-out")
        if not report.files:
            raise DataError(f"{source} holds no DICOM image that can be de-identified")
        said = json.dumps(report.as_json(pseudonyms, options), indent=1)
        (unfinished / "deidentification.json").write_text(f"{said}\n")
        unfinished.rename(target)
    except OSError as error:
        if durable.is_full(error):
            raise DataError(f"no room left on the disk for {target}; free some space and run again") from error
        raise DataError(f"{target} can't be written: {error.strerror}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return report


def _refusal(path: Path, options: Options) -> str | None:
    """Why a file is not de-identified; None where it can be."""
    try:
        header = read_header(path)
    except (ImageError, SpoolError) as error:
        return error.message
    if "Rows" not in header:
        return "is no image: reports and documents need a person who reads them"
    reason = burned_in(header)
    return None if options.pixels_checked and text(header, "BurnedInAnnotation") != "YES" else reason


def _one(path: Path, folder: Path, pseudonyms: Pseudonyms, options: Options, report: Report) -> str | None:
    """De-identify and write one file; why that can't be done, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break the rules; what can't be read raises
            dataset = pydicom.dcmread(path, force=True)
        before = _elements(dataset)
        deidentify(dataset, pseudonyms, options.characteristics)
        if options.pixels_checked:
            dataset.BurnedInAnnotation = "NO"
        after, left = _elements(dataset), identifying(dataset)
        written = io.BytesIO()
        dataset.save_as(written, enforce_file_format=True)
    except (ValueError, TypeError, AttributeError, KeyError, NotImplementedError) as error:
        # Without the value that pydicom complains of: it may be a name.
        return f"a value or an encoding that can't be read or written ({type(error).__name__})"
    if left:
        return f"would still identify: {', '.join(left)}"
    out = folder / f"{dataset.PatientID}/{dataset.SeriesInstanceUID}/{dataset.SOPInstanceUID}.dcm"
    if out.exists():
        return "has the SOP Instance UID of a file before it"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(written.getvalue())
    report.files += 1
    report.patients.add(str(dataset.PatientID))
    for tag, value in before.items():
        known = keyword_for_tag(tag) or ("private" if tag.is_private else "unknown")
        if tag not in after:
            report.removed[known] += 1
        elif after[tag] != value:
            report.changed[known] += 1
    return None


def _elements(dataset: Dataset) -> dict[BaseTag, str]:
    """Top-level elements but for pixels, to compare before with after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {element.tag: str(element.value) for element in dataset if element.keyword != "PixelData"}


def read_labels(source: Path) -> list[dict[str, str]]:
    """Rows of a CSV of labels by PatientID or UIDs.

    Raises
    ------
    DataError
        It has none of these columns, or can't be read.
    """
    rows = tables.read(source, [])
    if not rows or not set(_IDENTIFIERS) & rows[0].keys():
        raise DataError(f"{source} needs rows and one of the columns {', '.join(_IDENTIFIERS)}; name what it has so")
    return rows


def write_labels(rows: list[dict[str, str]], target: Path, pseudonyms: Pseudonyms) -> None:
    """Write labels with pseudonyms in the place of identifiers; other columns stay as they are.

    Raises
    ------
    DataError
        The file can't be written.
    """
    replacing = {name: pseudonyms.patient if name == "PatientID" else pseudonyms.uid for name in _IDENTIFIERS}
    try:
        with target.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                known = {name: replace(row[name]) for name, replace in replacing.items() if row.get(name)}
                writer.writerow({**row, **known})
    except OSError as error:
        raise DataError(f"{target} can't be written: {error.strerror}") from error
