"""What an administrator hands over on the page, and what the page shows of the box.

The page's process has no rights: it leaves files in ``inbox/`` of its data folder and ends with ``go``, for which a
unit of systemd waits. They are copied from there before they are looked at, so that nobody changes what was verified.
The page reads `Box.report`, which only this package writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from firmware import datadisk, handover, network, provisioning, site_files, update
from firmware.boot import SLOTS, on_trial
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError
from firmware.incoming import alone, refuse_without_room

_NAMES = re.compile(r"site\.(json|toml(\.sig)?)|certificate\.pem|[A-Za-z0-9][A-Za-z0-9._+-]{0,99}\.(scanside|raucb)")
_MOST_LINES = 40


def hold() -> None:
    """``go`` stays, and systemd would start the taking again at once; `handover.take_what_waits` ends this."""
    subprocess.run(["systemctl", "stop", "scanside-inbox.path"], check=False, timeout=60)


def take(
    box: Box,
    tell: handover.Say = lambda _: None,
    restart: Callable[[], None] = update.restart,
    reload: Callable[[Box], str | None] = handover.start_anew,
    hold: Callable[[], None] = hold,
) -> list[str]:
    """What lies in the inbox, as a stick without somebody who stands at the box; a sentence for each thing.

    ``tell`` is told them before anything starts again, and how far an update is. On trial all stays where it lies.
    """
    if on_trial(box.boot()):
        hold()
        if on_trial(box.boot()):
            waits = f"what was handed over {handover.WAITS}"
            tell(waits)
            write_report(box, said=[waits])
            return [waits]
        handover.take_what_waits()  # again: it has proved itself meanwhile, and what that started was stopped by `hold`
    with alone(box, tell):
        return _take(box, tell, restart, reload)


def _take(
    box: Box,
    tell: handover.Say,
    restart: Callable[[], None],
    reload: Callable[[Box], str | None],
) -> list[str]:
    own = box.incoming / "page"
    said: list[str] = []

    def say(line: str) -> None:
        tell(line)
        said.append(line)
        write_report(box, working=True, said=said)

    try:
        with _opened(box.data / "inbox") as (inbox, asked):
            write_report(box, working=True)
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir(parents=True)
            refused = [f"{name}: REFUSED: {why}" for name, why in _fetch(inbox, own)]
        outcome = handover.take(box, own, say, by_hand=False)
        said = [*refused, *outcome.said]
        if asked:
            said = said or ["nothing that a box takes was handed over"]
            box.remember_if_possible("handed_over", said=said)
    finally:  # otherwise the page would wait for it forever
        shutil.rmtree(own, ignore_errors=True)
        write_report(box, said=said)
    for line in said:
        tell(line)
    if tried := outcome.try_out(box, reload):
        said = [*said, *tried]
        write_report(box, said=said)
        for line in tried:
            tell(line)
    if outcome.follows is handover.Follows.RESTART:
        restart()
    return said


@contextlib.contextmanager
def _opened(inbox: Path) -> Iterator[tuple[int | None, bool]]:
    """The folder's descriptor, None where there is none; and whether there was a ``go``, which is removed.

    There is none where a start wants to have tried what a cut has kept from it.

    The page's process may put a link to any folder in its place, or do so later: all is done by the descriptor.
    """
    try:
        folder = os.open(inbox, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None, False
        return
    except NotADirectoryError:  # a link, too
        inbox.unlink()
        yield None, True
        return
    try:
        asked = False
        with contextlib.suppress(FileNotFoundError):
            os.unlink("go", dir_fd=folder)
            asked = True
        yield folder, asked
    finally:
        os.close(folder)


def _fetch(inbox: int | None, own: Path) -> list[tuple[str, str]]:
    """Copy what has a name that is known, and empty the inbox; what could not be copied, and why."""
    failed = []
    for name in sorted(os.listdir(inbox)) if inbox is not None else ():  # noqa: PTH208 (a descriptor)
        if name.endswith(".part"):
            continue  # the page is writing it
        try:
            if _NAMES.fullmatch(name) or site_files.NAME.fullmatch(name):
                # What the page's process may have laid there is not followed, and no pipe is waited for.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
                with os.fdopen(os.open(name, flags, dir_fd=inbox), "rb") as source:
                    if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                        raise OSError(0, "it is no file")
                    refuse_without_room(name, os.fstat(source.fileno()).st_size, own)
                    with _place(own, name).open("xb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
            os.unlink(name, dir_fd=inbox)
        except (OSError, FirmwareError) as error:
            failed.append((name, f"it can't be taken: {error.strerror if isinstance(error, OSError) else error}"))
            _place(own, name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=inbox)
    return failed


def _place(own: Path, name: str) -> Path:
    """As on a stick, where what goes with a configuration lies in a folder."""
    if _NAMES.fullmatch(name):
        return own / name
    (own / site_files.FOLDER).mkdir(mode=0o700, exist_ok=True)  # passwords may be among them
    return own / site_files.FOLDER / name


def write_report(box: Box, working: bool = False, said: list[str] | None = None) -> None:
    """What the page shows of the box: its system and slots, its site, what happened to it, and what happens now."""
    boot, image = box.boot(), box.image()
    site = box.configuration.with_name("site.json")
    report: dict[str, Any] = {
        "at": time.time(),
        "box": box.identity(),
        "version": image["version"],
        "board": image["board"],
        "slot": boot.current(),
        "slots": {slot: boot.state(slot) for slot in SLOTS},
        "site": json.loads(site.read_text()) if site.exists() else None,
        "may_enter": provisioning.may_enter(box),
        "ports": network.ports(box),
        "recovery_key_waits": datadisk.waits(box).exists(),
        "history": box.history()[-_MOST_LINES:],
        "working": working,
        "said": (said or [])[-_MOST_LINES:],
    }
    try:
        request = provisioning.request(box, f"scanside-{report['box']}")
        report["request"] = request.decode()
    except (FirmwareError, OSError, ValueError) as error:  # a full disk, a damaged key: the rest is true all the same
        report["request_failed"] = str(error)
    Files().write(box.report, json.dumps(report).encode())
    box.report.chmod(0o644)


def try_report(box: Box) -> None:
    """The same; a box that can't say how it is goes on all the same."""
    with contextlib.suppress(FirmwareError, OSError, ValueError):
        write_report(box)
