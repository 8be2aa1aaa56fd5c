"""DICOM media (PS3.10, PS3.3 annex F): what a DICOMDIR says must be there."""

from __future__ import annotations

import io
import warnings
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import PurePath

import pydicom
from pydicom.multival import MultiValue

from appliance.errors import ImageError

LARGEST_BYTES = 64 * 1024**2
STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"  # Media Storage Directory Storage


@dataclass(frozen=True)
class Reference:
    """A file that a DICOMDIR names.

    Attributes
    ----------
    file_id
        Its path below the DICOMDIR's folder, as Referenced File ID (0004,1500) has it.
    sop_instance_uid
        Of the instance in it, by Referenced SOP Instance UID in File (0004,1511).
    """

    file_id: tuple[str, ...]
    sop_instance_uid: str

    def __str__(self) -> str:
        return "/".join(self.file_id)


def is_directory_name(name: str) -> bool:
    """Whether a file is called as a DICOMDIR must be (PS3.10 section 8.6), in upper or lower case."""
    return _normal(PurePath(name.replace("\\", "/")).name) == "dicomdir"


def read_directory(content: bytes) -> list[Reference]:
    """Every instance that a DICOMDIR names.

    Raises
    ------
    ImageError
        It is none, is damaged, or names files outside its folder.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            directory = pydicom.dcmread(io.BytesIO(content))
            if str(directory.file_meta.get("MediaStorageSOPClassUID", "")) != STORAGE_DIRECTORY:
                raise ImageError("It is called DICOMDIR, but is no directory of a medium.")
            references = []
            for record in directory.DirectoryRecordSequence:
                found, uid = record.get("ReferencedFileID"), str(record.get("ReferencedSOPInstanceUIDInFile") or "")
                if found and uid:
                    parts = tuple(map(str, found)) if isinstance(found, MultiValue) else tuple(str(found).split("\\"))
                    references.append(Reference(parts, uid))
    except ImageError:
        raise
    except Exception as error:  # pydicom raises whatever a broken file provokes
        raise ImageError(f"The DICOMDIR is damaged ({type(error).__name__}).", hint="copy the medium again") from error
    if any(part in ("", ".", "..") or "/" in part for each in references for part in each.file_id):
        raise ImageError("The DICOMDIR names files outside its folder.", hint="nothing is followed to there")
    return references


def missing(references: Iterable[Reference], known: Container[str]) -> list[Reference]:
    """Those whose instance is not among the known ones."""
    return [each for each in references if each.sop_instance_uid not in known]


def key(parts: Iterable[str]) -> tuple[str, ...]:
    """A path in the form in which file IDs and names on a copied medium are equal.

    ISO 9660 systems show names in lower case, with a version (";1") or a dot at the end.
    """
    return tuple(_normal(part) for part in parts)


def _normal(name: str) -> str:
    return name.lower().split(";")[0].rstrip(".")
