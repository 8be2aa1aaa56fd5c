"""From a DICOM file to pixels: what is in it, whether it is whole, and one decoded frame.

Everything that comes from outside passes through here, so each reason that `ImageError` gives is written for the
technician who sent the file.
"""

from __future__ import annotations

import contextlib
import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pydicom
from pydicom import Dataset
from pydicom.charset import default_encoding
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian

from appliance import decode
from appliance.errors import ImageError

MAX_INFLATED_BYTES = 1 << 30

_SEND_AGAIN = "send it again"
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
    def sop_class_uid(self) -> str:
        return str(self.header.SOPClassUID)

    @property
    def sop_instance_uid(self) -> str:
        return str(self.header.SOPInstanceUID)

    @property
    def transfer_syntax_uid(self) -> str:
        return str(self.header.file_meta.TransferSyntaxUID)


def read_header(path: Path) -> Dataset:
    """The data set up to its pixel data, with its file meta information.

    Raises
    ------
    ImageError
        The file is empty, no DICOM, or ends within its header.
    """
    return _read(path, pixels=False)


def load(path: Path, header: Dataset | None = None) -> Image:
    """Decode the one grayscale frame of a file.

    Raises
    ------
    ImageError
        It has no pixels, several frames, color, an unknown transfer syntax, or is damaged.
    """
    header = read_header(path) if header is None else header
    with _quiet():
        decode.check_header(header)
        dataset = _read(path, pixels=True)
        stored = decode.stored_values(dataset)
        try:
            pixels = apply_modality_lut(stored, dataset)
        except (ValueError, AttributeError, TypeError, IndexError, NotImplementedError) as error:
            raise ImageError(f"The modality LUT can't be applied: {error}.") from error
        padding = _padding(dataset, stored)
    if padding is not None and not padding.all():
        pixels = np.where(padding, pixels[~padding].min(), pixels)
    if _is_inverted(dataset):
        pixels = np.float32(pixels.max()) + np.float32(pixels.min()) - pixels.astype(np.float32)
    return Image(np.asarray(pixels), header, _spacing(header))


# --- reading -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hostile values make pydicom warn by the thousand; what matters becomes an `ImageError`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read(path: Path, pixels: bool) -> Dataset:
    try:
        if path.stat().st_size == 0:
            raise ImageError("The file is empty (0 bytes).", hint=_SEND_AGAIN)
        with path.open("rb") as file:
            return _parse(path, file, pixels)
    except OSError as error:
        raise ImageError(f"The file can't be read: {error.strerror}.") from error
    except RecursionError as error:
        raise ImageError("Its sequences are nested too deeply to be a real image.") from error
    except ImageError:
        raise
    except Exception as error:  # pydicom raises whatever a broken file provokes
        raise ImageError(f"The DICOM header is damaged ({type(error).__name__}).", hint=_SEND_AGAIN) from error


def _parse(path: Path, file: io.BufferedReader, pixels: bool) -> Dataset:
    with _quiet():
        _check_deflated(path, file)
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


def _check_deflated(path: Path, file: io.BufferedReader) -> None:
    """Refuse a deflated data set that would inflate beyond all reason; pydicom inflates without a limit."""
    try:
        meta = read_file_meta_info(path)
    except (InvalidDicomError, EOFError):
        return
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    # Preamble, prefix, and the group length's own 12 bytes come before what it counts (PS3.10 section 7.1).
    file.seek(132 + 12 + meta.FileMetaInformationGroupLength)
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := file.read(1 << 16):
        while chunk:
            inflated += len(inflater.decompress(chunk, 1 << 22))
            chunk = inflater.unconsumed_tail
            if inflated > MAX_INFLATED_BYTES:
                raise ImageError(f"The deflated data set grows beyond {MAX_INFLATED_BYTES >> 30} GiB.")
    if not inflater.eof:
        raise ImageError("The deflated data set ends early.", hint=_SEND_AGAIN)


# --- pixels -------------------------------------------------------------------------------------------------------


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray | None:
    """True where a pixel is padding (PS3.3 C.7.5.1.1.2), which must not count as a brightness."""
    value = dataset.get("PixelPaddingValue")
    if value is None or isinstance(value, (MultiValue, bytes)):
        return None
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    found = (stored >= low) & (stored <= high)
    return found if found.any() else None


def _is_inverted(dataset: Dataset) -> bool:
    return str(dataset.PhotometricInterpretation) == "MONOCHROME1"


def _spacing(header: Dataset) -> tuple[float, float] | None:
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        try:
            rows, columns = (float(value) for value in header.get(keyword) or ())
        except (TypeError, ValueError):
            continue
        if rows > 0 and columns > 0:
            return rows, columns
    return None


# --- what the header says -------------------------------------------------------------------------------------------


def text(header: Dataset, keyword: str) -> str:
    """A value as text for people; '' where it is missing or can't be read. Several values are joined by a backslash."""
    try:
        value = header.get(keyword)
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
    }


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
    found = re.fullmatch(r"(\d{1,3})([DWMY])", text(header, "PatientAge"))
    if found:
        return int(found.group(1)) * _YEARS_PER_UNIT[found.group(2)]
    try:
        born = date.fromisoformat(text(header, "PatientBirthDate"))
        examined = date.fromisoformat(text(header, "StudyDate") or text(header, "AcquisitionDate"))
    except ValueError:
        return None
    years = (examined - born).days / 365.25
    return years if 0 <= years < 130 else None


# --- is it whole? ----------------------------------------------------------------------------------------------------


def is_complete(path: Path) -> bool:
    """Whether a file is evidently a whole DICOM file: its pixel data ends where it says it does.

    False where that can't be told: not DICOM, no pixel data, or still being written.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file, _quiet():
            header = pydicom.dcmread(file, stop_before_pixels=True)
            syntax = header.file_meta.TransferSyntaxUID
            if syntax == DeflatedExplicitVRLittleEndian:
                return False
            return _ends(file, size, syntax)
    except Exception:  # noqa: BLE001  whatever a broken or half-written file provokes, it is no evidence
        return False


def _ends(file: io.BufferedReader, size: int, syntax: UID) -> bool:
    """Read the pixel data element's head at the current position and look for its end (PS3.5 section 7.1, A.4)."""
    order = "<" if syntax.is_little_endian else ">"
    element = file.read(8)
    if syntax.is_implicit_VR:
        group, _, length = struct.unpack(f"{order}HHL", element)
    else:
        group, _ = struct.unpack(f"{order}HH", element[:4])
        (length,) = struct.unpack(f"{order}L", file.read(4))
    if group != 0x7FE0:
        return False
    if length != 0xFFFFFFFF:
        return file.tell() + length <= size
    file.seek(max(size - 4096, 0))
    return b"\xfe\xff\xdd\xe0\0\0\0\0" in file.read()
