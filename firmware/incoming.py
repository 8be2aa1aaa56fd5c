"""What is being taken, in a copy of this package's own: a stick may answer otherwise the second time."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError

_LEAST_FREE = 64 << 20  # bytes that a copy leaves on the data partition


@contextmanager
def own_copy(box: Box, path: Path) -> Iterator[Path]:
    """A file on the data partition while it is judged and installed; another one of its kind waits until then.

    Raises
    ------
    FirmwareError
        There is no room for it.
    """
    if not path.is_file():  # who judges it says that there is none
        yield path
        return
    with _alone(box, path.suffix):
        if path.is_relative_to(box.incoming):
            yield path
            return
        box.incoming.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=box.incoming, ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o755)  # the appliance reads a model there as its own user
            size, free = path.stat().st_size, shutil.disk_usage(folder).free
            if free < size + _LEAST_FREE:
                raise FirmwareError(
                    f"{path.name} has {size >> 20} MiB, and the data partition only {free >> 20} MiB left",
                    hint="remove old results first, then try again",
                )
            Files().copy(path, Path(folder) / path.name)
            yield Path(folder) / path.name


@contextmanager
def _alone(box: Box, suffix: str) -> Iterator[None]:
    """One update at a time, and one model: two sticks, or a stick and the page, may bring them at once."""
    box.runtime.mkdir(parents=True, exist_ok=True)
    # Root's alone: whoever may open it could hold it for ever.
    lock = os.open(box.runtime / f"incoming{suffix}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
