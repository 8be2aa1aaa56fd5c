"""Making a blinded reader study out of what the device has read or a folder, and its answers as CSV."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from appliance import render
from appliance.config import Config
from appliance.errors import ImageError, ReaderStudyError
from appliance.image import load, read_header
from appliance.reader_study import Case, ReaderStudies, check_name
from appliance.spool import write_durably
from appliance.store import Store

PRESENT, ABSENT, CANT_JUDGE = "present", "absent", "can't judge"
COLUMNS = (
    "image", "reader", "label", "rating", "seconds", "label_again", "rating_again", "seconds_again", "place",
)  # fmt: skip
_LONGEST = 2048  # pixels a side: more than the page's own previews, since people judge these
_PICTURES = {".png", ".jpg", ".jpeg"}
_ALL = 1_000_000


def create(
    config: Config,
    name: str,
    folder: Path | None,
    only: Path | None,
    finding: str | None,
    scale: int,
    repeated: float,
) -> int:
    """Make a study and draw its pictures, without anything of the header; the number of its cases.

    Parameters
    ----------
    folder
        DICOM, PNG and JPEG files to read; None takes every instance that the ledger has a result for.
    only
        CSV with a column ``image``: SOP Instance UIDs, or names of files that are not DICOM. Further columns, such as
        the truth, are not looked at.
    finding
        What is asked for; None where the device's results have but one.
    scale, repeated
        Ratings go from 1 to ``scale``; this share of the cases is shown twice.

    Raises
    ------
    ReaderStudyError, ImageError, SpoolError
    """
    check_name(name)
    studies = ReaderStudies(config.ledger_path)
    if any(each["name"] == name for each in studies.studies()):
        raise ReaderStudyError(f"there is a reader study {name!r} already", hint="give this one another name")
    wanted = _wanted(only) if only else None
    rows = _results(config)
    finding = finding or _only_finding(rows)
    scores = {row["sop_instance_uid"]: _score(row, finding) for row in rows}
    cases = []
    for image, file in _folder(folder) if folder else _ledger(config, rows, finding):
        if wanted is None or image in wanted:
            picture = f"{name}/{hashlib.sha256(image.encode()).hexdigest()[:24]}.png"
            write_durably(config.reader_studies_path / picture, render.png(_draw(file)))
            cases.append(Case(image, picture, *scores.get(image, (None, None))))
    missing = (wanted or set()) - {case.image for case in cases}
    if missing:
        raise ReaderStudyError(
            f"{len(missing)} images of {only} are not there, the first is {min(missing)}",
            hint="have the device read them first, or name their folder with --cases",
        )
    if len(cases) < 2:
        raise ReaderStudyError(
            "a reader study needs two images or more", hint="have the device read some, or name a folder with --cases"
        )
    studies.create(name, finding, scale, repeated, cases)
    return len(cases)


def export(studies: ReaderStudies, name: str, file: TextIO, unfinished: bool = False) -> list[str]:
    """Write the answers as CSV, one row for each image and reader; the names of readers who have not finished.

    The first three columns are what ``python -m compression readers`` reads. A second showing of the same case has
    columns of its own (``..._again``), so that no image counts twice.

    Parameters
    ----------
    unfinished
        Also write answers that may still change.
    """
    study = studies.study(name)
    answers = studies.answers(study["id"])
    again = {(row["reader_id"], row["case_id"]): row for row in answers if row["repetition"]}
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in answers:
        if not row["repetition"] and (unfinished or row["finished_at"]):
            second = again.get((row["reader_id"], row["case_id"]))
            writer.writerow(
                {"image": row["image"], "reader": row["reader"], "place": row["place"], **_cells(row, "")}
                | (_cells(second, "_again") if second else {})
            )
    return [row["name"] for row in studies.readers(study["id"]) if row["finished_at"] is None]


def export_scores(studies: ReaderStudies, name: str, file: TextIO) -> int:
    """Write what the model said: image, score, threshold; the number of cases that it has not read."""
    cases = studies.cases(studies.study(name)["id"])
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "score", "threshold"])
    read = [case for case in cases if case["score"] is not None]
    writer.writerows([case["image"], f"{case['score']:.6f}", f"{case['threshold']:.6f}"] for case in read)
    return len(cases) - len(read)


def _cells(row: dict[str, Any], suffix: str) -> dict[str, Any]:
    label = CANT_JUDGE if row["present"] is None else PRESENT if row["present"] else ABSENT
    rating = "" if row["rating"] is None else row["rating"]
    return {f"label{suffix}": label, f"rating{suffix}": rating, f"seconds{suffix}": f"{row['seconds']:.1f}"}


def _wanted(path: Path) -> set[str]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise ReaderStudyError(f"{path} can't be read: {error}") from error
    if not rows or "image" not in rows[0]:
        raise ReaderStudyError(f"{path} needs a column image and at least one row")
    return {row["image"] for row in rows}


def _results(config: Config) -> list[dict[str, Any]]:
    """What the ledger has a result for, in the order in which it was received."""
    store = Store(config.ledger_path)
    rows = [row for row in store.worklist(_ALL) if row["findings"]]
    return sorted(rows, key=lambda row: row["id"])


def _only_finding(rows: list[dict[str, Any]]) -> str:
    labels = {finding["label"] for row in rows for finding in row["findings"]}
    if len(labels) != 1:
        known = f" (the results have: {', '.join(sorted(labels))})" if labels else ""
        raise ReaderStudyError(f"it is not said which finding readers are asked for{known}", hint="name it: --finding")
    return labels.pop()


def _score(row: dict[str, Any], finding: str) -> tuple[float | None, float | None]:
    return next(
        ((each["probability"], each["threshold"]) for each in row["findings"] if each["label"] == finding),
        (None, None),
    )


def _ledger(config: Config, rows: list[dict[str, Any]], finding: str) -> Iterator[tuple[str, Path]]:
    for row in rows:
        if any(each["label"] == finding for each in row["findings"]):
            yield row["sop_instance_uid"], config.spool_path / row["file"]


def _folder(folder: Path) -> Iterator[tuple[str, Path]]:
    seen: dict[str, Path] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        image = str(file.relative_to(folder))
        if file.suffix.lower() not in _PICTURES:
            try:
                image = str(read_header(file).SOPInstanceUID)
            except ImageError as error:
                raise ReaderStudyError(f"{file}: {error}", hint="take it out of the folder") from error
        if image in seen:
            raise ReaderStudyError(
                f"{file} and {seen[image]} are the same SOP instance, {image}", hint="take one of the two away"
            )
        seen[image] = file
        yield image, file


def _draw(file: Path) -> np.ndarray:
    """uint8 ``(rows, columns)``: as a viewer would show it, at most `_LONGEST` pixels a side."""
    if file.suffix.lower() not in _PICTURES:
        return render.display(load(file), _LONGEST)
    try:
        with PillowImage.open(file) as picture:
            gray = picture.convert("L")
            gray.thumbnail((_LONGEST, _LONGEST))
            return np.asarray(gray)
    except (OSError, UnidentifiedImageError) as error:
        raise ImageError(f"{file} can't be decoded.") from error
