"""Log lines on standard error, and the latest of them in a file. No patient data goes into a log.

That is UIDs and row numbers only, no value of a header, no name of a file that came in, no words of a peer. A traceback
names the error and the places in the code, not what the error says.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from logging.handlers import WatchedFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

_LARGEST = 1 << 20  # of each of the two files
_NAME = "scanside.jsonl"


class Line(msgspec.Struct, frozen=True):
    """A record as the file keeps it: the sentence apart from its values, so that one can be told without the other."""

    at: float
    level: str
    part: str
    sentence: str
    values: list[int | float | str | bool | None] = []
    trace: list[str] = []

    def text(self, values: Iterable[Any] | None = None) -> str:
        """The sentence with its values, or with others in their place."""
        filled = tuple(self.values if values is None else values)
        try:
            said = self.sentence % filled if filled else self.sentence
        except (TypeError, ValueError):  # a number's format on what is no number any more
            said = " ".join([self.sentence, *map(str, filled)])
        return "\n".join([said, *self.trace])


class _Formatter(logging.Formatter):
    def formatException(  # noqa: N802 (its name in the library)
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        return "\n".join(_trace(ei))


class _File(WatchedFileHandler):
    """Lines of all processes in one file. When it is large it becomes the earlier one, of which there is one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, encoding="utf-8", delay=True)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line where there is room for it; what logs must go on where there is none."""
        try:
            super().emit(record)
            if self.stream is not None and self.stream.tell() > _LARGEST:
                with self._path.with_suffix(".lock").open("a") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX)
                    if self._path.exists() and self._path.stat().st_size > _LARGEST:  # no other process was quicker
                        self._path.replace(_earlier(self._path))
        except OSError:
            stream, self.stream = self.stream, None
            with contextlib.suppress(OSError):
                if stream is not None:
                    stream.close()

    def format(self, record: logging.LogRecord) -> str:
        args = record.args if isinstance(record.args, tuple) else (record.args,)
        values = [each if isinstance(each, int | float | bool | None) else str(each) for each in args]
        return msgspec.json.encode(
            Line(
                round(record.created, 3),
                record.levelname.lower(),
                record.name,
                str(record.msg),
                values if record.args else [],
                _trace(record.exc_info) if record.exc_info else [],
            )
        ).decode()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (its name in the library)
        """A full disk must not fill standard error; the line is there anyway."""


def set_up(level: str) -> None:
    """One line a record: UTC time, level, part, message."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = _Formatter("%(asctime)sZ %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    warnings.simplefilter("ignore")  # pydicom's quote values of the header
    # These libraries log data sets and UIDs of patients, or every packet; what they raise is told in our own words.
    for name in ("pynetdicom", "pydicom", "highdicom", "watchdog"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def keep(folder: Path) -> None:
    """Keep what is logged in a folder, too, for the page and the support bundle; never more than about 2 MiB."""
    with contextlib.suppress(OSError):  # without room for it, lines go to standard error alone
        folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger().addHandler(_File(folder / _NAME))


def latest(folder: Path, count: int) -> list[Line]:
    """The last lines that are kept there, the latest first."""
    path = folder / _NAME
    found: list[Line] = []
    for each in (path, _earlier(path)):
        if len(found) < count:
            found += list(_backwards(each))
    return found[:count]


def _backwards(path: Path) -> Iterator[Line]:
    try:
        content = path.read_bytes()
    except OSError:
        return
    for line in reversed(content.splitlines()):
        try:
            yield msgspec.json.decode(line, type=Line)
        except (msgspec.DecodeError, UnicodeDecodeError):  # cut off by a power cut
            continue


def _earlier(path: Path) -> Path:
    return path.with_name(f"{path.stem}.1{path.suffix}")


def _trace(info: Any) -> list[str]:
    kind, _, frames = info
    if kind is None:
        return []
    places = [
        f"  {Path(*Path(frame.filename).parts[-2:])}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(frames)
    ]
    return [*places, f"  {kind.__name__}"]
