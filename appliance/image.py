"""From a DICOM file to pixels: what is in it, whether it is whole, and one decoded frame.

Everything that comes from outside passes through here, so each reason that `ImageError` gives is written for the
technician who sent the file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Protocol

import numpy as np
import pydicom
from pydicom import DataElement, Dataset
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID

from appliance import budget, decode
from appliance.completeness import Slice
from appliance.errors import ImageError, QuarantineError, SpoolError

_SEND_AGAIN = "send it again"
_LOOK_AT_DISK = "see whether the disk is sound, and the file there"
_OF_CONTENT = (None, errno.EINVAL)  # of an `OSError`: what a broken file makes pydicom do; all else is the disk's
_PIXEL_DATA = Tag("PixelData")


@dataclass(frozen=True)
class Image:
    """One decoded frame and where it came from.

    Attributes
    ----------
    pixels
        ``(rows, columns)``, after the modality LUT, brighter meaning more X-ray attenuation (MONOCHROME1 is inverted).
    header
        The source data set without its pixel data; its values are as they were read.
    spacing
        Millimeters between rows and between columns, None where it is not stated.
    """

    pixels: np.ndarray
    header: Dataset
    spacing: tuple[float, float] | None

    @property
    def pixel_shape(self) -> tuple[float, float]:
        """How tall and how wide a pixel is, in whatever unit: by its spacing, else by Pixel Aspect Ratio."""
        return self.spacing or _numbers_above_0(self.header, "PixelAspectRatio") or (1.0, 1.0)

    @property
    def sop_class_uid(self) -> str:
        return str(self.header.SOPClassUID)

    @property
    def sop_instance_uid(self) -> str:
        return str(self.header.SOPInstanceUID)

    @property
    def transfer_syntax_uid(self) -> str:
        return str(self.header.file_meta.TransferSyntaxUID)


class Reader(Protocol):
    """What reads files: this module, in the process that calls it, or `appliance.sandbox.Sandbox`."""

    def read_header(self, path: Path) -> Dataset: ...

    def load(self, path: Path, header: Dataset) -> Image: ...


def read_header(path: Path) -> Dataset:
    """The data set up to its pixel data, with its file meta information.

    Raises
    ------
    ImageError
        The file is empty, no DICOM, or ends within its header.
    SpoolError
        The disk does not give it.
    """
    return _read(path, pixels=False)


def load(path: Path, header: Dataset | None = None) -> Image:
    """Decode the one grayscale frame of a file.

    Raises
    ------
    ImageError
        It has no pixels, several frames, color, an unknown transfer syntax, or is damaged.
    SpoolError
        The disk does not give it.
    """
    header = read_header(path) if header is None else header
    with quiet():
        decode.check_header(header)
    return Image(read_pixels(path), header, spacing(header))


def read_pixels(path: Path) -> np.ndarray:
    """The pixels of an `Image` alone, for a process that keeps no header; errors as of `load`."""
    with quiet():
        dataset = _read(path, pixels=True)
        decode.check_header(dataset)
        stored = decode.stored_values(dataset)
        try:
            pixels = apply_modality_lut(stored, dataset)
        except (ValueError, AttributeError, TypeError, IndexError, NotImplementedError) as error:
            raise ImageError(f"The modality LUT can't be applied: {error}.") from error
        if not np.isfinite(pixels).all():
            raise ImageError("Rescale Slope and Intercept make values of the pixels that are no numbers.")
        padding = _padding(dataset, stored)
    inverted = _is_inverted(dataset)
    if padding is not None and not padding.all():
        shown = pixels[~padding]
        pixels = np.where(padding, shown.max() if inverted else shown.min(), pixels)
    if inverted:
        pixels = np.float32(pixels.max()) + np.float32(pixels.min()) - pixels.astype(np.float32)
    return np.asarray(pixels)


# --- reading -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hostile values make pydicom warn by the thousand; what matters becomes an `ImageError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path: Path, pixels: bool) -> Dataset:
    try:
        if path.stat().st_size == 0:
            raise ImageError("The file is empty (0 bytes).", hint=_SEND_AGAIN)
        with path.open("rb") as file:
            return _parse(file, pixels)
    except (MemoryError, RecursionError) as error:
        raise QuarantineError(f"Reading its header exceeds a limit ({type(error).__name__}).") from error
    except ImageError:
        raise
    except Exception as error:  # pydicom raises whatever a broken file provokes
        if isinstance(error, OSError) and error.errno not in _OF_CONTENT:
            raise SpoolError(f"the file {path.name} can't be read: {error.strerror}", hint=_LOOK_AT_DISK) from error
        raise ImageError(f"The DICOM header is damaged ({type(error).__name__}).", hint=_SEND_AGAIN) from error


def _parse(file: io.BufferedReader, pixels: bool) -> Dataset:
    with quiet():
        budget.check(file)
        file.seek(0)
        try:
            dataset = pydicom.dcmread(file, stop_before_pixels=not pixels)
        except InvalidDicomError:
            file.seek(0)
            dataset = _read_without_preamble(file, pixels)
        except EOFError as error:
            raise ImageError("The file ends within its header.", hint=_SEND_AGAIN) from error
        if not dataset.get("SOPClassUID") or not dataset.get("SOPInstanceUID"):
            raise ImageError(
                "The header ends before the SOP Class and SOP Instance UID: the file is cut off or is no image.",
                hint=_SEND_AGAIN,
            )
        if "TransferSyntaxUID" not in dataset.file_meta:  # what it was read as, then
            implicit, little = dataset.original_encoding
            syntax = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1" if little else "1.2.840.10008.1.2.2"
            dataset.file_meta.TransferSyntaxUID = UID(syntax)
        _drop_unreadable(dataset)
        return dataset


def _drop_unreadable(dataset: Dataset) -> None:
    """Take out elements whose value breaks pydicom, so that they count as missing and raise nothing later on.

    pydicom decodes a value when it is first looked at; what stays keeps its undecoded bytes, which `writer` passes on.
    """
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and tag != _PIXEL_DATA:
            try:
                convert_raw_data_element(element, encoding=default_encoding, ds=dataset)
            except Exception:  # noqa: BLE001  pydicom raises whatever a broken value provokes
                del dataset[tag]


def _read_without_preamble(file: io.BufferedReader, pixels: bool) -> Dataset:
    """A bare data set, as old devices write; believed only if it has a SOP class and instance."""
    not_dicom = ImageError("The file is not DICOM.", hint="export it from the modality or the PACS as DICOM")
    try:
        dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)
        known = UID(str(dataset.get("SOPClassUID", ""))).is_valid and bool(dataset.get("SOPInstanceUID"))
    except Exception as error:
        raise not_dicom from error
    if not known:
        raise not_dicom
    return dataset


# --- pixels -------------------------------------------------------------------------------------------------------


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """True where a pixel is padding (PS3.3 C.7.5.1.1.2), which must not count as a brightness."""
    value = dataset.get("PixelPaddingValue")
    limit = dataset.get("PixelPaddingRangeLimit", value)
    if not isinstance(value, int) or not isinstance(limit, int):
        return None
    low, high = sorted((value, limit))
    found = (stored >= low) & (stored <= high)
    return found if found.any() else None


def _is_inverted(dataset: Dataset) -> bool:
    return str(dataset.PhotometricInterpretation) == "MONOCHROME1"


def spacing(header: Dataset) -> tuple[float, float] | None:
    """Millimeters between rows and between columns, None where the header does not say."""
    return _numbers_above_0(header, "PixelSpacing") or _numbers_above_0(header, "ImagerPixelSpacing")


def _numbers_above_0(header: Dataset, keyword: str) -> tuple[float, float] | None:
    """The two values of an element: of rows, and of columns."""
    try:
        rows, columns = (float(value) for value in header.get(keyword) or ())
    except (TypeError, ValueError):
        return None
    return (rows, columns) if rows > 0 and columns > 0 else None


# --- what the header says -------------------------------------------------------------------------------------------


def peek(header: Dataset, keyword: str) -> DataElement | None:
    """An element, decoded, while the header keeps it as it was read; None where it is missing.

    Results take over the bytes of what nobody has decoded (`appliance.writer.inherit`), so looking changes nothing.
    Raises whatever pydicom raises for a value that it can't read.
    """
    tag = Tag(keyword)
    kept = header.get_item(tag)
    if kept is None:
        return None
    decoded = header[tag]
    if isinstance(kept, RawDataElement):
        header[tag] = kept
    return decoded


def text(header: Dataset, keyword: str) -> str:
    """A value as text for people; '' where it is missing or can't be read. Several values are joined by a backslash."""
    try:
        element = peek(header, keyword)
        value = element.value if element is not None else None
        if value is None:
            return ""
        if isinstance(value, MultiValue | list | tuple):
            return "\\".join(str(item) for item in value)
        return str(value).strip("\0 ")
    except Exception:  # noqa: BLE001  any broken value, of any of a hundred kinds
        return ""


