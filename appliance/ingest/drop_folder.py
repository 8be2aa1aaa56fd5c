"""The drop folder: files and folders that are copied or moved in, taken once they are complete.

Completeness is told by evidence where there is any: the writer closed the file, and it is a whole DICOM file. Without,
as on network shares, which report no events, a file counts once it has not changed for a while.
"""

from __future__ import annotations

import logging
import os
import queue
import re
import shutil
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from watchdog.events import FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from appliance import config
from appliance.errors import ApplianceError, ConfigError, ImageError, SpoolError
from appliance.image import is_complete, read_header, text
from appliance.ingest import Intake

log = logging.getLogger("scanside.drop_folder")

TAKEN = ".taken"
_TEMPORARY = re.compile(r"^\.|~$|\.(tmp|temp|part|partial|filepart|crdownload|writing)$", re.IGNORECASE)
_RESCAN_SECONDS = 1.0
_LARGEST_BYTES = 2 * 1024**3


@dataclass
class _Seen:
    """A file as it was when it was last looked at; ``since``, when it became like that."""

    signature: tuple[int, int, int]
    since: float


class DropFolder:
    """Watches a folder and everything below it.

    Attributes
    ----------
    problems
        Path below the folder -> why it can't be taken, in words; such files are tried again and again.
    """

    def __init__(self, settings: config.DropFolder, folder: Path, intake: Intake) -> None:
        self._settings = settings
        self._folder = folder
        self._intake = intake
        self._closed: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._waiting: dict[Path, _Seen] = {}
        self._left: dict[Path, tuple[int, int, int]] = {}
        self._stopping = False
        self._observer = Observer()
        self._thread = threading.Thread(target=self._run, name="drop-folder", daemon=True)
        self.problems: dict[str, str] = {}

    def start(self) -> None:
        """Take what is there already, then watch; raises `ConfigError` where the folder can't be used."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._observer.schedule(_Handler(self._closed), str(self._folder), recursive=True)
            self._observer.start()
        except OSError as error:
            raise ConfigError(f"the drop folder {self._folder} can't be watched: {error.strerror or error}") from error
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._closed.put(None)
        self._thread.join()
        self._observer.stop()
        self._observer.join()

    def _run(self) -> None:
        rescan_at = 0.0
        while not self._stopping:
            if time.monotonic() >= rescan_at:
                self._rescan()
                rescan_at = time.monotonic() + _RESCAN_SECONDS
            try:
                closed = self._closed.get(timeout=max(rescan_at - time.monotonic(), 0.01))
            except queue.Empty:
                continue
            if closed is not None:
                self._look(closed, closed=True)

    def _rescan(self) -> None:
        """Look at every file: those that were there before the start, and those that no event told of."""
        found = set()
        for root, folders, names in os.walk(self._folder, onerror=self._unreadable_folder):
            folders[:] = [name for name in folders if not _TEMPORARY.search(name)]
            for name in names:
                path = Path(root) / name
                found.add(path)
                self._look(path, closed=False)
                if self._stopping:
                    return
        for path in set(self._waiting) - found:
            del self._waiting[path]
        for path in set(self._left) - found:
            del self._left[path]
        for name in set(self.problems) - {self._name(path) for path in found}:
            self.problems.pop(name, None)

    def _unreadable_folder(self, error: OSError) -> None:
        if error.filename != str(self._folder) or not self._folder.exists():
            self._problem(Path(str(error.filename)), f"the folder can't be read: {error.strerror}")

    def _look(self, path: Path, closed: bool) -> None:
        """Take a file if it is complete, else remember how it is now."""
        if any(_TEMPORARY.search(part) for part in path.relative_to(self._folder).parts):
            return
        try:
            found = path.lstat()
        except OSError:
            return  # gone again
        if not stat.S_ISREG(found.st_mode):
            if not stat.S_ISDIR(found.st_mode):
                self._problem(path, "it is no plain file (links are not followed)")
            return
        signature = (found.st_size, found.st_mtime_ns, found.st_ino)
        if self._left.get(path) == signature:
            return
        seen = self._waiting.get(path)
        if seen is None or seen.signature != signature:
            seen = self._waiting[path] = _Seen(signature, time.monotonic())
        unchanged = time.monotonic() - seen.since
        settings = self._settings
        settled = closed or unchanged >= settings.settle_seconds
        if unchanged >= settings.incomplete_seconds or (settled and is_complete(path)):
            self._take(path, signature)

    def _take(self, path: Path, signature: tuple[int, int, int]) -> None:
        try:
            if signature[0] > _LARGEST_BYTES:
                raise SpoolError(f"it is larger than {_LARGEST_BYTES >> 30} GiB")
            head, body = _split(path)
            sop_instance_uid, sop_class_uid = _identity(path)
            admission = self._intake.take(
                head,
                body,
                sop_instance_uid=sop_instance_uid,
                sop_class_uid=sop_class_uid,
                source="drop_folder",
                sender=self._name(path),
            )
            if self._settings.after == "move":
                self._move_away(path)
        except (ApplianceError, OSError) as error:
            self._problem(path, error.strerror or str(error) if isinstance(error, OSError) else str(error))
            return
        log.info("instance %d: %s", admission.instance_id, admission.outcome)
        self._waiting.pop(path, None)
        self.problems.pop(self._name(path), None)
        if self._settings.after == "leave":
            self._left[path] = signature

    def _move_away(self, path: Path) -> None:
        """Below ``.taken``, under its own relative path; an earlier file of that name is never overwritten."""
        target = self._folder / TAKEN / path.relative_to(self._folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        free = target
        while free.exists():
            number += 1
            free = target.with_name(f"{target.name}.{number}")
        shutil.move(path, free)

    def _name(self, path: Path) -> str:
        name = str(path.relative_to(self._folder)) if path.is_relative_to(self._folder) else str(path)
        return name.encode("utf-8", "replace").decode()

    def _problem(self, path: Path, reason: str) -> None:
        name = self._name(path)
        if self.problems.get(name) != reason:
            log.warning("a file in the drop folder can't be taken: %s", reason)
            self.problems[name] = reason


class _Handler(FileSystemEventHandler):
    """Passes on the paths of files that were closed after writing, or moved in."""

    def __init__(self, closed: queue.SimpleQueue[Path | None]) -> None:
        self._closed = closed

    def on_closed(self, event: FileSystemEvent) -> None:
        if isinstance(event, FileClosedEvent):
            self._closed.put(Path(os.fsdecode(event.src_path)))

    def on_moved(self, event: FileSystemEvent) -> None:
        if isinstance(event, FileMovedEvent):
            self._closed.put(Path(os.fsdecode(event.dest_path)))


def _split(path: Path) -> tuple[bytes, bytes]:
    """Preamble and file meta information, and the data set (all of the file where there is no meta information)."""
    data = path.read_bytes()
    if data[128:132] != b"DICM":
        return b"", data
    try:
        length = read_file_meta_info(path).FileMetaInformationGroupLength
    except Exception:  # noqa: BLE001  a broken head: the file is kept whole, and reading it will say what is wrong
        return b"", data
    # Preamble, prefix, and the group length's own 12 bytes come before what it counts (PS3.10 section 7.1).
    at = 132 + 12 + int(length)
    return data[:at], data[at:]


def _identity(path: Path) -> tuple[str, str]:
    """SOP Instance UID and SOP Class UID; empty where the file does not tell."""
    try:
        header = read_header(path)
    except ImageError:
        return "", ""
    return text(header, "SOPInstanceUID"), text(header, "SOPClassUID")
