"""The scanner simulator: sends DICOM files as they are, and pictures wrapped as computed radiographs."""

from __future__ import annotations

import hashlib
import re
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian
from pydicom.valuerep import STR_VR

from appliance.config import Priority
from appliance.delivery import storage_scu
from appliance.delivery.storage_scu import File, Outcome
from appliance.errors import ApplianceError, DeliveryError, ImageError
from appliance.patients import TestPatient
from appliance.scanner import Load, Manner, Scanner
from appliance.schedule import C_STORE
from appliance.writer import derived_uid

_PICTURES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Destination:
    """A Storage SCP: ``AET@HOST:PORT``."""

    ae_title: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


def parse_destination(text: str) -> Destination:
    """Read ``AET@HOST:PORT``; raises `ApplianceError`."""
    found = re.fullmatch(r"([^@\\]{1,16})@(\[[0-9a-fA-F:]+\]|[^:@\s]+):(\d{1,5})", text)
    if not found or not 0 < int(found.group(3)) < 65536:
        raise ApplianceError(f"{text!r} is no destination", hint="write it as AET@HOST:PORT: SCANSIDE@127.0.0.1:11112")
    return Destination(found.group(1), found.group(2).strip("[]"), int(found.group(3)))


def send_files(
    files: Sequence[Path],
    destination: Destination,
    calling_ae_title: str,
    attributes: Mapping[str, str],
    associations: int,
    priority: Priority = "routine",
    patients: Sequence[TestPatient] = (),
    manner: Manner = Manner(),  # noqa: B008  (frozen)
    on_abort: Callable[[], None] = lambda: None,
) -> Iterator[Outcome]:
    """Send files, over several associations at once.

    Parameters
    ----------
    attributes
        DICOM keyword -> value, for pictures that are wrapped.
    patients
        Each of them is sent all files, as of this patient; none: the files are sent as they are.
    manner
        Everything else of how a scanner sends; ``associations`` and ``priority`` are those given here.
    on_abort
        Called for each association that was aborted on purpose.

    Yields
    ------
    One outcome per image, as they come; ``path`` is the file that was given, not what it was wrapped into.
    """
    with tempfile.TemporaryDirectory(prefix="scanside-send-") as folder:
        ready: dict[Path, Path] = {}  # what is sent -> what it was made from
        readable: list[File] = []
        for number, file in enumerate(files):
            try:
                if file.suffix.lower() in _PICTURES:
                    wrapped = Path(folder) / f"{number}.dcm"
                    wrap_image(file, attributes).save_as(wrapped, enforce_file_format=True)
                    ready[wrapped] = file
                    readable.append(File.of(wrapped))
                else:
                    ready[file] = file
                    readable.append(File.of(file))
            except (ImageError, DeliveryError) as error:
                yield Outcome(file, "", None, str(error), 0.0, time.time())
        to = (destination.host, destination.port, destination.ae_title)
        manner = replace(manner, associations=associations, priority=C_STORE[priority])
        for group in storage_scu.groups(readable):
            contexts = list(dict.fromkeys(context for file in group for context in file.contexts))
            scanner = Scanner(to, calling_ae_title, contexts, manner, on_abort)
            yield from scanner.send(_loads(group, ready, patients, Path(folder)))


def _loads(
    files: Sequence[File], ready: Mapping[Path, Path], patients: Sequence[TestPatient], folder: Path
) -> Iterator[Load]:
    for patient in patients or (None,):
        for file in files:
            prepare = partial(_of_patient, patient, file, folder) if patient else partial(_as_it_is, file)
            yield Load(ready[file.path], prepare)


def _as_it_is(file: File) -> File:
    return file


def _of_patient(patient: TestPatient, file: File, folder: Path) -> File:
    """Under a name that the sending thread uses again and again, so that many patients fill no disk."""
    path = folder / f"patient-{threading.get_ident()}.dcm"
    patient.examine(file.path).save_as(path)
    return File.of(path)


def wrap_image(path: Path, attributes: Mapping[str, str]) -> Dataset:
    """A PNG or JPEG picture as a Computed Radiography image (PS3.3 A.2), with file meta information.

    UIDs are derived from the picture's pixels and the attributes, so the same call gives the same instance.

    Raises
    ------
    ImageError
        The picture can't be decoded.
    ApplianceError
        An attribute is no DICOM keyword, or does not hold text.
    """
    pixels = _gray(path)
    texts = (f"{keyword}={value}" for keyword, value in sorted(attributes.items()))
    identity = (path.name, str(pixels.shape), hashlib.sha256(pixels.tobytes()).hexdigest(), *texts)
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = derived_uid("sample instance", *identity)
    dataset.StudyInstanceUID = derived_uid("sample study", *identity)
    dataset.SeriesInstanceUID = derived_uid("sample series", *identity)
    dataset.PatientName = f"SAMPLE^{path.stem[:40].upper()}"
    dataset.PatientID = path.stem[:64]
    dataset.PatientBirthDate = dataset.PatientSex = ""
    dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20260101"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "120000"
    dataset.Modality = "CR"
    dataset.Manufacturer = "Scanside scanner simulator"
    dataset.SeriesNumber = dataset.InstanceNumber = 1
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = 0
    for keyword, value in attributes.items():
        _set(dataset, keyword, value)
    data = pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return dataset


def _set(dataset: Dataset, keyword: str, value: str) -> None:
    tag = tag_for_keyword(keyword)
    if tag is None or dictionary_VR(tag) not in STR_VR:
        raise ApplianceError(
            f"{keyword!r} is no DICOM keyword of an attribute that holds text",
            hint="write it as in PatientAge=004Y or ViewPosition=LL",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # of a value that its attribute can't have
            setattr(dataset, keyword, value)
    except (ValueError, UserWarning) as error:
        raise ApplianceError(f"{keyword} can't be {value!r}: {error}") from error


def _gray(path: Path) -> np.ndarray:
    """uint8 or uint16 ``(rows, columns)``; color becomes gray."""
    try:
        with PillowImage.open(path) as picture:
            if picture.mode.startswith("I"):
                return np.asarray(picture).astype(np.uint16)
            return np.asarray(picture.convert("L"))
    except (OSError, UnidentifiedImageError, PillowImage.DecompressionBombError) as error:
        raise ImageError(f"{path} is no picture that can be wrapped: {error}") from error
