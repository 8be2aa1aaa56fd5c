"""What is written below a folder, as the kernel tells it (inotify), by watchdog."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from watchdog.events import DirMovedEvent, FileClosedEvent, FileMovedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers.api import DEFAULT_OBSERVER_TIMEOUT, BaseObserver
from watchdog.observers.inotify import InotifyFullEmitter, InotifyObserver
from watchdog.observers.inotify_c import CallbackId, InotifyFD, Mask, WatchCallback, WatchDescriptor

log = logging.getLogger("scanside.watching")

_START_AGAIN_SECONDS = 60.0


class FolderWatch:
    """Tells of files that were closed after writing, and of files and folders that were moved in.

    Parameters
    ----------
    left_out
        A folder in it of which nothing is told, and which takes no watches: the kernel has only so many.
    on_closed
        Called with each path, from another thread.
    """

    def __init__(self, folder: Path, left_out: str, on_closed: Callable[[Path], None]) -> None:
        self._folder, self._left_out, self._on_closed = folder, left_out, on_closed
        self._observer: _Observer | None = None
        self._tried_at = 0.0
        self._problem = ""

    @property
    def problem(self) -> str:
        """Why the kernel doesn't tell of everything, in words; '' where it does."""
        return self._problem or (self._observer.problem if self._observer else "")

    def look_after(self) -> None:
        """Start to watch, or start again where a thread of it has died; call it from time to time."""
        if self._observer is not None and self._observer.is_well():
            return
        if self._observer is not None and not self._problem:
            self._say("a thread of it has stopped")
        if self._tried_at and time.monotonic() - self._tried_at < _START_AGAIN_SECONDS:
            return
        self._tried_at = time.monotonic()
        self.stop()
        try:
            observer = _Observer(os.fsencode(self._folder / self._left_out))
        except OSError as error:
            self._say(str(error.strerror))
            return
        self._observer = observer
        # With full events, what is moved in from elsewhere is told from what is only just being created.
        events = [FileClosedEvent, FileMovedEvent, DirMovedEvent]
        observer.schedule(_Handler(self._on_closed), str(self._folder), recursive=True, event_filter=events)
        try:
            observer.start()
        except OSError as error:
            self._say(str(error.strerror))
            return
        if self._problem:
            log.info("the kernel tells of %s again", self._folder)
        self._problem = ""

    def stop(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.end()

    def _say(self, reason: str) -> None:
        if reason != self._problem:
            log.error("%s is not watched, only looked through now and then: %s", self._folder, reason)
            self._problem = reason


class _Observer(InotifyObserver):
    """Watchdog's, on a descriptor that leaves out a folder."""

    def __init__(self, left_out: bytes) -> None:
        self._inotify_fd = _Descriptor(left_out)
        self._inotify_fd.start()
        # In place of InotifyObserver's own constructor, which takes no descriptor.
        BaseObserver.__init__(self, InotifyFullEmitter, timeout=DEFAULT_OBSERVER_TIMEOUT, inotify_fd=self._inotify_fd)

    @property
    def problem(self) -> str:
        return self._inotify_fd.problem

    def is_well(self) -> bool:
        return all(thread.is_alive() for thread in (self, self._inotify_fd, *self.emitters))

    def end(self) -> None:
        self.stop()
        if self.is_alive():
            self.join()
        self._inotify_fd.stop()


class _Descriptor(InotifyFD):
    def __init__(self, left_out: bytes) -> None:
        super().__init__()
        self._left_out = left_out
        self.problem = ""

    def add_callback(self, path: bytes, mask: Mask, callback: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        """Watchdog goes on where a folder below the first can't be watched."""
        if path == self._left_out or path.startswith(self._left_out + b"/"):
            raise OSError(errno.ENOENT, "left out")
        try:
            return super().add_callback(path, mask, callback, id_)
        except OSError as error:
            if error.errno == errno.ENOSPC and not self.problem:
                self.problem = "there are more folders than the kernel watches (fs.inotify.max_user_watches)"
                log.error("new folders are only looked through now and then: %s", self.problem)
            raise


class _Handler(FileSystemEventHandler):
    def __init__(self, on_closed: Callable[[Path], None]) -> None:
        self._on_closed = on_closed

    def on_closed(self, event: FileSystemEvent) -> None:
        self._on_closed(Path(os.fsdecode(event.src_path)))

    def on_moved(self, event: FileSystemEvent) -> None:
        if event.dest_path:  # empty where something was moved out
            self._on_closed(Path(os.fsdecode(event.dest_path)))
