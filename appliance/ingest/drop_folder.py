"""The drop folder: files and folders that are copied or moved in, taken once they are complete.

Completeness is told by evidence: the writer closed the file, and its content is whole (`appliance.whole`). Where nobody
was seen to close it, as on network shares, which report no events, it must not have changed for a while, too. What
never becomes whole is reported and left where it is.
"""

from __future__ import annotations

import logging
import os
import queue
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from appliance import config, media
from appliance.archive import Archive
from appliance.errors import ApplianceError, ArchiveError, ConfigError, ImageError
from appliance.ingest import Intake
from appliance.ingest.bundle import Bundle
from appliance.left_behind import LeftBehind, is_temporary
from appliance.unchanged import ChangedError, Signature, opened, pieces
from appliance.watching import FolderWatch
from appliance.whole import Verdict, examine

log = logging.getLogger("scanside.drop_folder")

TAKEN = ".taken"
_RESCAN_SECONDS = 1.0
_REST_AFTER_RESCAN = 20  # times as long as it took, so that a folder of many thousand files costs 5 % of a core
_RETRY_SECONDS = 5.0
_LEFT_BEHIND = (
    "it has a temporary name, and nobody writes to it any more. Give it its final name, copy it again, or remove it"
)
_NAMED = 20  # so many missing files of a medium are named


@dataclass
class _Seen:
    """A file as it was when it was last looked at; ``since``, when it became like that.

    ``stuck``: nothing more is expected of it, and the problem is told; another writing frees it.
    """

    signature: Signature
    since: float
    retry_at: float = 0.0
    verdict: Verdict | None = None
    stuck: bool = False


@dataclass
class _Batch:
    """Files of one folder that come one after another."""

    transfer_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    taken_at: float = field(default_factory=time.monotonic)  # the latest


@dataclass
class _Medium:
    """A folder with a DICOMDIR: what it names must be there, and what it does not name is no image."""

    directory: Path
    changed_at: float = field(default_factory=time.monotonic)  # when something of it came or changed, the latest
    signature: Signature | None = None
    references: list[media.Reference] = field(default_factory=list)
    look_at: float = 0.0


