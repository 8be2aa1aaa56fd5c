"""A signed bundle into the other slot, and the decision over the system that then runs.

RAUC verifies and writes; it calls this package back as its boot-loader backend and as its handler before the install
(firmware/image/files/etc/rauc/system.conf).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from firmware import bundle, health, labels, trial
from firmware.boot import BootBackend, SlotName, named, on_trial, other, refuse_on_trial
from firmware.box import Box
from firmware.errors import FirmwareError, RefusedError
from firmware.incoming import alone, own_copy
from firmware.policy import Offered, check, check_clock

_PERCENT = re.compile(r"^\s*(\d+)%\s+(.*)$")


def judge(box: Box, path: Path, allow_older: bool = False) -> Offered:
    """Verify a bundle in full, and whether this box takes it; nothing is touched.

    Raises
    ------
    FirmwareError
        With the reason; it is in the history, too.
    """
    try:
        check_clock(box.image()["built_at"])
        offered = bundle.verify(path, box.trust / "update-ca.pem")
        check(offered, box.image()["compatible"], box.floor(), allow_older)
    except FirmwareError as error:
        box.remember("refused", bundle=path.name, why=error.message)
        raise
    return offered


def install(box: Box, path: Path, say: Callable[[int, str], None], allow_older: bool = False) -> Offered:
    """Write a bundle into the slot that does not run, and let that start next, on trial.

    Parameters
    ----------
    say
        Called with percent and what happens.

    Raises
    ------
    RefusedError
        This box does not take it, or the system that runs has not proved itself yet.
    FirmwareError
        RAUC did not install it; the slot that runs stays what starts.
    """
    refuse_on_trial(box.boot())
    with alone(box, lambda what: say(0, what)), own_copy(box, path) as mine:
        offered = judge(box, mine, allow_older)
        write(box, mine, offered, say)
    return offered


def write(box: Box, path: Path, offered: Offered, say: Callable[[int, str], None]) -> None:
    """What `install` does with a bundle that was judged."""
    boot = box.boot()
    refuse_on_trial(boot)
    labels.check(box.slots())  # RAUC finds the slot by its label; a second flashed disk may have come since the start
    say(0, f"{path.name} is whole and signed: {offered}")
    command = ["rauc", "install", str(path)]  # its service knows the slot by the kernel's command line
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        lines = []
        for line in running.stdout:
            lines += [line.strip()] if line.strip() else []
            if match := _PERCENT.match(line):
                say(int(match[1]), match[2].strip())
    if running.returncode:
        why = next((line for line in reversed(lines) if "rror" in line), lines[-1] if lines else "no reason was given")
        box.remember("failed", bundle=path.name, why=why)
        raise FirmwareError(
            f"{path.name} was not installed: {why}",
            hint=f"slot {boot.current()} still starts; copy the bundle again from where it came, and try again",
        )
    if offered.key() < box.floor().key():
        box.lower_floor(offered)
    box.remember("installed", version=offered.version, epoch=offered.epoch, slot=other(boot.current()))


def confirm(box: Box, look: Callable[[], Sequence[health.Finding]], say: Callable[[str], None] = lambda _: None) -> str:
    """Decide over the system that runs.

    On trial: good where all that counts is right, otherwise bad. A system that had proved itself before is never left
    for a check that fails today; it says so and goes on. So does one that no other would come after. One on trial that
    can't be judged, or whose verdict can't be written, has failed where the loader is known to have counted its start.
    Otherwise it may be one that was good, which would start again for ever: it goes on.

    Returns
    -------
    ``good``, ``degraded``, or ``failed``: then a `restart` lets the earlier system start.
    """
    boot = box.boot()
    try:
        return _judged(box, boot, look(), say)
    except Exception as error:
        if not on_trial(boot):
            raise
        if not boot.counts():
            say(f"whether this system is on trial is not known, so the network stays closed: {error}")
            box.remember_if_possible("degraded", slot=boot.current(), why=[str(error)])
            return "degraded"
        say(f"this system is on trial and can't be judged: {error}")
        _remember_failed(box, boot, [str(error)])
        return "failed"


def _judged(box: Box, boot: BootBackend, findings: Sequence[health.Finding], say: Callable[[str], None]) -> str:
    here = boot.current()
    wrong = [f"{each.what}: {each.detail}" for each in findings if each.counts and not each.ok]
    if wrong and on_trial(boot):
        _give_up(box, boot, wrong)
        return "failed"
    if wrong:
        if boot.state(here) != "good":
            say(
                "neither slot has proved itself, so the network stays closed; mend what fails, then start the box "
                "again, or bring an update on a stick"
            )
        box.remember_if_possible("degraded", slot=here, why=wrong)
        return "degraded"
    if boot.state(here) != "good":
        boot.mark_good(here)
        box.remember_if_possible("good", slot=here, version=box.release().version)
    trial.forget(box)
    box.raise_floor(here, trial.ledger_schema(box))
    if boot.state(other(here)) == "good" and (why := _too_old(box, other(here))):
        boot.discard(other(here))
        box.remember_if_possible("discarded", slot=other(here), why=why)
    return "good"


def _give_up(box: Box, boot: BootBackend, why: list[str]) -> None:
    boot.mark_bad(boot.current())
    _remember_failed(box, boot, why)


def _remember_failed(box: Box, boot: BootBackend, why: list[str]) -> None:
    release = box.release()
    box.remember_if_possible("failed", slot=boot.current(), version=release.version, epoch=release.epoch, why=why)


def _too_old(box: Box, slot: SlotName) -> str:
    """Why a slot's epoch forbids to start it; empty where it does not."""
    epoch, floor = box.proved_epoch(slot), box.floor().epoch
    if epoch is not None and epoch >= floor:
        return ""
    known = "an unknown epoch" if epoch is None else f"epoch {epoch}"
    return f"slot {slot} is of {known}, and a release of epoch {floor} ran here"


