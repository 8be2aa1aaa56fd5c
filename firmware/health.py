"""Is this system fit to stay? What decides over "good", asked of the appliance by its own command line.

Nothing outside the box is asked: that a PACS can't be reached says nothing about the system that was installed.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware import secure_boot, trial
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import RefusedError
from firmware.policy import check_clock

_SECONDS = 120  # for one answer about its state; a slow box proves its backends anew within it
_SECONDS_FOR_WORK = 900  # for what has to be done: a box that starts is busy, and a full ledger takes long to recount
_LEAST_FREE = 64 << 20  # bytes on data without which nothing can be received


@dataclass(frozen=True)
class Finding:
    """A check; ``counts`` is False where it is said, but sends no system back."""

    what: str
    ok: bool
    detail: str
    counts: bool = True


Ask = Callable[[Sequence[str]], subprocess.CompletedProcess[str]]


def scanside(
    arguments: Sequence[str], program: str = "scanside", seconds: float = _SECONDS_FOR_WORK, owner: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """One call of the appliance's command line; what can't be started or does not end counts as failed.

    Parameters
    ----------
    owner
        Root calls as the user whom this belongs to, so that the appliance can read and write what is made.
    """
    command = [program, *arguments]
    known = owner.stat() if owner and os.geteuid() == 0 else None
    user: dict[str, Any] = {"user": known.st_uid, "group": known.st_gid, "extra_groups": ()} if known else {}
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, **user)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))


_ask_how_it_is = functools.partial(scanside, seconds=_SECONDS)


def last_words() -> str:
    """What the appliance's process has said last in the journal: why it does not run, where it does not.

    An error with its hint, where there is one (``scanside: ...``, and the next line, indented); else the last line.
    """
    command = ["journalctl", "--output=cat", "--lines=4", "--boot", "_SYSTEMD_UNIT=scanside.service"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("scanside: ")]
    if not errors:
        return lines[-1].strip()[:300] if lines else ""
    error, *hint = lines[errors[-1] : errors[-1] + 2]
    return " ".join([error, *(f"({line.strip()})" for line in hint if line.startswith(" "))])[:300]


def examine(box: Box, ask: Ask = _ask_how_it_is, last_words: Callable[[], str] = last_words) -> list[Finding]:
    """Every check, once."""
    where = ("--config", str(box.configuration))
    running = _running(ask(("status", "--json", *where)), last_words, trial.began(box))
    troubled = certificates(box.configuration, ask)
    certified = (_certificate(each) for each in troubled)
    findings = [_clock(box), _secure_boot(box), _data(box), *_configuration(box), *certified, *running]
    if fit(findings) and _has_scp(box):  # one that is still getting ready is not kept busy with questions
        excused = any(each["what"].startswith("Storage SCP") and is_of_the_site(each) for each in troubled)
        findings += _echo(ask(("test-connection", "--json", *where)), counts=not excused)
    return findings


def certificates(configuration: Path, ask: Ask) -> list[dict[str, Any]]:
    """Those certificates and keys of a configuration that don't serve now, as `scanside certificates` tells."""
    said = _json(ask(("certificates", "--json", "--config", str(configuration))))
    return [each for each in said if each["trouble"]] if isinstance(said, list) else []


def is_of_the_site(troubled: dict[str, Any]) -> bool:
    """Whether a certificate is out of its dates, or a file not there: so it would be under any other system.

    Anything else (a file that can't be read, a key that the libraries refuse) may be this system's doing.
    """
    return not troubled["problem"] or not Path(troubled["path"]).exists()


def wait_until_fit(
    look: Callable[[], list[Finding]],
    seconds: float,
    pause: float = 5.0,
    sleep: Callable[[float], None] = time.sleep,
    say: Callable[[str], None] = lambda _: None,
) -> list[Finding]:
    """Look until all that counts is right, or the time is over; the last findings.

    ``say`` is told what is waited for, each time that this changes. Between two looks is as long as a look took, since
    on a slow box looking takes from what it waits for.
    """
    deadline, said = time.monotonic() + seconds, ""
    while True:
        begin = time.monotonic()
        findings = look()
        waits = "; ".join(f"{each.what}: {each.detail}" for each in findings if each.counts and not each.ok)
        if waits and waits != said:
            say(f"waiting for {waits}")
        said = waits
        if fit(findings) or time.monotonic() >= deadline:
            return findings
        sleep(max(pause, time.monotonic() - begin))


def fit(findings: Sequence[Finding]) -> bool:
    return all(finding.ok for finding in findings if finding.counts)


def _clock(box: Box) -> Finding:
    try:
        check_clock(box.image()["built_at"])
    except RefusedError as error:
        return Finding("clock", ok=False, detail=error.message, counts=False)
    return Finding("clock", ok=True, detail=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), counts=False)


