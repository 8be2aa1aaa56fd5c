"""A stick or disk with the label SCANSIDE: what a field engineer brings, without a keyboard.

Taken in this order, each where it is there and signed: ``site.toml`` (configuration), ``certificate.pem``,
``*.scanside`` (models), ``*.raucb`` (an update), ``service.token``. What came of it is written to
``scanside-<box>/``, with logs, and the request for a certificate.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from firmware import datadisk, models, provisioning, service, update
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError

Say = Callable[[str], None]


def take(
    box: Box,
    folder: Path,
    say: Say = lambda _: None,
    restart: Callable[[], None] = update.restart,
    reload: Callable[[Box], None] | None = None,
) -> list[str]:
    """Everything on a stick; a sentence for each thing that was done or refused.

    ``say`` is told them once they lie on the stick, before anything starts again; and how far an update is.
    """
    said: list[str] = []
    restarts = changed = False
    for what, act in _acts(box, folder, say):
        try:
            done, again = act()
        except FirmwareError as error:
            said.append(f"{what}: REFUSED: {error}")
        else:
            said.append(f"{what}: {done}")
            restarts |= again
            changed |= what in ("site.toml", "certificate.pem") or what.endswith(".scanside")
    answer = folder / f"scanside-{provisioning.machine_id(box)}"
    try:
        provisioning.export_logs(box, answer)
        Files().write(answer / "request.csr", provisioning.request(box, f"scanside-{provisioning.machine_id(box)}"))
        lines = (time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), *said, "")
        Files().write(answer / "what-happened.txt", "\n".join(lines).encode())
    except OSError as error:
        said.append(f"the stick can't be written: {error.strerror}; nothing of the above is less true")
    else:
        said.append(f"what happened, with logs, lies on the stick in {answer.name}")
    os.sync()
    for line in said:
        say(line)
    if restarts:
        restart()
    elif changed:
        (reload or start_anew)(box)
    return said


def start_anew(box: Box) -> None:
    """What reads the configuration reads it again."""
    datadisk.use_site(box)
    units = ("systemd-networkd", "systemd-timesyncd", "scanside-firewall", "scanside")
    subprocess.run(["systemctl", "restart", *units], check=False, timeout=600)


def _acts(box: Box, folder: Path, say: Say) -> Iterator[tuple[str, Callable[[], tuple[str, bool]]]]:
    site, certificate, token = (folder / name for name in ("site.toml", "certificate.pem", "service.token"))
    if site.exists():
        yield site.name, lambda: (f"configuration {provisioning.apply(box, site)} is in place", False)
    if certificate.exists():
        yield certificate.name, lambda: (provisioning.take_certificate(box, certificate), False)
    for path in sorted(folder.glob("*.scanside")):
        yield path.name, lambda path=path: (models.install(box, path), False)  # type: ignore[misc]
    for path in sorted(folder.glob("*.raucb")):
        yield path.name, lambda path=path: _update(box, path, say)  # type: ignore[misc]
    if token.exists():
        yield token.name, lambda: (service.open_shell(box, token.read_text()), False)


def _update(box: Box, path: Path, say: Say) -> tuple[str, bool]:
    """Not again what runs, nor what has failed here: the stick is still there after the restart."""
    offered = update.judge(box, path)
    if offered.version == box.release().version:
        return f"{offered} runs already", False
    failed = [line for line in box.history() if line["event"] == "failed" and line.get("version") == offered.version]
    if failed:
        return f"{offered} was tried here and did not prove itself: {failed[-1].get('why')}", False

    def progress(percent: int, what: str) -> None:
        if percent % 10 == 0:
            say(f"{path.name}: {percent:3} %  {what}")

    update.write(box, path, offered, progress)
    return f"{offered} is installed; the box starts again to try it", True
