"""A folder tree of DICOM files: one case for each image, one for each series of CT, MR or PET slices.

Labels come from a CSV, by UID or patient; masks from DICOM SEG objects that lie in the same tree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydicom import Dataset
from tqdm import tqdm

from appliance.errors import ImageError, SpoolError
from appliance.image import age_years, read_header, text
from compression import tables
from compression.identifying import refuse
from compression.importing import Case, Faults, Options
from compression.problems import DataError

_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # binary or fractional; label map
_SLICES = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
    "1.2.840.10008.5.1.4.1.1.4",  # MR Image Storage
    "1.2.840.10008.5.1.4.1.1.128",  # Positron Emission Tomography Image Storage
)
# Columns of the CSV that say what a row is about, the most special first.
KEYS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "PatientID")
_NO_CASES = ("DICOMDIR", "deidentification.json")


class DicomTreeImporter:
    """Files are told by their content, not their names. Names of patients and folders don't get into the target."""

    layout = "dicom-tree"
    about = "a tree of DICOM files, de-identified; labels by --label-file, masks from DICOM SEG in the tree"

    def find(self, source: Path, options: Options, faults: Faults) -> list[Case]:
        headers: dict[tuple[str, ...], list[tuple[Path, Dataset]]] = {}
        masks: list[tuple[Path, Dataset]] = []
        labels = _Labels(options.label_file)
        for path, header in _headers(source, options, faults):
            labels.of(header)  # its row fits an image, whatever becomes of that
            if text(header, "SOPClassUID") in _SEGMENTATIONS:
                masks.append((path, header))
            elif (reason := _other(header)) is not None:
                faults.add("other object", f"{path} is {reason}")
            else:
                headers.setdefault(_group(header), []).append((path, header))
        _check_twice(headers)
        mask_of = _mask_of(masks, headers, faults)
        cases = []
        for group, members in headers.items():
            header = members[0][1]
            row = {"patient_id": text(header, "PatientID"), **_known(header), **labels.of(header)}
            cases.append(Case(group[-1], tuple(path for path, _ in members), row, mask_of.get(group)))
        labels.check(faults)
        return sorted(cases, key=lambda case: case.name)


def _headers(source: Path, options: Options, faults: Faults) -> Iterator[tuple[Path, Dataset]]:
    paths = sorted(path for path in source.rglob("*") if path.is_file() and path.name not in _NO_CASES)
    if options.label_file is not None:
        paths = [path for path in paths if path.resolve() != options.label_file.resolve()]
    if not paths:
        raise DataError(f"{source} holds no files; is it the right folder?")
    for path in tqdm(paths, desc="reading headers", unit="file"):
        try:
            header = read_header(path)
        except (ImageError, SpoolError) as error:
            faults.add("other object" if "not DICOM" in error.message else "corrupt image", f"{path}: {error}")
            continue
        refuse(path, header, options.agreement)
        yield path, header


def _other(header: Dataset) -> str | None:
    """What an object is that no case can be made of; None for a grayscale image."""
    if "Rows" not in header:
        return f"no image ({header.SOPClassUID.name})"
    if header.get("SamplesPerPixel", 1) != 1 or not text(header, "PhotometricInterpretation").startswith("MONOCHROME"):
        return f"not grayscale ({text(header, 'PhotometricInterpretation')})"
    if int(header.get("NumberOfFrames") or 1) > 1:
        return f"an image of {header.NumberOfFrames} frames, which the device does not read either"
    return None


def _group(header: Dataset) -> tuple[str, ...]:
    """Patient, then the series of slices or the instance: what makes one case; the last is its name."""
    kind = "SeriesInstanceUID" if text(header, "SOPClassUID") in _SLICES else "SOPInstanceUID"
    return text(header, "PatientID"), text(header, kind)


def _check_twice(groups: dict[tuple[str, ...], list[tuple[Path, Dataset]]]) -> None:
    seen: dict[str, Path] = {}
    for members in groups.values():
        for path, header in members:
            uid = text(header, "SOPInstanceUID")
            if uid in seen:
                raise DataError(f"{path} and {seen[uid]} have the same SOP Instance UID, {uid}; keep one of them")
            seen[uid] = path


def _mask_of(
    masks: list[tuple[Path, Dataset]], groups: dict[tuple[str, ...], list[tuple[Path, Dataset]]], faults: Faults
) -> dict[tuple[str, ...], Path]:
    """Segmentations by the case whose instances they refer to."""
    owner = {text(header, "SOPInstanceUID"): group for group, members in groups.items() for _, header in members}
    found: dict[tuple[str, ...], Path] = {}
    for path, header in masks:
        uids = [
            text(each, "ReferencedSOPInstanceUID")
            for series in header.get("ReferencedSeriesSequence", [])
            for each in series.get("ReferencedInstanceSequence", [])
        ]
        owners = {owner[uid] for uid in uids if uid in owner}
        if not owners:
            faults.add("other object", f"{path} is a segmentation of images that are not in the tree")
        for group in owners:
            if group in found:
                raise DataError(f"{path} and {found[group]} are masks of the same image or series; keep one of them")
            found[group] = path
    return found


def _known(header: Dataset) -> dict[str, str]:
    age = age_years(header)
    return {
        "age": "" if age is None else f"{int(age)}",
        "sex": text(header, "PatientSex"),
        "view": text(header, "ViewPosition"),
        "site": text(header, "InstitutionName"),
        "modality": text(header, "Modality"),
        "scanner": " ".join(filter(None, (text(header, "Manufacturer"), text(header, "ManufacturerModelName")))),
        "series_instance_uid": text(header, "SeriesInstanceUID"),
    }


class _Labels:
    """Rows of the CSV by their most special key."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rows: dict[tuple[str, str], dict[str, str]] = {}
        self._fitting: set[tuple[str, str]] = set()
        for line, row in enumerate(tables.read(path, ["label"]) if path else [], start=2):
            key = next(((name, row[name]) for name in KEYS if row.get(name)), None)
            if key is None:
                raise DataError(f"{path}, line {line}: none of {', '.join(KEYS)} is given")
            if key in self._rows:
                raise DataError(f"{path}, line {line}: {key[0]} is listed twice; keep one of the two")
            self._rows[key] = {name: value for name, value in row.items() if name not in KEYS and value}

    def of(self, header: Dataset) -> dict[str, str]:
        fitting = [key for name in KEYS if (key := (name, text(header, name))) in self._rows]
        self._fitting.update(fitting)
        return self._rows[fitting[0]] if fitting else {}

    def check(self, faults: Faults) -> None:
        """Rows that fit no image. A list that fits nothing is of other files, or from before de-identification."""
        if self._rows and not self._fitting:
            raise DataError(
                f"no row of {self._path} fits any image; were the images de-identified after it was written? "
                "deidentify --label-file translates it"
            )
        for line, key in enumerate(self._rows, start=2):
            if key not in self._fitting:
                faults.add(
                    "label without an image", f"{self._path}, line {line}: its {key[0]} fits no file that can be read"
                )
