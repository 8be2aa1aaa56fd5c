"""What is handed to a box, on a stick or on its page: taken in one order, each where it is signed.

``site.toml`` (configuration, with ``files/``), ``certificate.pem``, ``*.scanside`` (models), ``*.raucb`` (an update),
and, from a stick, ``service.token``; from the page alone, and unsigned, ``site.json``, a configuration that was entered
there. While the data partition does not open, ``recovery-key.txt`` and ``service.token`` alone are.
A system on trial takes nothing but a token: the earlier one may come back, and would meet what it can't read.
"""

from __future__ import annotations

import contextlib
import errno
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from firmware import datadisk, health, labels, models, provisioning, service, site_files, trial, update
from firmware.boot import on_trial
from firmware.box import Box
from firmware.errors import FirmwareError
from firmware.incoming import own_copy

Say = Callable[[str], None]
ENTERED = "what was entered"
_TOKEN = "service.token"  # noqa: S105 (its name)
WAITS = "waits until this system, which is on trial, has proved itself; it is taken then, or by the earlier system"


class Follows(IntEnum):
    """What has to happen for a thing to count."""

    NOTHING = 0  # a stick is still there after a start: what it brought then stands already
    RELOAD = 1  # what is read at a start was changed
    RESTART = 2  # an update is installed, and is to be tried


Act = Callable[[], tuple[str, Follows]]
_AGAIN = "take a later bundle, or try this one again in service mode: `scanside-firmware update install`"


@dataclass
class Outcome:
    """A sentence for each thing that was done or refused, and what follows.

    Attributes
    ----------
    follows
        The most of what they ask for.
    configured
        A configuration was taken, and was not before.
    commissioned
        A configuration was, now or before: whoever brought it has what the site has signed, or its administrator's
        account.
    waits
        Nothing was taken, since the system is on trial.
    """

    said: list[str] = field(default_factory=list)
    follows: Follows = Follows.NOTHING
    configured: bool = False
    commissioned: bool = False
    waits: bool = False

    def try_out(self, box: Box, reload: Callable[[Box], str | None]) -> list[str]:
        """Have what was changed read, before an update that came with it is tried; what came of it.

        A configuration with which the appliance does not start is not kept where there was one before: that one has
        served here, and a hospital is better off with it than with neither.
        """
        untried = provisioning.is_untried(box)  # also where a cut came before it was tried
        if self.follows is not Follows.RELOAD and not untried:
            return []
        if not (why := reload(box)):
            if untried:
                with contextlib.suppress(OSError):  # then it is tried at the next start, too
                    provisioning.has_served(box)
            troubled = health.certificates(box.configuration, health.scanside)
            lacks = [f"{each['path']} ({each['what']}): {each['trouble']}" for each in troubled]
            return ["the appliance has started with it", *(f"still to be put right: {each}" for each in lacks)]
        said = [f"the appliance does NOT start with it: {why}"]
        now, before = provisioning.number_in_force(box), provisioning.number_before(box)
        if before is None:
            return [*said, "mend what it says, and bring it again: nothing is received or read until then"]
        try:
            provisioning.go_back(box, before, did_not_start=now)
        except (FirmwareError, OSError, ValueError) as error:
            return [*said, f"configuration {now} stays, since {before} can't be put back: {error}"]
        again = reload(box)
        runs = f", and the appliance does not start with it either: {again}" if again else ", and the appliance runs"
        return [*said, f"configuration {now} is left: {before} is in place again{runs}"]


def take(box: Box, folder: Path, say: Say, by_hand: bool) -> Outcome:
    """Everything in a folder that is known and signed.

    Parameters
    ----------
    say
        Told how far an update is.
    by_hand
        Somebody stands at the box: a service token counts.
    """
    outcome = Outcome(waits=box.data_is_open() and on_trial(box.boot()))
    try:
        acts = list(_acts(box, folder, say, by_hand))
    except OSError as error:  # it was pulled out, or is worn
        outcome.said.append(f"nothing was taken: {_why(error)}")
        return outcome
    for what, act in acts:
        if outcome.waits and what != _TOKEN:
            outcome.said.append(f"{what}: {WAITS}")
            continue
        try:
            done, follows = act()
        except FirmwareError as error:
            outcome.said.append(f"{what}: REFUSED: {error}")
        # Whatever may lie on a stick: what was taken is told and tried all the same.
        except Exception as error:  # noqa: BLE001
            outcome.said.append(f"{what}: REFUSED: it can't be taken: {_why(error)}")
        else:
            outcome.said.append(f"{what}: {done}")
            outcome.follows = max(outcome.follows, follows)
            outcome.commissioned |= (is_site := what in ("site.toml", ENTERED))
            outcome.configured |= is_site and follows is Follows.RELOAD
    return outcome


def _why(error: Exception) -> str:
    """What went wrong and what to do, where nobody has foreseen it."""
    match getattr(error, "errno", None):
        case errno.ENOSPC:
            return f"{error}: the data partition is full; have results sent and remove old ones, then bring it again"
        case errno.EIO | errno.ENODEV | errno.ENXIO | errno.ESTALE:
            return f"{error}: it was pulled out too early, or is worn; bring it again, or on another stick"
    return str(error) or type(error).__name__