class DropFolder:
    """Watches a folder and everything below it."""

    def __init__(self, settings: config.DropFolder, folder: Path, intake: Intake) -> None:
        self._settings = settings
        self._folder = folder
        self._intake = intake
        self._closed: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._waiting: dict[Path, _Seen] = {}
        self._left: dict[Path, Signature] = {}
        self._left_behind = LeftBehind(folder, TAKEN, settings.incomplete_seconds)
        self._batches: dict[Path, _Batch] = {}
        self._media: dict[Path, _Medium] = {}
        self._problems: dict[str, str] = {}
        self._not_of_files: set[str] = set()  # those problems whose path is no file that a look at it would clear
        self._stopping = False
        self._watch = FolderWatch(folder, TAKEN, self._closed.put)
        self._thread = threading.Thread(target=self._run, name="drop-folder", daemon=True)

    @property
    def problems(self) -> dict[str, str]:
        """Path below the folder -> why it can't be taken, in words."""
        return dict(self._problems)

    @property
    def watch_problem(self) -> str:
        """Why files are found only by looking through the folder, '' where the kernel tells of them at once."""
        return self._watch.problem

    def start(self) -> None:
        """Take what is there already, then watch; raises `ConfigError` where the folder can't be made."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"the drop folder {self._folder} can't be made: {error.strerror}") from error
        self._watch.look_after()
        self._thread.start()

    def stop(self) -> None:
        self._stopping = True
        self._closed.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._watch.stop()

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
            self._watch.look_after()
            self._rescan()
            end = time.monotonic()
            return end + max(_RESCAN_SECONDS, _REST_AFTER_RESCAN * (end - begin))
        try:
            closed = self._closed.get(timeout=max(self._end_batches(rescan_at) - time.monotonic(), 0.01))
        except queue.Empty:
            return rescan_at
        if closed is not None:
            for path in self._files(closed):
                self._look(path, closed=True)
        return rescan_at

    def _end_batches(self, look_again_at: float) -> float:
        """A folder that has been quiet, and in which nothing is on its way, has brought what it brings.

        Returns
        -------
        When another one may have (of `time.monotonic`), ``look_again_at`` at the latest.
        """
        for folder, batch in tuple(self._batches.items()):
            quiet_at = batch.taken_at + self._settings.settle_seconds
            if quiet_at > time.monotonic():
                look_again_at = min(look_again_at, quiet_at)
            elif not any(path.parent == folder and not seen.stuck for path, seen in self._waiting.items()):
                self._intake.end_transfer(batch.transfer_id, "released")
                del self._batches[folder]
        return look_again_at

    # --- looking --------------------------------------------------------------------------------------------------

    def _files(self, path: Path) -> Iterator[Path]:
        """The path, or every file below it where it is a folder; temporary names and links to folders left out."""
        if any(is_temporary(part) for part in path.relative_to(self._folder).parts):
            return
        if path != self._folder and (path.is_symlink() or not path.is_dir()):
            yield path
            return
        for root, folders, names in os.walk(path, onerror=self._unreadable_folder):
            folders[:] = [name for name in folders if not is_temporary(name)]
            # A DICOMDIR first: it says what the others are.
            for name in sorted([*names, *folders], key=lambda each: not media.is_directory_name(each)):
                found = Path(root) / name
                if not is_temporary(name) and (name not in folders or found.is_symlink()):
                    yield found

    def _rescan(self) -> None:
        """Look at every file: those that were there before the start, and those that no event told of."""
        before, found = set(self._problems), set()
        self._not_of_files.clear()
        for path in self._left_behind.look():
            found.add(path)
            self._problem(path, _LEFT_BEHIND)
        for path in self._files(self._folder):
            found.add(path)
            self._look(path, closed=False)
            if self._stopping:
                return
        for gone in self._waiting.keys() - found:
            del self._waiting[gone]
        for gone in self._left.keys() - found:
            del self._left[gone]
        for folder, medium in tuple(self._media.items()):
            self._look_at_medium(folder, medium)
        for name in before - {self._name(path) for path in found} - self._not_of_files:
            self._problems.pop(name, None)

    def _unreadable_folder(self, error: OSError) -> None:
        path = Path(os.fsdecode(error.filename))
        if path == self._folder or not isinstance(error, FileNotFoundError):
            self._not_of_files.add(self._name(path))
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
        now, signature = time.monotonic(), Signature.of(found)
        if self._left.get(path) == signature:
            return
        seen = self._waiting.get(path)
        if seen is None or seen.signature != signature:
            seen = self._waiting[path] = _Seen(signature, now)
            self._problems.pop(self._name(path), None)
            for medium in self._media_of(path):
                medium.changed_at = now
        if media.is_directory_name(path.name):
            self._media.setdefault(path.parent, _Medium(path))
            return
        if seen.stuck or now < seen.retry_at:
            return
        unchanged = now - seen.since
        if closed or unchanged >= self._settings.settle_seconds:
            try:
                self._decide(path, seen, quiet=unchanged >= self._settings.incomplete_seconds)
            except OSError as error:
                self._retry(path, seen, f"it can't be read: {error.strerror}")

    def _decide(self, path: Path, seen: _Seen, quiet: bool) -> None:
        """By what is in it; ``quiet``: nobody has written to it for so long that nobody will."""
        verdict = seen.verdict or examine(path)
        if time.monotonic() - seen.since >= self._settings.settle_seconds:
            seen.verdict = verdict  # else a writer that goes on at once could leave the same time and size
        if verdict.kind == "whole":
            self._take(path, seen)
        elif verdict.kind == "archive":
            self._take_archive(path, seen, quiet)
        elif quiet and verdict.kind == "cut":
            self._stick(path, seen, f"it is not whole: {verdict.reason}. It is left here; copy it again, or remove it")
        elif quiet and verdict.kind == "foreign" and any(self._media_of(path)):
            self._done(path, seen)  # a viewer or a text on a medium
        elif quiet:
            self._take(path, seen)

    # --- taking ---------------------------------------------------------------------------------------------------

    def _take(self, path: Path, seen: _Seen) -> None:
        batch = self._batches.setdefault(path.parent, _Batch())
        try:
            with opened(path, seen.signature) as file:
                _, admission = self._intake.take_stream(
                    pieces(file, seen.signature),
                    source="drop_folder",
                    sender=self._name(path),
                    transfer_id=batch.transfer_id,
                )
        except ChangedError:
            return  # it is looked at again, as a file that has just changed
        except ApplianceError as error:
            self._retry(path, seen, str(error))
            return
        batch.taken_at = time.monotonic()
        log.info("instance %d: %s", admission.instance_id, admission.outcome)
        self._done(path, seen)

    def _take_archive(self, path: Path, seen: _Seen, quiet: bool) -> None:
        """Take what is in a zip archive, as a batch of its own; what is not taken of it is reported."""
        name = self._name(path)
        bundle = Bundle(self._intake, "drop_folder", "", uuid.uuid4().hex)
        try:
            with opened(path, seen.signature) as file:
                bundle.unpack(name, Archive(file))
        except ChangedError:
            return
        except ArchiveError as error:
            if quiet:
                self._stick(path, seen, str(error))
            return
        refused = [each for each in bundle.finish() if each.state == "refused"]
        self._intake.end_transfer(bundle.transfer_id, "aborted" if refused else "released")
        if bundle.trouble:
            self._retry(path, seen, bundle.trouble)
        elif refused:
            what = f"{len(refused)} of {len(bundle.outcomes)} files in it could not be taken, the others were"
            self._stick(path, seen, f"{what}. The first reason: {refused[0].detail}")
        elif not any(each.instance_id for each in bundle.outcomes):
            self._stick(path, seen, "there is no DICOM file in it")
        else:
            self._done(path, seen)

    def _done(self, path: Path, seen: _Seen) -> None:
        """It is safe: move it away, or remember to leave it."""
        self._waiting.pop(path, None)
        self._problems.pop(self._name(path), None)
        for medium in self._media_of(path):
            medium.changed_at = time.monotonic()
        if self._settings.after == "leave":
            self._left[path] = seen.signature
            return
        try:
            self._move_away(path, seen.signature)
        except OSError as error:
            self._left[path] = seen.signature  # or it would be taken again and again
            self._problem(path, f"it was taken, but can't be moved to {TAKEN}: {error.strerror}")

    def _move_away(self, path: Path, signature: Signature) -> None:
        """Below ``.taken``, under its own relative path; an earlier file of that name is never overwritten."""
        if Signature.of(path.lstat()) != signature:
            return  # another file has come in its place, and its turn comes
        target = self._folder / TAKEN / path.relative_to(self._folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        number = 0
        free = target
        while free.exists():
            number += 1
            free = target.with_name(f"{target.name}.{number}")
        shutil.move(path, free)

    # --- media ----------------------------------------------------------------------------------------------------

    def _media_of(self, path: Path) -> Iterator[_Medium]:
        return (self._media[folder] for folder in path.parents if folder in self._media)

    def _look_at_medium(self, folder: Path, medium: _Medium) -> None:
        """Once it is quiet, hold what came against its DICOMDIR, which goes last."""
        now, seen = time.monotonic(), self._waiting.get(medium.directory)
        if seen is None:
            del self._media[folder]  # taken away, or done before
            return
        quiet = now - medium.changed_at
        if quiet < self._settings.settle_seconds or now < medium.look_at:
            self._keep_problems(folder, medium)
            return
        medium.look_at = now + _RETRY_SECONDS * bool(medium.signature)
        try:
            if medium.signature != seen.signature:
                medium.references = media.read_directory(self._content(medium.directory, seen.signature))
                medium.signature = seen.signature
        except ChangedError:
            return
        except (ApplianceError, OSError) as error:
            if quiet >= self._settings.incomplete_seconds:
                self._problem(medium.directory, f"it can't be read: {error}")
            return
        known = self._intake.kept([each.sop_instance_uid for each in medium.references])
        missing = media.missing(medium.references, known)
        here = {path: other for path, other in self._waiting.items() if folder in path.parents and other is not seen}
        if not missing and not here:
            self._done(medium.directory, seen)
            del self._media[folder]
            return
        if missing and quiet >= self._settings.incomplete_seconds and all(each.stuck for each in here.values()):
            seen.stuck = True
            keys = {media.key(path.relative_to(folder).parts) for path in here}  # they have problems of their own
            absent = [each for each in missing if media.key(each.file_id) not in keys]
            for each in absent[:_NAMED]:
                self._problem(folder.joinpath(*each.file_id), "the DICOMDIR names it, but it did not come")
            if absent:
                said = f"it names {len(medium.references)} files, and {len(absent)} of them did not come"
                self._problem(medium.directory, f"{said}. Copy the medium again; what came is read")
        self._keep_problems(folder, medium)

    def _content(self, path: Path, signature: Signature) -> bytes:
        """Of a DICOMDIR."""
        if signature.size > media.LARGEST_BYTES:
            raise ImageError(f"It is larger than {media.LARGEST_BYTES >> 20} MiB.")
        with opened(path, signature) as file:
            return b"".join(pieces(file, signature))

    def _keep_problems(self, folder: Path, medium: _Medium) -> None:
        """What is missing is no file, so that no look at it clears the problem."""
        for each in medium.references:
            name = self._name(folder.joinpath(*each.file_id))
            if name in self._problems and not (self._folder / name).exists():
                self._not_of_files.add(name)

    # --- problems -------------------------------------------------------------------------------------------------

    def _name(self, path: Path) -> str:
        """The path below the folder; what is no UTF-8 in it becomes a question mark."""
        return str(path.relative_to(self._folder)).encode("utf-8", "replace").decode()

    def _retry(self, path: Path, seen: _Seen, reason: str) -> None:
        seen.retry_at = time.monotonic() + _RETRY_SECONDS
        self._problem(path, reason)

    def _stick(self, path: Path, seen: _Seen, reason: str) -> None:
        seen.stuck = True
        self._problem(path, reason)

    def _problem(self, path: Path, reason: str) -> None:
        name = self._name(path)
        if self._problems.get(name) != reason:
            # Neither its name nor the reason, which may quote others: file names may hold patients' names.
            log.warning("something in the drop folder can't be taken: see `scanside status`")
            self._problems[name] = reason
