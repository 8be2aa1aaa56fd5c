"""Files of arrays."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np


def save_arrays(target: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write `npz`."""
    target.write_bytes(npz(arrays))


def npz(arrays: dict[str, np.ndarray]) -> bytes:
    """An npz that is the same bytes for the same arrays, which numpy's own, with the time in it, is not."""
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, buffer.getvalue())
    return whole.getvalue()