def start_anew(box: Box) -> str:
    """What reads the configuration reads it again; why the appliance does not start with it, '' where it does.

    systemd waits for its word that it is ready, or that it ended.
    """
    datadisk.use_site(box)
    for units in (("systemd-networkd", "systemd-timesyncd", "scanside-firewall"), ("scanside",)):
        try:
            done = subprocess.run(["systemctl", "restart", *units], check=False, timeout=600)
        except subprocess.TimeoutExpired:
            return "it is not ready after 10 minutes"
    return "" if done.returncode == 0 else health.last_words() or "it has said nothing"


def try_what_is_untried(box: Box) -> None:
    """At a start: a configuration that a cut has kept from being tried is, by the inbox's unit, and left if need be."""
    if provisioning.is_untried(box):
        subprocess.run(["systemctl", "start", "--no-block", "scanside-inbox.service"], check=False, timeout=60)


def take_what_waits() -> None:
    """This system is good now: the sticks that are still there, and the page's inbox, are looked through again."""
    units = ["scanside-inbox.path"]
    with contextlib.suppress(FirmwareError):  # they can be plugged in again
        units += [f"scanside-stick@{name}.service" for name in labels.sticks()]
    subprocess.run(["systemctl", "start", "--no-block", *units], check=False, timeout=60)


def _acts(box: Box, folder: Path, say: Say, by_hand: bool) -> Iterator[tuple[str, Act]]:
    if box.data_is_open():
        yield from _taken_when_open(box, folder, say, by_hand)
    else:
        yield from _taken_when_closed(box, folder)
    token = folder / _TOKEN
    if by_hand and token.exists():
        yield token.name, lambda: (service.open_shell(box, token.read_text()), Follows.NOTHING)


def _taken_when_closed(box: Box, folder: Path) -> Iterator[tuple[str, Act]]:
    key = folder / "recovery-key.txt"
    if key.exists():
        yield key.name, lambda: (datadisk.recover(box, key.read_text()), Follows.RESTART)


def _taken_when_open(box: Box, folder: Path, say: Say, by_hand: bool) -> Iterator[tuple[str, Act]]:
    site, certificate = folder / "site.toml", folder / "certificate.pem"
    if site.exists():
        yield site.name, lambda: _configure(box, site, by_hand)
    elif (folder / site_files.FOLDER).exists():
        yield f"{site_files.FOLDER}/", _without_site
    elif (entered := folder / "site.json").exists() and not by_hand:
        yield ENTERED, lambda: (f"configuration {provisioning.enter(box, entered)} is in place", Follows.RELOAD)
    if certificate.exists():
        yield certificate.name, lambda: _certify(box, certificate)
    packages = models.Packages(box, folder)
    for path in packages.paths:
        yield path.name, lambda path=path: (packages.install(path), Follows.NOTHING)  # type: ignore[misc]
    for path in sorted(folder.glob("[!.]*.raucb")):  # macOS lays a ._NAME beside each file
        yield path.name, lambda path=path: _copied_update(box, path, say)  # type: ignore[misc]


def _without_site() -> NoReturn:
    raise FirmwareError("what is in it goes with a configuration", hint="bring site.toml and site.toml.sig with it")


def _configure(box: Box, site: Path, by_hand: bool) -> tuple[str, Follows]:
    if known := provisioning.known(box, site):
        return known, Follows.NOTHING
    said = f"configuration {provisioning.apply(box, site)} is in place"
    if provisioning.people(box) and not by_hand:  # a stick brings their codes back
        said += "; invite whom it names on the page Accounts"
    return said, Follows.RELOAD


def _certify(box: Box, certificate: Path) -> tuple[str, Follows]:
    said, other = provisioning.take_certificate(box, certificate)
    return said, Follows.RELOAD if other else Follows.NOTHING


def _copied_update(box: Box, path: Path, say: Say) -> tuple[str, Follows]:
    with own_copy(box, path) as mine:
        return _update(box, mine, say)


def _update(box: Box, path: Path, say: Say) -> tuple[str, Follows]:
    """Not again what runs, nor what has failed here: a stick is still there after the restart."""
    offered = update.judge(box, path)
    if offered.key() == box.release().key():
        return f"{offered} runs already", Follows.NOTHING
    history = box.history()
    failed = [line for line in history if line["event"] == "failed" and offered.is_of(line)]
    if failed:
        return f"{offered} was tried here and did not prove itself: {failed[-1].get('why')}; {_AGAIN}", Follows.NOTHING
    installed = [line for line in history if line["event"] == "installed"]
    if trial.fell_back(box.boot()) and installed and offered.is_of(installed[-1]):  # it hung, and could write no event
        return f"{offered} was tried here and used up its starts; {_AGAIN}", Follows.NOTHING

    def progress(percent: int, what: str) -> None:
        if percent % 10 == 0:
            say(f"{path.name}: {percent:3} %  {what}")

    update.write(box, path, offered, progress)
    return f"{offered} is installed; the box starts again to try it", Follows.RESTART
