"""A new system's first boots, in which it must prove itself before a scanner can send to it.

While a slot is on trial, the ports for the hospital stay closed (firmware/systemd/scanside-firewall.service), and the
ledger as the earlier system left it is kept aside. So nothing is acknowledged by a system that may be sent back, and
falling back gives the earlier system the ledger that it can read, even where the new one has brought it to a later
schema. What a power cut left in the spool's landing (`appliance/landing.py`) is kept with it: an image that was
acknowledged may have its row nowhere else.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from firmware.boot import BootBackend, other
from firmware.box import Box
from firmware.durable import flush_folder
from firmware.errors import FirmwareError

_LEDGER = "ledger.sqlite3"


def prepare(box: Box) -> str:
    """Before the appliance starts: keep its ledger aside on trial, or bring it back after a fall-back.

    Returns what was done, as a sentence; empty where nothing was.
    """
    shutil.rmtree(box.incoming, ignore_errors=True)
    boot = box.boot()
    kept = _kept(box)
    here = boot.state(boot.current())
    if here == "trial":
        if not (kept / "whole").exists():
            _keep(box, kept)
            return "the ledger is kept aside until this system has proved itself"
        return ""
    if not (kept / "whole").exists():
        _forget(kept)
        return ""
    owner = (kept / "whole").read_text().strip()
    if owner == boot.current():  # it was on trial and is good now: a cut came before the copy was removed
        _forget(kept)
        return ""
    _bring_back(box, kept)
    box.remember("fell_back", slot=boot.current(), version=box.release().version, failed_slot=owner)
    return f"slot {owner} did not prove itself; this system runs again, with the ledger as it left it"


def forget(box: Box) -> None:
    """The system is good: what was kept aside for its predecessor goes."""
    _forget(_kept(box))


def fell_back(boot: BootBackend) -> bool:
    """Whether the other slot was tried and did not prove itself."""
    return boot.state(other(boot.current())) == "bad"


def _kept(box: Box) -> Path:
    return box.firmware_data / "before-trial"


def _keep(box: Box, kept: Path) -> None:
    _forget(kept)
    kept.mkdir(parents=True)
    ledger = box.data / _LEDGER
    if ledger.exists():
        _copy_database(ledger, kept / _LEDGER)
    _link(_landing(box), kept / "landing")
    # The mark comes last: a copy without it is half a copy, and is made again.
    (kept / "whole").write_text(box.boot().current())
    flush_folder(kept)
    flush_folder(kept.parent)


def _bring_back(box: Box, kept: Path) -> None:
    """The mark stays until all is in place, so that a cut in between is made good by doing it again."""
    ledger = box.data / _LEDGER
    if (kept / _LEDGER).exists():
        temporary = ledger.with_name(f".{_LEDGER}.part")
        _copy_database(kept / _LEDGER, temporary)
        for ending in ("-wal", "-shm"):  # they belong to the later ledger
            ledger.with_name(_LEDGER + ending).unlink(missing_ok=True)
        shutil.copystat(kept / _LEDGER, temporary)
        _same_owner(box.data, temporary)
        temporary.replace(ledger)
        flush_folder(ledger.parent)
    _link(kept / "landing", _landing(box))
    _forget(kept)


def _landing(box: Box) -> Path:
    return box.data / "spool" / "landing"


def _link(source: Path, target: Path) -> None:
    """The files of a folder in another one, too; those that are there stay."""
    files = [path for path in source.glob("*") if path.is_file() and not path.is_symlink()]
    if not files:
        return
    if not target.exists():
        target.mkdir(parents=True)
        _same_owner(target.parent, target)
    for path in files:
        if not (target / path.name).exists():
            (target / path.name).hardlink_to(path)
    flush_folder(target)


def _copy_database(source: Path, target: Path) -> None:
    """All that was committed, its write-ahead log included, and checked."""
    target.unlink(missing_ok=True)
    # Opened for writing, since a ledger that a power cut left is brought up from its log first.
    with sqlite3.connect(source) as original, sqlite3.connect(target) as copy:
        original.backup(copy)
        if copy.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise FirmwareError(f"the ledger {source} is damaged", hint="run `scanside ledger verify`")
    original.close()
    copy.execute("PRAGMA journal_mode = DELETE")
    copy.close()
    with target.open("rb+") as file:
        os.fsync(file.fileno())


def _same_owner(like: Path, path: Path) -> None:
    known = like.stat()
    if os.geteuid() == 0:
        os.chown(path, known.st_uid, known.st_gid)


def _forget(kept: Path) -> None:
    (kept / "whole").unlink(missing_ok=True)
    shutil.rmtree(kept, ignore_errors=True)
