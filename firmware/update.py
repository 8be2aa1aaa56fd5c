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
from firmware.boot import BootBackend, named, other
from firmware.box import Box
from firmware.errors import FirmwareError, RefusedError
from firmware.incoming import own_copy
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
    _refuse_on_trial(box)
    with own_copy(box, path) as mine:
        offered = judge(box, mine, allow_older)
        write(box, mine, offered, say)
    return offered


def write(box: Box, path: Path, offered: Offered, say: Callable[[int, str], None]) -> None:
    """What `install` does with a bundle that was judged."""
    _refuse_on_trial(box)
    labels.check(labels.SLOTS)  # RAUC finds the slot by its label; a second flashed disk may have come since the start
    boot = box.boot()
    say(0, f"{path.name} is whole and signed: {offered}")
    command = ["rauc", "install", str(path)]  # its service knows the slot by the kernel's command line (rauc.slot=)
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


def _refuse_on_trial(box: Box) -> None:
    boot = box.boot()
    if boot.state(boot.current()) != "good":
        raise RefusedError(
            f"slot {boot.current()} runs on trial, and the other slot is what it would fall back to",
            hint="wait until `scanside-firmware update status` says good",
        )


def confirm(box: Box, look: Callable[[], Sequence[health.Finding]]) -> str:
    """Decide over the system that runs.

    On trial: good where all that counts is right, otherwise bad. A system that had proved itself before is never left
    for a check that fails today; it says so and goes on.

    Returns
    -------
    ``good``, ``degraded``, or ``failed``: then a `restart` lets the earlier system start.
    """
    boot = box.boot()
    here = boot.current()
    findings = look()
    wrong = [f"{each.what}: {each.detail}" for each in findings if each.counts and not each.ok]
    on_trial = boot.state(here) == "trial"
    if not wrong:
        if on_trial:
            boot.mark_good(here)
            box.remember_if_possible("good", slot=here, version=box.release().version)
        box.raise_floor(here)
        trial.forget(box)
        return "good"
    if not on_trial:
        box.remember_if_possible("degraded", slot=here, why=wrong)
        return "degraded"
    boot.mark_bad(here)
    box.remember_if_possible("failed", slot=here, version=box.release().version, why=wrong)
    return "failed"


def roll_back(box: Box) -> None:
    """A person wants the other slot back; it must have been good, and of no earlier epoch than ran here."""
    boot = box.boot()
    target = other(boot.current())
    if boot.state(target) != "good":
        raise RefusedError(
            f"slot {target} is {boot.state(target)}, so there is nothing to go back to",
            hint="install a bundle instead",
        )
    epoch = box.proved_epoch(target)
    if epoch is None or epoch < box.floor().epoch:
        raise RefusedError(
            f"slot {target} is of {'an unknown epoch' if epoch is None else f'epoch {epoch}'}, and a release of epoch "
            f"{box.floor().epoch} ran here",
            hint="install a bundle of this epoch or a later one",
        )
    boot.try_next(target, f"Scanside (slot {target}, on request)")
    box.remember("rolled_back", slot=target)


def before_install(box: Box, environment: Mapping[str, str]) -> None:
    """RAUC's pre-install handler: the target can't start any more, then gets its kernel; its root is written next.

    Parameters
    ----------
    environment
        As RAUC sets it: RAUC_BUNDLE_MOUNT_POINT.
    """
    boot = box.boot()
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
