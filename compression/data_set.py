"""Images and masks as files in the house's form of a data set, at their full depth.

An image is a PNG of 8 or 16 bits, or the gray JPEG that it came as; a volume is ``.nii.gz`` in RAS orientation. What
else a file carried, texts of a PNG or descriptions of a NIfTI header, does not come along; a JPEG's own comments do.
"""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from PIL import Image as PillowImage

from compression import sources
from compression.sources import Source

_COPIED = {".jpg", ".jpeg"}  # kept byte for byte where they are gray: decoders differ, and coding anew would lose


def whole_levels(source: Source) -> tuple[np.ndarray, float, float]:
    """An image as PNG can hold it: uint8 or uint16, and the slope and intercept that give its values back.

    Whole numbers are kept exactly; others are spread over all 65,536 levels.
    """
    values = source.pixels
    low, high = float(values.min()), float(values.max())
    if (values == np.rint(values)).all() and high - min(low, 0) <= np.iinfo(np.uint16).max:
        if low >= 0 and high <= np.iinfo(np.uint8).max and source.bits <= 8:
            return values.astype(np.uint8), 1.0, 0.0
        # One intercept for all images with negative values, so that equal levels stay equal.
        signed = np.iinfo(np.int16)
        intercept = 0.0 if low >= 0 else float(signed.min) if signed.min <= low and high <= signed.max else low
        return (values - np.float64(intercept)).astype(np.uint16), 1.0, intercept
    slope = (high - low) / np.iinfo(np.uint16).max or 1.0
    return np.rint((values.astype(np.float64) - low) / slope).astype(np.uint16), slope, low


def write_image(name: str, path: Path, source: Source, folder: Path) -> dict[str, str]:
    """Write an image, ``path`` being what it was read from.

    Returns
    -------
    Columns of the list: ``file``, and where its values were changed ``rescale_slope`` and ``rescale_intercept``, which
    give them back as in DICOM, and ``row_spacing`` and ``column_spacing`` in millimeters.
    """
    suffix = path.suffix.lower()
    if source.affine is not None:
        return {"file": _write_volume(f"images/{name}.nii.gz", source.pixels, source.affine, folder)}
    if suffix in _COPIED and _is_gray(path):
        file = f"images/{name}{suffix}"
        _made(folder / file).write_bytes(path.read_bytes())
        return {"file": file}
    file = f"images/{name}.png"
    levels, slope, intercept = whole_levels(source)
    PillowImage.fromarray(levels).save(_made(folder / file))
    row = {"file": file}
    if source.sop_instance_uids or (slope, intercept) != (1.0, 0.0):
        row |= {"rescale_slope": f"{slope:.9g}", "rescale_intercept": f"{intercept:.9g}"}
    if source.spacing is not None:
        row |= {"row_spacing": f"{source.spacing[0]:.6g}", "column_spacing": f"{source.spacing[1]:.6g}"}
    return row


def write_mask(name: str, mask: np.ndarray, source: Source, folder: Path) -> str:
    """Write a mask on its image's grid; its name below the folder."""
    if source.affine is not None:
        return _write_volume(f"masks/{name}.nii.gz", mask, source.affine, folder)
    PillowImage.fromarray(mask).save(_made(folder / f"masks/{name}.png"))
    return f"masks/{name}.png"


def _write_volume(name: str, array: np.ndarray, affine: np.ndarray, folder: Path) -> str:
    turned, turned_affine = sources.to_ras(array, affine)
    volume = nibabel.Nifti1Image(turned, turned_affine, dtype=turned.dtype)
    volume.header.set_xyzt_units("mm")
    nibabel.save(volume, _made(folder / name))
    return name


def _is_gray(path: Path) -> bool:
    with PillowImage.open(path) as picture:
        return picture.mode in ("L", "I;16")


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