def requested(header: Dataset, keyword: str) -> list[str]:
    """What a header has under a keyword, as by `text`, itself and in Request Attributes Sequence (PS3.3 10.6)."""
    sequence = header.get("RequestAttributesSequence")  # what a broken one was, `_drop_unreadable` took out
    items = sequence if isinstance(sequence, Sequence) else ()
    found = (text(each, keyword) for each in (header, *items))
    return [value for value in found if value]


def describe(header: Dataset) -> dict[str, str]:
    """The ledger's columns for a data set, as `appliance.store.Store.triage` takes them."""
    return {
        "sop_instance_uid": text(header, "SOPInstanceUID"),
        "sop_class_uid": text(header, "SOPClassUID"),
        "study_instance_uid": text(header, "StudyInstanceUID"),
        "patient_id": text(header, "PatientID"),
        "patient_name": text(header, "PatientName"),
        "patient_sex": text(header, "PatientSex"),
        "patient_age": text(header, "PatientAge"),
        "modality": text(header, "Modality"),
        "body_part": text(header, "BodyPartExamined"),
        "view": text(header, "ViewPosition"),
        "acquired_at": _acquired_at(header),
        "institution": text(header, "InstitutionName"),
        "accession_number": text(header, "AccessionNumber"),
        "issuer_of_patient_id": text(header, "IssuerOfPatientID"),
        "series_instance_uid": text(header, "SeriesInstanceUID"),
    }


