"""Files of arrays."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np


def save_arrays(target: Path, arrays: dict[str, np.ndarray]) -> None:
    """An npz that is the same bytes for the same arrays, which numpy's own, with the time in it, is not."""
    with zipfile.ZipFile(target, "w") as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, buffer.getvalue())
