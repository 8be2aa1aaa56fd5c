"""Programs, here and within a tree, which is entered by chroot."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from firmware.errors import FirmwareError

# A tree knows nothing of who builds it: a TMPDIR or PYTHONPATH of theirs leads nowhere there.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}


def call(
    *command: str | Path,
    epoch: int | None = None,
    data: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """Run a program; its output, or an error with its last words."""
    environment = {**environment, "LC_ALL": "C.UTF-8"}
    if epoch is not None:
        environment["SOURCE_DATE_EPOCH"] = str(epoch)
    try:
        done = subprocess.run(
            [str(each) for each in command],
            input=data,
            capture_output=True,
            text=True,
            env=environment,
            timeout=3600,
            check=False,
        )
    except FileNotFoundError as error:
        raise FirmwareError(
            f"{command[0]} is not installed", hint="firmware/README.md lists what a build needs"
        ) from error
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise FirmwareError(f"`{' '.join(map(str, command[:4]))} ...` failed:\n{last}")
    return done.stdout


def mounts_below(folder: Path, table: Path = Path("/proc/self/mountinfo")) -> list[Path]:
    """What is mounted in a folder, or over it; the latest first."""
    octal = re.compile(r"\\([0-7]{3})")  # how the kernel writes a space
    points = (octal.sub(lambda each: chr(int(each[1], 8)), line.split()[4]) for line in table.read_text().splitlines())
    return [Path(each) for each in points if Path(each).is_relative_to(folder.resolve())][::-1]


def remove(folder: Path) -> None:
    """A folder of an earlier build, without what that left mounted in it where it was killed, such as /dev.

    Raises
    ------
    FirmwareError
        Something can't be unmounted; nothing is removed then.
    """
    for place in mounts_below(folder):
        call("umount", "--lazy", place)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def mounted(tree: Path, *binds: Path) -> Iterator[None]:
    """/proc, /dev, /sys and these folders (under their own paths) within a tree."""
    made: list[Path] = []
    try:
        for kind, where in (("proc", "proc"), ("sysfs", "sys")):
            call("mount", "-t", kind, kind, tree / where)
            made.append(tree / where)
        for source in (Path("/dev"), *binds):
            place = tree / source.resolve().relative_to("/")
            place.mkdir(parents=True, exist_ok=True)
            call("mount", "--bind", source, place)
            made.append(place)
        yield
    finally:
        for place in reversed(made):
            call("umount", "--lazy", place)


def inside(tree: Path, *command: str | Path, epoch: int | None = None, data: str | None = None) -> str:
    """Run a program of the tree."""
    return call("chroot", tree, *command, epoch=epoch, data=data, environment=_ENVIRONMENT)
