"""The version of a data set by its content: the same files and the same list have the same version, wherever they lie.

`compression.splits.version` is of what the images show and of what deals them to splits; this one is of the bytes, all
columns of the list among them, so that it can be told without decoding and says whether a cache or a split was made of
exactly these files.
"""

from __future__ import annotations

from pathlib import Path

from appliance.content import version
from compression import tables
from compression.problems import DataError

MANIFEST = "manifest.csv"
_FILES = ("file", "mask")  # columns of the list that name files


def listed_files(folder: Path) -> list[str]:
    """Files that belong to a data set, relative to its folder and sorted: those of its list, or its NIfTI pairs.

    Raises
    ------
    DataError
        It has neither, or the list can't be read.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        found = [path for part in ("images", "labels") for path in (folder / part).glob("*.nii*")]
        if not found:
            raise DataError(f"{folder} has neither {MANIFEST} nor images/*.nii.gz; is it a data set?")
        return sorted(path.relative_to(folder).as_posix() for path in found)
    rows = tables.read(manifest, ("file",))
    return sorted({row[column] for row in rows for column in _FILES if row.get(column)})


def content_version(folder: Path) -> str:
    """SHA-256 over a data set's list and the files that it names; the name of the folder and dates don't matter.

    A file that is not there counts as such: the version changes when it comes.

    Raises
    ------
    DataError
        The list, or a file that is there, can't be read.
    """
    names = listed_files(folder)
    if (folder / MANIFEST).is_file():
        names = [MANIFEST, *names]
    try:
        return version(folder, names)
    except OSError as error:
        raise DataError(f"{error.filename} can't be read: {error.strerror}") from error
