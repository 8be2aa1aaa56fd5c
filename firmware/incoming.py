"""What is being taken, in a copy of this package's own: a stick may answer otherwise the second time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError

_LEAST_FREE = 64 << 20  # bytes that a copy leaves on the data partition


@contextmanager
def own_copy(box: Box, path: Path) -> Iterator[Path]:
    """A file on the data partition while it is judged and installed.

    Raises
    ------
    FirmwareError
        There is no room for it.
    """
    if path.is_relative_to(box.incoming) or not path.is_file():  # who judges it says that there is none
        yield path
        return
    folder = box.incoming / f"copy{path.suffix}"  # an update and a model may come at once
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        size, free = path.stat().st_size, shutil.disk_usage(folder).free
        if free < size + _LEAST_FREE:
            raise FirmwareError(
                f"{path.name} has {size >> 20} MiB, and the data partition only {free >> 20} MiB left",
                hint="remove old results first, then try again",
            )
        Files().copy(path, folder / path.name)
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
