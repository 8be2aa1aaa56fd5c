"""Generated DICOM files for tests: radiograph-like pictures of any size, depth, syntax and attributes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    generate_uid,
)

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def chest_pixels(rows: int, columns: int, bits: int, seed: int) -> np.ndarray:
    """Two dark lungs beside a bright spine, with noise: uint8 or uint16 ``(rows, columns)``, below ``2**bits``."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    picture = 0.75 - 0.15 * y**2
    for side in (-0.45, 0.45):
        shift_x, shift_y = chance.normal(0, 0.03, 2)
        picture -= 0.55 * np.exp(-((((x - side - shift_x) / 0.28) ** 2 + ((y - shift_y) / 0.6) ** 2) ** 2))
    coarse = chance.normal(0, 0.02, (rows // 8 + 1, columns // 8 + 1))
    picture += np.kron(coarse, np.ones((8, 8)))[:rows, :columns]
    top = 2**bits - 1
    return (np.clip(picture, 0, 1) * top).astype(np.uint8 if bits <= 8 else np.uint16)


def make_radiograph(
    path: Path,
    *,
    rows: int = 256,
    columns: int = 224,
    bits: int = 12,
    seed: int = 0,
    photometric: str = "MONOCHROME2",
    transfer_syntax: str = ExplicitVRLittleEndian,
    pixels: np.ndarray | None = None,
    **attributes: Any,
) -> Path:
    """Write a frontal chest CR; ``attributes`` are DICOM keywords, None removes one. The same call, the same file."""
    if pixels is None:
        pixels = chest_pixels(rows, columns, bits, seed)
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    entropy = [f"{path.name}", f"{seed}", f"{sorted(map(str, attributes.items()))}"]
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=["instance", *entropy])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", *entropy])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["series", *entropy])
    dataset.Modality = "CR"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = "20260102"
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = "101500"
    dataset.AccessionNumber = "A1"
    dataset.StudyID = "1"
    dataset.SeriesNumber = 1
    dataset.InstanceNumber = 1
    dataset.Manufacturer = "Generated"
    dataset.ReferringPhysicianName = ""
    dataset.PatientName = f"TEST^CHEST{seed}"
    dataset.PatientID = f"TEST-{seed}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.PatientAge = "004Y"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "PA"
    dataset.PatientOrientation = ["L", "F"]
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = photometric
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.BitsAllocated = pixels.dtype.itemsize * 8
    dataset.BitsStored = bits
    dataset.HighBit = bits - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if transfer_syntax != ExplicitVRLittleEndian:
        dataset.compress(transfer_syntax, generate_instance_uid=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path
