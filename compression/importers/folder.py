"""A folder with ``manifest.csv``: file, label, patient_id, and whatever else is known; masks in a column ``mask``."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path, PurePosixPath

from appliance.errors import ImageError
from appliance.image import read_header
from compression import tables
from compression.identifying import refuse
from compression.importing import Case, Faults, Options
from compression.problems import DataError
from compression.sources import PICTURES, is_nifti

_NEEDED = ("file", "patient_id")


class FolderImporter:
    """Paths in the list are relative to its folder and may not leave it."""

    layout = "folder"
    about = "a folder with manifest.csv (file, label, patient_id; optional mask, split, view, age, sex, site)"

    def find(self, source: Path, options: Options, faults: Faults) -> list[Case]:
        path = source / "manifest.csv"
        theirs = [options.columns.get(name, name) for name in _NEEDED]
        cases = []
        for line, row in enumerate(tables.read(path, theirs), start=2):
            row = {**row, **{ours: row.get(theirs, "") for ours, theirs in options.columns.items()}}
            file = row.pop("file")
            mask = row.pop("mask", "")
            image = _inside(source, file, path, line)
            if not image.is_file():
                faults.add("corrupt image", f"{path}, line {line}: {file} is not there")
                continue
            if mask and not _inside(source, mask, path, line).is_file():
                faults.add("no mask", f"{path}, line {line}: the mask {mask} of {file} is not there")
                continue
            for path_of in filter(None, (image, source / mask if mask else None)):
                _refuse_identifying(path_of, options)
            cases.append(Case(_name(file), (image,), row, source / mask if mask else None))
        return cases


def _refuse_identifying(path: Path, options: Options) -> None:
    """DICOM files may be listed, too; what can't be read as such is told when it is decoded."""
    if is_nifti(path) or path.suffix.lower() in PICTURES:
        return
    with suppress(ImageError):
        refuse(path, read_header(path), options.agreement)


def _inside(source: Path, file: str, path: Path, line: int) -> Path:
    parts = PurePosixPath(file)
    if not file or parts.is_absolute() or ".." in parts.parts:
        raise DataError(f"{path}, line {line}: {file!r} does not lie in the folder of the list")
    return source / file


def _name(file: str) -> str:
    """The file's path without its suffix, and without a leading ``images/``, which the target adds."""
    return re.sub(r"(\.nii)?\.[^./]*$", "", file.removeprefix("images/"))