def place_in_series(header: Dataset) -> Slice:
    """What an image says of its place in its series; a value that can't be read counts as not stated."""
    orientation, origin = numbers(header, "ImageOrientationPatient", 6), numbers(header, "ImagePositionPatient", 3)
    normal = position = None
    if orientation is not None and origin is not None:
        across = np.cross(orientation[:3], orientation[3:])
        length = float(np.linalg.norm(across))
        if length > 0:
            x, y, z = (across / length).tolist()
            normal, position = (x, y, z), float(np.dot((x, y, z), origin))
    spacing = numbers(header, "SpacingBetweenSlices", 1)
    return Slice(
        instance_number=_whole(header, "InstanceNumber"),
        acquisition_number=_whole(header, "AcquisitionNumber"),
        position=position,
        normal=normal,
        spacing_between_slices=abs(spacing[0]) or None if spacing is not None else None,
        images_in_acquisition=_whole(header, "ImagesInAcquisition"),
        number_of_series_related_instances=_whole(header, "NumberOfSeriesRelatedInstances"),
    )


def numbers(header: Dataset, keyword: str, count: int) -> list[float] | None:
    """Finite numbers, as many as there must be; None where these are not what the header has."""
    try:
        values = [float(value) for value in text(header, keyword).split("\\")]
    except ValueError:
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _whole(header: Dataset, keyword: str) -> int | None:
    found = numbers(header, keyword, 1)
    return int(found[0]) if found is not None and abs(found[0]) < 2**31 else None


def _acquired_at(header: Dataset) -> str:
    """ISO 8601 without offset: the acquisition's time, or the content's, or the study's."""
    stamp = text(header, "AcquisitionDateTime")
    if not stamp:
        for kind in ("Acquisition", "Content", "Series", "Study"):
            day = text(header, f"{kind}Date")
            if day:
                stamp = day + text(header, f"{kind}Time")
                break
    found = re.match(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?", stamp)
    if not found:
        return ""
    year, month, day, hour, minute, second = found.groups()
    return f"{year}-{month}-{day}" + (f"T{hour}:{minute}:{second or '00'}" if hour else "")


_YEARS_PER_UNIT = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def age_years(header: Dataset) -> float | None:
    """The patient's age at the study in years, from Patient's Age or the birth date; None where neither is usable."""
    stated = _stated_age(header)
    return stated if stated is not None else _age_by_birth(header)


def age_contradiction(header: Dataset) -> tuple[float, float] | None:
    """Patient's Age and the age by the birth date, in years, where they are more than two years apart."""
    stated, born = _stated_age(header), _age_by_birth(header)
    return (stated, born) if stated is not None and born is not None and abs(stated - born) > 2 else None


def _stated_age(header: Dataset) -> float | None:
    found = re.fullmatch(r"(\d{1,3})([DWMY])", text(header, "PatientAge"))
    return int(found.group(1)) * _YEARS_PER_UNIT[found.group(2)] if found else None


def _age_by_birth(header: Dataset) -> float | None:
    try:
        born = date.fromisoformat(text(header, "PatientBirthDate"))
        examined = date.fromisoformat(text(header, "StudyDate") or text(header, "AcquisitionDate"))
    except ValueError:
        return None
    years = (examined - born).days / 365.25
    return years if 0 <= years < 130 else None
