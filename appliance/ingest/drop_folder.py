"""The drop folder: files and folders that are copied or moved in, taken once they are complete.

Completeness is told by evidence where there is any: the writer closed the file, and it is a whole DICOM file. Without,
as on network shares, which report no events, a file counts once it has not changed for a while.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import re
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydicom.filereader import read_dataset
from watchdog.events import DirMovedEvent, FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.inotify import InotifyObserver

from appliance import config
from appliance.errors import ApplianceError, ConfigError, ImageError, SpoolError
from appliance.image import is_complete, read_header, text
from appliance.ingest import Intake

log = logging.getLogger("scanside.drop_folder")

TAKEN = ".taken"
_TEMPORARY = re.compile(r"^\.|~$|\.(tmp|temp|part|partial|filepart|crdownload|writing)$", re.IGNORECASE)
_RESCAN_SECONDS = 1.0
_REST_AFTER_RESCAN = 20  # times as long as it took, so that a folder of many thousand files costs 5 % of a core
_RETRY_SECONDS = 5.0
_LARGEST_BYTES = 2 * 1024**3
_PREFIX_END = 132  # 128 bytes of preamble and "DICM" (PS3.10 section 7.1)


@dataclass(frozen=True)
class _Signature:
    """What changes when somebody writes to a file or puts another in its place."""

    size: int
    modified: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> _Signature:
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@dataclass
class _Seen:
    """A file as it was when it was last looked at; ``since``, when it became like that."""

    signature: _Signature
    since: float
    retry_at: float = 0.0


class _ChangedError(Exception):
    """A file was written to while it was read."""


class DropFolder:
    """Watches a folder and everything below it."""

    def __init__(self, settings: config.DropFolder, folder: Path, intake: Intake) -> None:
        self._settings = settings
        self._folder = folder
        self._intake = intake
        self._closed: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._waiting: dict[Path, _Seen] = {}
        self._left: dict[Path, _Signature] = {}
        self._problems: dict[str, str] = {}
        self._unreadable: set[str] = set()
        self._stopping = False
        # With full events, what is moved in from elsewhere is told from what is only just being created.
        self._observer = InotifyObserver(generate_full_events=True)
        self._thread = threading.Thread(target=self._run, name="drop-folder", daemon=True)

    @property
    def problems(self) -> dict[str, str]:
        """Path below the folder -> why it can't be taken, in words; such files are tried again and again."""
        return dict(self._problems)

    def start(self) -> None:
        """Take what is there already, then watch; raises `ConfigError` where the folder can't be made."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the drop folder {self._folder} can't be made: {error.strerror}") from error
        events = [FileClosedEvent, FileMovedEvent, DirMovedEvent]
        self._observer.schedule(_Handler(self._closed), str(self._folder), recursive=True, event_filter=events)
        try:
            self._observer.start()
        except OSError as error:  # such as the kernel's limit of watches: it works without, only later
            log.warning("%s is looked through every second, since it can't be watched: %s", self._folder, error)
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._closed.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._observer.stop()
        if self._observer.is_alive():
            self._observer.join()

    def _run(self) -> None:
        rescan_at = 0.0
        while not self._stopping:
            try:
                rescan_at = self._round(rescan_at)
            except Exception:  # whatever one file provokes must not end the watch over the others
                log.exception("looking through the drop folder failed and is tried again")
                time.sleep(_RESCAN_SECONDS)

    def _round(self, rescan_at: float) -> float:
        """Look through the folder if it is time, else wait for an event; when to look through it next."""
        begin = time.monotonic()
        if begin >= rescan_at:
            self._rescan()
            end = time.monotonic()
            return end + max(_RESCAN_SECONDS, _REST_AFTER_RESCAN * (end - begin))
        try:
            closed = self._closed.get(timeout=max(rescan_at - time.monotonic(), 0.01))
        except queue.Empty:
            return rescan_at
        if closed is not None:
            for path in self._files(closed):
                self._look(path, closed=True)
        return rescan_at

    def _files(self, path: Path) -> Iterator[Path]:
        """The path, or every file below it where it is a folder; temporary names and links to folders left out."""
        if any(_TEMPORARY.search(part) for part in path.relative_to(self._folder).parts):
            return
        if path != self._folder and (path.is_symlink() or not path.is_dir()):
            yield path
            return
        for root, folders, names in os.walk(path, onerror=self._unreadable_folder):
            folders[:] = [name for name in folders if not _TEMPORARY.search(name)]
            for name in [*names, *folders]:
                found = Path(root) / name
                if not _TEMPORARY.search(name) and (name not in folders or found.is_symlink()):
                    yield found

    def _rescan(self) -> None:
        """Look at every file: those that were there before the start, and those that no event told of."""
        before, found = set(self._problems), set()
        self._unreadable.clear()
        for path in self._files(self._folder):
            found.add(path)
            self._look(path, closed=False)
            if self._stopping:
                return
        for gone in self._waiting.keys() - found:
            del self._waiting[gone]
        for gone in self._left.keys() - found:
            del self._left[gone]
        for name in before - {self._name(path) for path in found} - self._unreadable:
            del self._problems[name]

    def _unreadable_folder(self, error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        if path == self._folder or not isinstance(error, FileNotFoundError):
            self._unreadable.add(self._name(path))
            self._problem(path, f"the folder can't be read: {error.strerror}")

    def _look(self, path: Path, closed: bool) -> None:
        """Take a file if it is complete, else remember how it is now."""
        try:
            found = path.lstat()
        except FileNotFoundError:
            return
        except OSError as error:
            self._problem(path, f"it can't be looked at: {error.strerror}")
            return
        if not stat.S_ISREG(found.st_mode):
            self._problem(path, "it is no plain file (links are not followed)")
            return
        now, signature = time.monotonic(), _Signature.of(found)
        if self._left.get(path) == signature:
            return
        seen = self._waiting.get(path)
        if seen is None or seen.signature != signature:
            seen = self._waiting[path] = _Seen(signature, now)
        if now < seen.retry_at:
            return
        unchanged = now - seen.since
        settled = closed or unchanged >= self._settings.settle_seconds
        if unchanged >= self._settings.incomplete_seconds or (settled and is_complete(path)):
            self._take(path, seen)

    def _take(self, path: Path, seen: _Seen) -> None:
        try:
            head, body = _read(path, seen.signature)
            sop_instance_uid, sop_class_uid = _identity(path)
            admission = self._intake.take(
                head,
                body,
                sop_instance_uid=sop_instance_uid,
                sop_class_uid=sop_class_uid,
                source="drop_folder",
                sender=self._name(path),
            )
        except _ChangedError:
            return  # it is looked at again, as a file that has just changed
        except (ApplianceError, OSError) as error:
            seen.retry_at = time.monotonic() + _RETRY_SECONDS
            self._problem(path, f"it can't be read: {error.strerror}" if isinstance(error, OSError) else str(error))
            return
        log.info("instance %d: %s", admission.instance_id, admission.outcome)
        del self._waiting[path]
        self._problems.pop(self._name(path), None)
        if self._settings.after == "leave":
            self._left[path] = seen.signature
            return
        try:
            self._move_away(path, seen.signature)
        except OSError as error:
            self._left[path] = seen.signature  # or it would be taken again and again
            self._problem(path, f"it was taken, but can't be moved to {TAKEN}: {error.strerror}")

    def _move_away(self, path: Path, signature: _Signature) -> None:
        """Below ``.taken``, under its own relative path; an earlier file of that name is never overwritten."""
        if _Signature.of(path.lstat()) != signature:
            return  # another file has come in its place, and its turn comes
        target = self._folder / TAKEN / path.relative_to(self._folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        free = target
        while free.exists():
            number += 1
            free = target.with_name(f"{target.name}.{number}")
        shutil.move(path, free)

    def _name(self, path: Path) -> str:
        """The path below the folder; what is no UTF-8 in it becomes a question mark."""
        return str(path.relative_to(self._folder)).encode("utf-8", "replace").decode()

    def _problem(self, path: Path, reason: str) -> None:
        name = self._name(path)
        if self._problems.get(name) != reason:
            log.warning(
                "something in the drop folder can't be taken: %s", reason
            )  # file names may hold patients' names
            self._problems[name] = reason


class _Handler(FileSystemEventHandler):
    """Passes on the paths of files that were closed after writing, and of files and folders that were moved in."""

    def __init__(self, closed: queue.SimpleQueue[Path | None]) -> None:
        self._closed = closed

    def on_closed(self, event: FileSystemEvent) -> None:
        self._closed.put(Path(os.fsdecode(event.src_path)))

    def on_moved(self, event: FileSystemEvent) -> None:
        if event.dest_path:  # empty where something was moved out
            self._closed.put(Path(os.fsdecode(event.dest_path)))


def _read(path: Path, signature: _Signature) -> tuple[bytes, bytes]:
    """Preamble and file meta information, and the data set (all of the file where these can't be told apart)."""
    if signature.size > _LARGEST_BYTES:
        raise SpoolError(f"it is larger than {_LARGEST_BYTES >> 30} GiB")
    # Neither a link nor a pipe that was put in the file's place a moment ago.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
        start = _data_set_start(file)
        file.seek(0)
        head, body = file.read(start), file.read()
        if _Signature.of(os.fstat(file.fileno())) != signature:
            raise _ChangedError
    return (head, body) if body else (b"", head)


def _data_set_start(file: io.BufferedReader) -> int:
    """Where the data set starts, as the elements of group 2 say; their stated group length may be wrong."""
    if file.read(_PREFIX_END)[128:] != b"DICM":
        return 0
    try:
        read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)  # noqa: ARG005
    except Exception:  # noqa: BLE001  a broken head: the file is kept whole, and reading it will say what is wrong
        return 0
    return file.tell()


def _identity(path: Path) -> tuple[str, str]:
    """SOP Instance UID and SOP Class UID; empty where the file does not tell."""
    try:
        header = read_header(path)
    except ImageError:
        return "", ""
    return text(header, "SOPInstanceUID"), text(header, "SOPClassUID")
