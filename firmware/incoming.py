"""What is being taken: one at a time, in a copy of our own, since a stick may answer otherwise the second time."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError

_LEAST_FREE = 64 << 20  # bytes that a copy leaves on the data partition


@contextmanager
def alone(box: Box, say_waits: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """One at a time changes a box: two sticks, a stick and the page, or a person may come at once."""
    box.runtime.mkdir(parents=True, exist_ok=True)
    # Root's alone: whoever may open it could hold it for ever.
    lock = os.open(box.runtime / "taking.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say_waits("waits until what a stick or the page has brought was taken")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def own_copy(box: Box, path: Path) -> Iterator[Path]:
    """A file on the data partition while it is judged and installed.

    Raises
    ------
    FirmwareError
        There is no room for it.
    """
    if not path.is_file():  # who judges it says that there is none
        yield path
        return
    if path.is_relative_to(box.incoming):
        yield path
        return
    box.incoming.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=box.incoming, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # the appliance reads a model there as its own user
        refuse_without_room(path.name, path.stat().st_size, Path(folder))
        Files().copy(path, Path(folder) / path.name)
        yield Path(folder) / path.name


def refuse_without_room(name: str, size: int, folder: Path) -> None:
    """The data partition keeps room for what is being received.

    Raises
    ------
    FirmwareError
        A file of this size would leave too little.
    """
    free = shutil.disk_usage(folder).free
    if free < size + _LEAST_FREE:
        raise FirmwareError(
            f"{name} has {size >> 20} MiB, and the data partition only {free >> 20} MiB left",
            hint="remove old results first, then try again",
        )
