"""The version of a folder of files by their content: the same files have the same one, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def version(folder: Path, names: Iterable[str]) -> str:
    """SHA-256 over the named files below a folder, in this order; the folder's name and dates don't matter.

    A file that is not there counts as such: the version changes when it comes. Raises OSError where one can't be read.
    """
    hashed = hashlib.sha256()
    for name in names:
        try:
            with (folder / name).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            digest = "missing"
        hashed.update(f"{name}\0{digest}\n".encode())
    return hashed.hexdigest()
