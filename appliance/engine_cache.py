"""Compiled networks on disk: found by everything that they depend on, and believed only if they are whole."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from pathlib import Path

from appliance.errors import SpoolError
from appliance.spool import write_durably

log = logging.getLogger("scanside.engine_cache")

_DIGEST_BYTES = 32
_SUFFIX = ".engine"
_KEPT_SECONDS = 60 * 24 * 3600.0


class EngineCache:
    """A folder of compiled networks, each behind the SHA-256 of its bytes.

    A runtime may crash on a damaged file, so one is never handed over.

    Parameters
    ----------
    folder
        None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, *key: object) -> bytes | None:
        """What was put under this key; None where there is nothing, or where it is damaged (it is removed then)."""
        path = self._path(key)
        if path is None:
            return None
        try:
            content = path.read_bytes()
        except OSError:
            return None
        digest, engine = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(engine).digest() == digest:
            with contextlib.suppress(OSError):
                os.utime(path)  # for `prune`
            return engine
        log.warning("the compiled network %s is damaged: it is removed and compiled again", path)
        path.unlink(missing_ok=True)
        return None

    def has(self, *key: object) -> bool:
        """Whether something whole lies under this key."""
        return self.get(*key) is not None

    def put(self, engine: bytes, *key: object) -> None:
        """Keep it; a disk without room only means that it is compiled again next time."""
        path = self._path(key)
        if path is not None:
            try:
                write_durably(path, hashlib.sha256(engine).digest(), engine)
            except SpoolError as error:
                log.warning("a compiled network is not kept: %s", error)

    def remove(self, *key: object) -> None:
        """Forget what a runtime turned down, however whole it is."""
        path = self._path(key)
        if path is not None:
            path.unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove what was not used for two months: it belongs to drivers, packages or options of then."""
        oldest = time.time() - _KEPT_SECONDS
        for path in self._folder.glob(f"*{_SUFFIX}") if self._folder is not None else ():
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _path(self, key: tuple[object, ...]) -> Path | None:
        if self._folder is None:
            return None
        text = "\0".join(str(part) for part in key)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}{_SUFFIX}"
