"""Generated DICOM files for tests: radiograph-like pictures of any size, depth, syntax and attributes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

from tests.peers import needs

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


def hippocampus_pixels(slices: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A bright, bent body in gray noise, uint16 ``(slices, rows, columns)``: to the head, to the back, to the left."""
    chance = np.random.default_rng(seed)
    z, y, x = np.mgrid[-1 : 1 : slices * 1j, -1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    distance = ((z - 0.25 * y) / 0.35) ** 2 + (y / 0.7) ** 2 + ((x - 0.2 * y**2) / 0.4) ** 2
    picture = 0.2 + 0.6 / (1 + np.exp(8 * (distance - 1))) + chance.normal(0, 0.02, distance.shape)
    return (np.clip(picture, 0, 1) * 1000).astype(np.uint16)


def make_medium(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """A medium by dcmtk's own tool: images under names of media, and their DICOMDIR; skips where it is missing."""
    paths = [make_radiograph(folder / "IMAGES" / f"IM{number}", seed=seed + number) for number in range(count)]
    command = [needs("dcmmkdir"), "--input-directory", str(folder), "--recurse", "--invent",
               "--output-file", str(folder / "DICOMDIR"), "IMAGES"]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return paths


CANONICAL = np.eye(3)[::-1]  # the directions of slices, rows and columns: to the head, to the back, to the left


def make_series(
    folder: Path,
    pixels: np.ndarray,
    *,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    order: tuple[int, int, int] = (0, 1, 2),
    flipped: tuple[int, ...] = (),
    directions: np.ndarray = CANONICAL,
    seed: int = 0,
    **attributes: Any,
) -> list[Path]:
    """Write an MR series; the files are in an order that says nothing.

    Parameters
    ----------
    pixels, spacing
        ``(slices, rows, columns)``, by `CANONICAL`.
    order, flipped
        How it is cut: the axes of ``pixels`` that are stacked, run down and run along each image; which of these run
        the other way. The stack is sorted along the normal where that is left out of ``flipped``.
    directions
        The patient's coordinates of the three axes of ``pixels``.
    """
    moved = np.flip(pixels.transpose(order), flipped)
    along = [(-1.0 if place in flipped else 1.0) * directions[axis] for place, axis in enumerate(order)]
    steps = [spacing[axis] for axis in order]
    shape = moved.shape
    # The first pixel lies at 0 of each axis of `pixels`, or at its end.
    origin = sum(
        (shape[place] - 1) * steps[place] * directions[axis] if place in flipped else np.zeros(3)
        for place, axis in enumerate(order)
    ) - np.array([30.0, 40.0, 50.0])  # fmt: skip
    numbers = np.random.default_rng(seed).permutation(shape[0])
    series, study = (generate_uid(entropy_srcs=[kind, str(folder), str(seed)]) for kind in ("series", "study"))
    paths = []
    for number, place in enumerate(numbers):
        path = folder / f"{number}.dcm"
        described = {
            "SOPClassUID": MRImageStorage, "Modality": "MR", "BodyPartExamined": None, "ViewPosition": None,
            "PatientOrientation": None, "SeriesDescription": "HippoCrop", "PatientAge": "040Y",
            "StudyInstanceUID": study, "SeriesInstanceUID": series, "InstanceNumber": number + 1,
            "FrameOfReferenceUID": f"{series}.1"[:64].rstrip("."), "PositionReferenceIndicator": "",
            "ImagePositionPatient": [f"{value:.6f}" for value in origin + place * steps[0] * along[0]],
            "ImageOrientationPatient": [f"{value:.8f}" for value in (*along[2], *along[1])],
            "PixelSpacing": [f"{value:.6f}" for value in steps[1:]], "SliceThickness": 3,
            "ScanningSequence": "GR", "SequenceVariant": "NONE", "ScanOptions": "", "MRAcquisitionType": "3D",
            "EchoTime": 3, "EchoTrainLength": 1, **attributes,
        }  # fmt: skip
        make_radiograph(path, pixels=np.ascontiguousarray(moved[place]), bits=16, seed=seed, **described)
        paths.append(path)
    return paths