def _secure_boot(box: Box) -> Finding:
    """No older system would have it switched on either."""
    state = secure_boot.state(box.root / "sys/firmware/efi/efivars")
    detail = {
        "on": "the firmware starts only what the keys in it have signed",
        "off": "the firmware starts whatever is on the disk: switch Secure Boot on in its setup",
        "setup": "the firmware has no keys, and starts whatever is on the disk",
        "unknown": "the firmware does not say",
    }[state]
    return Finding("Secure Boot", ok=state == "on", detail=detail, counts=False)


def _data(box: Box) -> Finding:
    """Whether it can be written. That it is full is the site's doing, and no older system would mend it.

    In this package's own folder: in the appliance's, its user may have laid a link where root would write.
    """
    folder, probe = box.firmware_data.parent, box.firmware_data / "probe"
    try:
        Files().write(probe, b"scanside")
        Files().remove(probe)
    except OSError as error:
        full = error.errno in (28, 122)  # ENOSPC, EDQUOT
        return Finding("data", ok=False, detail=f"{folder}: {error.strerror}", counts=not full)
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    if free < _LEAST_FREE:
        return Finding("data", ok=False, detail=f"{folder} has only {free >> 20} MiB left", counts=False)
    return Finding("data", ok=True, detail=f"{folder} can be written, {free >> 20} MiB free")


def _configuration(box: Box) -> Iterator[Finding]:
    try:
        tomllib.loads(box.configuration.read_text())
    except (OSError, ValueError) as error:
        yield Finding("configuration", ok=False, detail=f"{box.configuration}: {error}")


def _has_scp(box: Box) -> bool:
    """A site may take images from a folder or by STOW-RS alone."""
    return bool(tomllib.loads(box.configuration.read_text()).get("storage_scp", {}).get("enabled", True))


def _certificate(troubled: dict[str, Any]) -> Finding:
    """It ends nothing in the appliance but what needs it, and does not count. Where the Storage SCP can't listen for
    another reason than the site's, C-ECHO fails, which does."""
    detail = f"{troubled['what']}: {troubled['path']}: {troubled['trouble']}"
    return Finding("certificate", ok=False, detail=detail, counts=False)


def _running(
    done: subprocess.CompletedProcess[str], last_words: Callable[[], str], trial_began: float | None
) -> Iterator[Finding]:
    """Whether it runs, and whether a backend has earned a receipt on this very device, by this very system.

    A package that it can't serve sends it back, as does one that it has left for another one by itself on trial.
    """
    said = _json(done)
    if not isinstance(said, dict):
        yield Finding("service", ok=False, detail=_words(done))
        return
    worker = said.get("components", {}).get("worker", {})
    state = worker.get("state", "none")
    ready = bool(said.get("running")) and not worker.get("stale", True) and state != "starting"
    if said.get("running"):
        detail = f"runs, worker {state}"
    else:
        detail = f"does not run; its last words: {last_words() or 'none'}"
    yield Finding("service", ok=ready, detail=detail)
    receipt = worker.get("receipt") or {}
    earned = f"{receipt.get('id')} of {worker.get('backend')}" if receipt else worker.get("reason") or "none yet"
    yield Finding("receipt", ok=bool(receipt), detail=earned)
    for each in worker.get("unserved") or ():  # its images wait; a new system is not to lose what the former one read
        yield Finding("model", ok=False, detail=f"{each['package']} can't be served: {each['reason']}")
    for each in said.get("fallbacks", ()) if trial_began is not None else ():
        if each["chosen_at"] >= trial_began:
            instead = f"{each['version']} reads" if each["version"] else "nothing reads"
            yield Finding("model", ok=False, detail=f"{each['model']} {each['why']}; {instead} instead on trial")


def _echo(done: subprocess.CompletedProcess[str], counts: bool) -> Iterator[Finding]:
    """C-ECHO to its own Storage SCP, where it has one. Destinations are in the same answer and are left out."""
    said = _json(done)
    if not isinstance(said, list):
        yield Finding("C-ECHO", ok=False, detail=_words(done), counts=counts)
        return
    for peer in said:
        if peer["peer"].startswith("own Storage SCP"):
            failed = [check for check in peer["checks"] if check["outcome"] == "fail"]
            detail = "; ".join(check["detail"] for check in failed) or "answered"
            yield Finding("C-ECHO", ok=not failed, detail=detail, counts=counts)


def _json(done: subprocess.CompletedProcess[str]) -> Any:
    try:
        return json.loads(done.stdout)
    except ValueError:
        return None


def _words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {done.returncode}"
