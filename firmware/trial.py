"""A new system's first boots, in which it must prove itself before a scanner can send to it.

While a slot is on trial, the ports for the hospital stay closed (firmware/systemd/scanside-firewall.service), and the
ledger as the earlier system left it is kept aside. So nothing is acknowledged by a system that may be sent back, and
falling back gives the earlier system the ledger that it can read, even where the new one has brought it to a later
schema. What a power cut left in the spool's landing (`appliance/landing.py`) is kept with it: an image that was
acknowledged may have its row nowhere else. The audit trail stays as the new system leaves it, since nobody takes a line
out of it: that holds as long as it has one schema only, which a test sees to.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR

from firmware.boot import BootBackend, other
from firmware.box import Box
from firmware.durable import Files, flush_folder
from firmware.errors import FirmwareError

_LEDGER = "ledger.sqlite3"


def prepare(box: Box) -> str:
    """Before the appliance starts: keep its ledger aside on trial, or bring it back after a fall-back.

    Returns what was done, as a sentence; empty where nothing was.

    Raises
    ------
    FirmwareError
        The ledger can't be kept or brought back; the appliance must not start on it.
    """
    shutil.rmtree(box.incoming, ignore_errors=True)
    _remove_half_uploads(box.data / "inbox")
    boot = box.boot()
    here, kept, said = boot.current(), _kept(box), []
    good = boot.state(here) == "good"
    if good:
        with suppress(FirmwareError):  # the appliance starts all the same, and so it is judged
            boot.renew_boots()
    tried = _tried(box)
    if tried == other(here) and boot.state(other(here)) != "good":
        with _in_words("brought back", "is the data partition damaged? The next start tries again"):
            _bring_back(box, kept)
        box.remember_if_possible("fell_back", slot=here, version=box.release().version, failed_slot=tried)
        said.append(f"slot {tried} did not prove itself; this system runs again, with the ledger as it left it")
    elif good or tried != here:  # half a copy, or one whose system proved itself: a cut came before it was removed
        _forget(kept)
    if not good and not (kept / "whole").exists():
        with _in_words("kept aside", "the earlier system comes back; make room on its data partition, then try again"):
            _keep(box, kept)
        said.append("the ledger is kept aside until this system has proved itself")
    return "; ".join(said)


def _remove_half_uploads(inbox: Path) -> None:
    """What the page was writing when the power went; nothing else looks at a ``.part``.

    By the folder's descriptor, since the page's process may put a link in the folder's place.
    """
    with suppress(OSError):
        folder = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            for name in os.listdir(folder):  # noqa: PTH208 (a descriptor)
                if name.endswith(".part"):
                    os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)


def forget(box: Box) -> None:
    """The system is good: what was kept aside for its predecessor goes."""
    _forget(_kept(box))


def began(box: Box) -> float | None:
    """When the trial of this system began, its first start, in seconds since 1970; None where it is on none."""
    mark = _kept(box) / "whole"
    return mark.stat().st_mtime if _tried(box) == box.boot().current() else None


def ledger_schema(box: Box) -> int | None:
    """The version of the ledger's schema, which an earlier appliance may not read; None where there is no ledger.

    Raises
    ------
    FirmwareError
        The ledger can't be read.
    """
    ledger = box.data / _LEDGER
    if not ledger.exists():
        return None
    with _in_words("read", "run `scanside ledger verify`"), closing(sqlite3.connect(ledger)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _in_words(done: str, hint: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise FirmwareError(f"the ledger can't be {done}: {error}", hint=hint) from error


def fell_back(boot: BootBackend) -> bool:
    """Whether the other slot was tried and did not prove itself."""
    return boot.state(other(boot.current())) == "bad"


def _kept(box: Box) -> Path:
    return box.firmware_data / "before-trial"


def _tried(box: Box) -> str:
    """The slot for whose trial something was kept aside, as a whole; empty where nothing was."""
    mark = _kept(box) / "whole"
    return mark.read_text().strip() if mark.exists() else ""


def _keep(box: Box, kept: Path) -> None:
    _forget(kept)
    kept.mkdir(mode=0o700, parents=True)
    ledger = box.data / _LEDGER
    if ledger.exists():
        _copy_database(ledger, kept / _LEDGER)
    if not _no_folders(box):
        _link(_landing(box), kept / "landing")
    # The mark comes last: a copy without it is half a copy, and is made again.
    Files().write(kept / "whole", box.boot().current().encode())
    flush_folder(kept.parent)


def _bring_back(box: Box, kept: Path) -> None:
    """Needs no room. The mark stays until all is in place, so that a cut in between is made good by going on.

    What belongs to the later ledger goes first: SQLite would take its log for that of the one that comes back.
    """
    ledger = kept / _LEDGER
    if ledger.exists():
        for ending in ("-wal", "-shm", "-journal"):
            Files().remove(box.data / (_LEDGER + ending))
        ledger.chmod(0o600)
        _same_owner(box.data, ledger)
        Files().rename(ledger, box.data / _LEDGER)
        flush_folder(kept)
    if (kept / "landing").exists():
        for each in _no_folders(box):
            each.unlink(missing_ok=True)
        _link(kept / "landing", _landing(box))
    _forget(kept)


def _landing(box: Box) -> Path:
    return box.data / "spool" / "landing"


def _no_folders(box: Box) -> list[Path]:
    """What is no folder on the way to the spool's landing, such as a link: root would write wherever that leads.

    The appliance's user owns these folders. Nothing of that user runs yet, so what is found is what is there.
    """
    landing = _landing(box)
    return [path for path in (landing.parent, landing) if os.path.lexists(path) and not S_ISDIR(path.lstat().st_mode)]


def _link(source: Path, target: Path) -> None:
    """The files of a folder in another one, too; those that are there stay."""
    files = [path for path in source.glob("*") if path.is_file() and not path.is_symlink()]
    if not files:
        return
    for folder in (target.parent, target):
        if not folder.exists():
            folder.mkdir()
            _same_owner(folder.parent, folder)
    for path in files:
        there = target / path.name
        if there.is_symlink():
            there.unlink()
        if not there.exists():
            there.hardlink_to(path)
    flush_folder(target)


def _copy_database(source: Path, target: Path) -> None:
    """All that was committed, its write-ahead log included, and checked."""
    if source.is_symlink():  # its user would get what that leads to
        raise FirmwareError(f"{source} is a link, and the appliance lays none", hint="put the ledger itself there")
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
    if kept.exists():
        Files().remove(kept / "whole")
    shutil.rmtree(kept, ignore_errors=True)
