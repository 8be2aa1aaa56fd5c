"""What several commands share."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from compression import durable


class Number(click.FloatRange):
    """As click's, which takes ``nan`` for a number, and infinity for one that is not too large."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


SHARE = Number(1e-6, 1 - 1e-6)


class Output(click.Path):
    """A file, or a folder, that a command writes; folders above it are made.

    Where that can't be is told before any work begins. What goes wrong later, `in_words` says.
    """

    def __init__(self, folder: bool) -> None:
        super().__init__(file_okay=not folder, dir_okay=folder, writable=True, path_type=Path)

    def convert(self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        above = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
        if not above.is_dir():
            self.fail(f"{path} can't be written: {above} is no folder; name another place", param, ctx)
        if not os.access(above, os.W_OK | os.X_OK):
            self.fail(f"{path} can't be written: {above} is closed to you; name another place", param, ctx)
        return path


FILE, FOLDER = Output(folder=False), Output(folder=True)
_ANOTHER_KIND = "a file lies where a folder should be, or a folder where a file should; name another place"
_HINTS = {
    errno.ENOENT: "see that its folder is there and the name is right",
    errno.EACCES: "see who may read and write there, or name another place",
    errno.EPERM: "see who may read and write there, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.ENOTDIR: _ANOTHER_KIND,
    errno.EISDIR: _ANOTHER_KIND,
    errno.EEXIST: _ANOTHER_KIND,
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """The folders above a file are there while this lasts, and what can't be written is named, which Python does not
    where a disk fills up under an open file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def in_words(error: OSError) -> str:
    """What a file or the disk refused, and what to do; empty for what is of neither, a closed pipe for instance."""
    if durable.is_full(error):
        what = error.filename or "what this command writes"
        return f"no room left on the disk for {what}; free some space and run the same command again"
    if error.filename is None:
        return ""
    hint = _HINTS.get(error.errno or 0, "see that the disk is sound, or name another place")
    return f"{error.filename}: {error.strerror}; {hint}"


RECIPE = click.argument("recipe_path", metavar="RECIPE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("../shared/data"),
    show_default=True,
    help="Folder of the data sets that the recipe names.",
)
WEIGHTS = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    default=Path("../shared/weights"),
    show_default=True,
    help="Folder of the initial weights.",
)
WORK = click.option("--work", type=FOLDER, help="Folder for the stages' results.  [default: .build/ID]")
JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
