"""One object of each kind, written of an image that says much: what a conformance statement tells of attributes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from appliance import __version__, writer
from appliance.image import Image
from appliance.result import Code, Finding, Prediction, Provenance, Segment
from appliance.writers import WRITERS

_SIDE = 64  # pixels


def objects() -> Iterator[tuple[str, Dataset]]:
    """``(kind, object)`` of every writer that takes a radiograph with a finding and an outline."""
    source, said, settings = _image(), _prediction(), writer.Settings(tuple(WRITERS))
    for kind, one in WRITERS.items():
        if one.accepts(said):
            for dataset in one.write([source], said, _provenance(), settings):
                yield kind, dataset


def attributes(made: Dataset) -> Iterator[tuple[str, str, str, str]]:
    """Tag, name, VR of each attribute of an object of `objects`, and where its value comes from."""
    source = _image().header
    for element in made:
        same = element.tag in source and element.tag != "Modality" and source[element.tag].value == element.value
        if element.is_empty:
            origin = "empty"
        elif same:
            origin = "of the source image"
        elif element.VR == "CS":
            values = element.value if element.VM > 1 else [element.value]
            origin = f"`{'/'.join(map(str, values))}`"
        elif element.keyword in ("Manufacturer", "ManufacturerModelName"):
            origin = f"`{element.value}`"
        else:
            origin = "made by the appliance"
        yield f"({element.tag.group:04X},{element.tag.element:04X})", element.name, element.VR, origin


def _image() -> Image:
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.SOPClassUID, header.SOPInstanceUID = ComputedRadiographyImageStorage, "1.2.3.4"
    header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    header.StudyDate, header.StudyTime, header.Modality = "20260102", "101500", "CR"
    header.AccessionNumber, header.StudyID, header.StudyDescription = "A1", "S1", "Chest"
    header.ReferringPhysicianName, header.TimezoneOffsetFromUTC = "Doctor^Referring", "+0100"
    header.PatientName, header.PatientID, header.IssuerOfPatientID = "Name^Patient", "P1", "ISSUER"
    header.PatientBirthDate, header.PatientSex, header.PatientAge = "19700131", "O", "055Y"
    header.PatientSize, header.PatientWeight = "1.7", "70"
    header.InstanceNumber, header.PatientOrientation = 7, ["L", "F"]
    header.Rows = header.Columns = _SIDE
    header.PixelSpacing = ["0.2", "0.2"]
    header.file_meta = FileMetaDataset()
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pixels = np.arange(_SIDE * _SIDE, dtype=np.uint16).reshape(_SIDE, _SIDE)
    return Image(pixels, header, (0.2, 0.2))


def _prediction() -> Prediction:
    lung = Code("39607008", "SCT", "Lung")
    finding = Finding(
        "Pneumonia", Code("233604007", "SCT", "Pneumonia"), 0.9, 0.5, "balanced", True, True, "Signs are likely."
    )
    mask = np.zeros((1, _SIDE, _SIDE), np.uint8)
    mask[0, 16:48, 16:48] = 1
    structure = Code("91723000", "SCT", "Anatomical Structure")
    lungs = Segment("Lungs", structure, lung, (70, 170, 255), int(mask.sum()), 0.9, 0.1, area_share=0.25, area_mm2=40.9)
    coarse = np.zeros((7, 7), np.float32)
    coarse[3, 3] = 1.0
    return Prediction(
        (finding,),
        {"Pneumonia": coarse},
        np.zeros(3, np.float32),
        ("A warning.",),
        (lungs,),
        mask,
        0.9 * mask[None].astype(np.float32),
    )


def _provenance() -> Provenance:
    return Provenance(
        package="package", version="1.0.0", package_sha256="0" * 64, artifact_sha256="0" * 64, target="cpu",
        backend="onnxruntime", device="CPU", receipt="0" * 16, software_version=__version__,
        made_at="2026-01-02T10:15:30+01:00", intended_use="", not_for=(), device_uid=writer.derived_uid("specimen"),
    )  # fmt: skip