def roll_back(box: Box) -> bool:
    """A person wants the other slot back.

    On trial, this one is given up, as if its check had failed. Otherwise the other one is tried again; it must have
    been good, of no earlier epoch than ran here, and with a ledger of today's schema, since it reads no later one.

    Returns
    -------
    Whether this system was given up: then a `restart` lets the earlier one start.
    """
    boot = box.boot()
    if on_trial(boot):
        _give_up(box, boot, ["given up by a person at the box"])
        return True
    target = other(boot.current())
    if boot.state(target) != "good":
        raise RefusedError(
            f"slot {target} is {boot.state(target)}, so there is nothing to go back to",
            hint="install a bundle instead",
        )
    if why := _too_old(box, target):
        raise RefusedError(why, hint="install a bundle of this epoch or a later one")
    known, ledger = box.proved_ledger(target), trial.ledger_schema(box)
    if ledger is not None and (known is None or known < ledger):
        raise RefusedError(
            f"slot {target} was good with a ledger of {'an unknown version' if known is None else f'version {known}'}, "
            f"and this box's is of version {ledger} by now, which it would refuse",
            hint="install a bundle that reads it instead",
        )
    boot.try_next(target, f"Scanside (slot {target}, on request)")
    box.remember("rolled_back", slot=target)
    return False


def before_install(box: Box, environment: Mapping[str, str]) -> None:
    """RAUC's pre-install handler: the target can't start any more, then gets its kernel; its root is written next.

    Parameters
    ----------
    environment
        As RAUC sets it: RAUC_BUNDLE_MOUNT_POINT.
    """
    boot = box.boot()
    refuse_on_trial(boot)
    target = other(boot.current())
    boot.close(target)
    boot.put_kernel(target, Path(environment["RAUC_BUNDLE_MOUNT_POINT"]))


def loader(boot: BootBackend, arguments: Sequence[str]) -> str:
    """RAUC's custom boot-loader backend: what to print for ``get-primary``, ``set-primary``, ``get-state`` ...

    RAUC's names of the slots (``bootname``) are ours. For RAUC a slot on trial is good: it may start.
    """
    match list(arguments):
        case ["get-primary"]:
            return boot.primary() or boot.current()
        case ["get-current"]:
            return boot.current()
        case ["set-primary", slot]:
            boot.try_next(named(slot), f"Scanside (slot {slot}, installed {time.strftime('%Y-%m-%d')})")
            return ""
        case ["get-state", slot]:
            return "good" if boot.state(named(slot)) in ("good", "trial") else "bad"
        case ["set-state", slot, "good"]:
            boot.mark_good(named(slot))
            return ""
        case ["set-state", slot, "bad"]:
            if boot.state(named(slot)) != "empty":
                boot.mark_bad(named(slot))
            return ""
        case _:
            raise FirmwareError(f"RAUC asked for what is not known here: {' '.join(arguments)}")


def restart() -> None:
    """Start the machine again."""
    subprocess.run([shutil.which("systemctl") or "systemctl", "reboot"], check=False, timeout=60)
