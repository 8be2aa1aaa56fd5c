"""What is handed to a box, on a stick or on its page: taken in one order, each where it is signed.

``site.toml`` (configuration), ``certificate.pem``, ``*.scanside`` (models), ``*.raucb`` (an update), and, from a stick,
``service.token``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from firmware import datadisk, models, provisioning, service, trial, update
from firmware.box import Box
from firmware.errors import FirmwareError
from firmware.incoming import own_copy

Say = Callable[[str], None]


@dataclass
class Outcome:
    """A sentence for each thing that was done or refused, and what follows.

    Attributes
    ----------
    restart
        An update is installed: the box has to start again to try it.
    changed
        What is read at a start was changed.
    """

    said: list[str] = field(default_factory=list)
    restart: bool = False
    changed: bool = False

    def follow(self, box: Box, restart: Callable[[], None], reload: Callable[[Box], None]) -> None:
        """Start again what has to."""
        if self.restart:
            restart()
        elif self.changed:
            reload(box)


def take(box: Box, folder: Path, say: Say, by_hand: bool) -> Outcome:
    """Everything in a folder that is known and signed.

    Parameters
    ----------
    say
        Told how far an update is.
    by_hand
        Somebody stands at the box: a service token counts.
    """
    outcome = Outcome()
    for what, act in _acts(box, folder, say, by_hand):
        try:
            done, again = act()
        except FirmwareError as error:
            outcome.said.append(f"{what}: REFUSED: {error}")
        # A worn stick, a full disk, no text.
        except (OSError, LookupError, ValueError, subprocess.SubprocessError) as error:
            outcome.said.append(f"{what}: REFUSED: it can't be taken: {error}")
        else:
            outcome.said.append(f"{what}: {done}")
            outcome.restart |= again
            outcome.changed |= what in ("site.toml", "certificate.pem")
    return outcome


def start_anew(box: Box) -> None:
    """What reads the configuration reads it again."""
    datadisk.use_site(box)
    units = ("systemd-networkd", "systemd-timesyncd", "scanside-firewall", "scanside")
    subprocess.run(["systemctl", "restart", *units], check=False, timeout=600)


def _acts(box: Box, folder: Path, say: Say, by_hand: bool) -> Iterator[tuple[str, Callable[[], tuple[str, bool]]]]:
    site, certificate, token = (folder / name for name in ("site.toml", "certificate.pem", "service.token"))
    if site.exists():
        yield site.name, lambda: (_configure(box, site, by_hand), False)
    if certificate.exists():
        yield certificate.name, lambda: (provisioning.take_certificate(box, certificate), False)
    for path in sorted(folder.glob("*.scanside")):
        yield path.name, lambda path=path: (models.install(box, path), False)  # type: ignore[misc]
    for path in sorted(folder.glob("*.raucb")):
        yield path.name, lambda path=path: _copied_update(box, path, say)  # type: ignore[misc]
    if by_hand and token.exists():
        yield token.name, lambda: (service.open_shell(box, token.read_text()), False)


def _configure(box: Box, site: Path, by_hand: bool) -> str:
    said = f"configuration {provisioning.apply(box, site)} is in place"
    if provisioning.people(box) and not by_hand:  # a stick brings their codes back
        said += "; invite whom it names on the page Accounts"
    return said


def _copied_update(box: Box, path: Path, say: Say) -> tuple[str, bool]:
    with own_copy(box, path) as mine:
        return _update(box, mine, say)


def _update(box: Box, path: Path, say: Say) -> tuple[str, bool]:
    """Not again what runs, nor what has failed here: a stick is still there after the restart."""
    offered = update.judge(box, path)
    if offered.version == box.release().version:
        return f"{offered} runs already", False
    history = box.history()
    failed = [line for line in history if line["event"] == "failed" and line.get("version") == offered.version]
    if failed:
        return f"{offered} was tried here and did not prove itself: {failed[-1].get('why')}", False
    installed = [line["version"] for line in history if line["event"] == "installed"]
    if trial.fell_back(box.boot()) and installed[-1:] == [offered.version]:  # it hung, and could write no event
        return f"{offered} was tried here and used up its starts; `scanside-firmware update install` tries again", False

    def progress(percent: int, what: str) -> None:
        if percent % 10 == 0:
            say(f"{path.name}: {percent:3} %  {what}")

    update.write(box, path, offered, progress)
    return f"{offered} is installed; the box starts again to try it", True
