"""An update's steps on a box that is a folder: a bundle, a command, a ledger of its version, a trial, a verdict."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from firmware import bundle, health
from firmware.box import Box
from firmware.cli import main
from firmware.policy import Offered
from tests.firmware.boxes import BOARD, start

RAUC = shutil.which("rauc")
needs_rauc = pytest.mark.skipif(
    RAUC is None or shutil.which("mksquashfs") is None, reason="Debian packages rauc and squashfs-tools"
)
FINE = [health.Finding("service", ok=True, detail="runs")]
BROKEN = [health.Finding("receipt", ok=False, detail="none yet"), *FINE]


def make_bundle(folder: Path, keys_: Path, version: str = "2.0.0", epoch: int = 1, board: str = BOARD) -> Path:
    content = folder / f"content-{version}"
    content.mkdir(parents=True)
    (content / "root.img").write_bytes(os.urandom(700_000))
    for slot in ("a", "b"):
        (content / f"{slot}.efi").write_text(f"{slot} {version}|whole")
    target = folder / f"{version}-{epoch}-{board}.raucb"
    bundle.make(content, Offered(version, epoch, board), keys_, target)
    return target


def command(box: Box, *arguments: str | Path) -> str:
    done = CliRunner().invoke(main, ["update", *map(str, arguments), "--root", str(box.root)])
    return f"{done.exit_code} {done.output}"


def ledger(box: Box, version: int, rows: int) -> None:
    """As an appliance leaves it: WAL, not closed."""
    with sqlite3.connect(box.data / "ledger.sqlite3") as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE IF NOT EXISTS instances (uid TEXT)")
        connection.executemany("INSERT INTO instances VALUES (?)", [(f"1.2.{n}",) for n in range(rows)])
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()


def ledger_is(box: Box) -> tuple[int, int]:
    connection = sqlite3.connect(box.data / "ledger.sqlite3")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    count = connection.execute("SELECT count(*) FROM instances").fetchone()[0]
    connection.close()
    return version, count


def on_trial(box: Box) -> Path:
    """Version 2.0.0 runs in slot b for the first time; the folder of the loader's entries."""
    entries = box.esp / "loader" / "entries"
    (box.esp / "EFI/scanside/b.efi").write_text("b 2.0.0|whole")
    (entries / "scanside-b+2-1.conf").write_text("version 2\nefi /EFI/scanside/b.efi\n")
    start(box, "b", "2.0.0")
    return entries


def judged(box: Box, findings: list[health.Finding], monkeypatch: pytest.MonkeyPatch) -> str:
    """``update confirm``, as the box calls it after each start."""
    with monkeypatch.context() as patched:
        patched.setattr(health, "wait_until_fit", lambda look, seconds, say: findings)
        patched.setattr(time, "sleep", lambda seconds: None)
        return command(box, "confirm")


def raise_(error: BaseException) -> object:
    def act(*_: object, **__: object) -> None:
        raise error

    return act
