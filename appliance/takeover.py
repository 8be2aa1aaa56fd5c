"""What an earlier run has left, and how a start takes it up: the data folder, half-written files, the ledger."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import time
from pathlib import Path
from typing import IO

from appliance import landing
from appliance.config import Config
from appliance.errors import ApplianceError, ConfigError, DiskFullError, SpoolError
from appliance.ingest import Intake
from appliance.ingest.storage_scp import StorageScp
from appliance.spool import Spool, clean_temporary_files
from appliance.store import Store

log = logging.getLogger("scanside.takeover")

_ROOM_SECONDS = 1.0  # between looks at a full disk


def lock(folder: Path) -> IO[str]:
    """The open lock file of a data folder; closing it, or the end of the process, gives the folder back."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise ConfigError(
            f"the data folder {folder} can't be used: {error.strerror}", hint="choose another with --data"
        ) from error
    # A killed appliance's children hold nothing of this lock, but the kernel may need a moment to end it.
    for _ in range(20):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(0.1)
    raise ApplianceError(f"another scanside runs on {folder}", hint="stop it, or choose another folder with --data")


def clean(config: Config) -> None:
    """Remove what was half written."""
    cleaned = sum(
        clean_temporary_files(folder)
        for folder in (config.spool_path, config.results_path, config.previews_path, config.engines_path)
        if folder.exists()
    )
    if cleaned:
        log.info("removed %d files that an earlier run left half written", cleaned)


def ledger(config: Config) -> Store:
    """The ledger, with all that an earlier run had begun given back.

    Where the disk is too full to write that down, scanners are answered so until there is room.
    """
    try:
        return _ledger(config)
    except DiskFullError as error:
        log.error("nothing is taken until there is room: %s", error)
    with contextlib.ExitStack() as stack:
        if config.storage_scp.enabled:
            intake = Intake(Spool.without_room(config.spool_path), Store(config.ledger_path, read_only=True), _nobody)
            scp = StorageScp(config.storage_scp, intake, config.data)
            scp.start()
            stack.callback(scp.stop)
        while True:
            time.sleep(_ROOM_SECONDS)
            with contextlib.suppress(DiskFullError):
                return _ledger(config)


def _ledger(config: Config) -> Store:
    spool = Spool(config.spool_path)
    spool.make_folders()
    store = Store(config.ledger_path)
    try:
        landed = landing.recover(spool, store)
        released = store.release_all("the appliance was restarted")
        store.abort_open_transfers()
        store.set_component("worker", {"state": "starting"})  # in place of an earlier run's last words
    except SpoolError:
        store.close()
        raise
    if landed:
        log.info("%d files that had just been received were looked at", landed)
    if released:
        log.info("%d instances that an earlier run had begun are read again", released)
    return store


def _nobody() -> None:
    """Nothing has come that anybody had to be told of."""
