"""A stick or disk with the label SCANSIDE: what a field engineer brings, without a keyboard.

`firmware.handover` takes what is on it. What came of it is written to ``scanside-<box>/``, with logs, and the request
for a certificate; and, where others reach the page, the codes with which those whom the configuration names make their
accounts, or the code of the first one. The first stick that brings the site's configuration gets the recovery key of
the data partition, or, where that was entered on the page, the first stick after it. Where that does not open, the
stick says why.
"""

from __future__ import annotations

import contextlib
import os
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from firmware import clock, datadisk, handover, health, left, logs, provisioning, service, site_files, update
from firmware.boot import on_trial
from firmware.box import Box
from firmware.durable import Files
from firmware.errors import FirmwareError
from firmware.firewall import page_port
from firmware.incoming import alone

_RECOVERY_KEY = """\
The recovery key of the data of the Scanside box {box}:

{key}

It opens the data where the box itself no longer does, such as after Secure Boot was changed in its firmware setup.
Whoever has it and the box's disk can read the patients' images: keep it where only those come who may, apart from the
box, and remove this file from the stick. The box hands it over once.

To use it, put this file on a stick with the label SCANSIDE, at its top and as recovery-key.txt.
"""


def take(
    box: Box,
    folder: Path,
    say: handover.Say = lambda _: None,
    restart: Callable[[], None] = update.restart,
    reload: Callable[[Box], str | None] = handover.start_anew,
    ask: health.Ask = health.scanside,
) -> list[str]:
    """Everything on a stick; a sentence for each thing that was done or refused.

    ``say`` is told them once they lie on the stick, before anything starts again; and how far an update is.
    """
    with alone(box, say):
        said, waits = _take(box, folder, say, restart, reload, ask)
        if waits and not on_trial(box.boot()):  # the verdict came meanwhile, and found this stick at work
            said, _ = _take(box, folder, say, restart, reload, ask)
    return said


def _take(
    box: Box,
    folder: Path,
    say: handover.Say,
    restart: Callable[[], None],
    reload: Callable[[Box], str | None],
    ask: health.Ask,
) -> tuple[list[str], bool]:
    """The sentences, and whether all waits, since the system is on trial."""
    opened = box.data_is_open()
    moved = _move_clock(box, folder / "service.token")
    outcome = handover.take(box, folder, say, by_hand=True)
    said = [*moved, *outcome.said]
    with contextlib.suppress(OSError):  # what was taken was told it already
        said += left.passed_over(folder, (site_files.FOLDER,))
    if outcome.commissioned and provisioning.people(box) and _page_port(box) is None:
        said.append(
            "whom [[accounts]] names can't make an account: nobody but the box itself reaches its page "
            '(set host = "0.0.0.0" in [appliance.web], raise the version, and sign it again)'
        )
    answer = folder / f"scanside-{_name(box)}"
    request = b""
    if not opened:
        said.insert(0, f"the data partition did not open: {datadisk.why_closed(box)}")
        with contextlib.suppress(FirmwareError):  # without an identity no token counts
            said.append(
                f"service.token for box {box.identity()} on a stick opens a shell, in which factory-reset works, too"
            )
    elif not outcome.waits:
        request = _request(box, answer.name, said)
    try:
        may_have = outcome.commissioned or provisioning.entered(box)  # no stick has brought that one
        if may_have and not outcome.waits and (key := datadisk.recovery_key(box)):
            said.append(_hand_over(box, answer, key))
        if request:
            Files().write(answer / "request.csr", request)
        if record := datadisk.record_of_reset(box):
            Files().write(answer / "factory-reset.txt", record.encode())
        Files().write(answer / "what-happened.txt", _lines(said).encode())
    except OSError as error:
        said.append(f"the stick can't be written: {error.strerror}; nothing of the above is less true")
    else:  # last, since they take time and room
        said.append(f"what happened lies on the stick in {answer.name}{'' if outcome.waits else _logs(box, answer)}")
        _tell(answer / "what-happened.txt", _lines(said))
    os.sync()
    for line in said:
        say(line)
    if tried := outcome.try_out(box, reload):
        said += tried
        _tell(answer / "what-happened.txt", _lines(said))
        os.sync()
        for line in tried:
            say(line)
    if outcome.follows is handover.Follows.RESTART:
        restart()
    if outcome.commissioned and outcome.follows is not handover.Follows.RESTART:
        _invite(box, answer, ask, outcome.configured)
    return said, outcome.waits


def _logs(box: Box, answer: Path) -> str:
    """Whichever system stays, it reads the stick again and writes them: of one on trial there are none."""
    try:
        logs.export(box, answer)
    except (OSError, FirmwareError) as error:
        return f", without all of the logs: {error}"
    return ", with logs"


def _lines(said: list[str]) -> str:
    return "\n".join((time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), *said, ""))


def _move_clock(box: Box, token: Path) -> list[str]:
    """Before anything is judged by the clock: it is later than when a token was signed, whether that still counts."""
    try:
        signed_at = float(service.read(box, token.read_text())["signed_at"])
    except (FirmwareError, OSError, LookupError, ValueError):
        return []  # there is none, or it will be refused, with the reason
    if not clock.move_forward(box, signed_at):
        return []
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(signed_at))
    return [f"the clock was moved forward to {when}, when service.token was signed"]


def _name(box: Box) -> str:
    try:
        return box.identity()
    except FirmwareError:  # its data partition was never made
        return "without-identity"


def _hand_over(box: Box, answer: Path, key: str) -> str:
    """The recovery key; only once it lies on the stick, the box notes that."""
    Files().write(answer / "recovery-key.txt", _RECOVERY_KEY.format(box=_name(box), key=key).encode())
    os.sync()  # the folder may be new
    try:
        datadisk.handed_over(box)
    except OSError as error:
        return f"the recovery key in {answer.name} counts until the next start only: data can't be written: {error}"
    return f"the recovery key lies in {answer.name}: keep it apart from the box; it is handed over once"


def _request(box: Box, name: str, said: list[str]) -> bytes:
    try:
        return provisioning.request(box, name)
    except (FirmwareError, OSError, ValueError) as error:
        said.append(f"there is no request for a certificate: {error}")
        return b""


def _invite(box: Box, answer: Path, ask: health.Ask, anew: bool) -> None:
    """Where others reach the page: how those whom the configuration names make their accounts, or the first one is.

    The codes of the latest stick count. Those that a stick has already are not replaced, unless ``anew``: they may have
    been given out.
    """
    port = _page_port(box)
    if port is None:
        return
    here, where = f"https://THIS-BOX:{port}/enrol", ("--config", str(box.configuration))
    codes = []
    given = not anew and (answer / "accounts.txt").exists()
    for each in () if given else provisioning.people(box):
        done = ask(("accounts", "invite", each["name"], "--role", each["role"], *where))
        if not done.returncode:  # otherwise there is such an account, or the appliance does not run: the status says so
            codes.append(f"{each['name']:24} {each['role']:14} {done.stdout.strip()}\n")
    if codes:
        _tell(
            answer / "accounts.txt",
            f"The accounts below are made at {here}, each with its name and its code, within 14 days.\n"
            f"The first one must be an administrator's.\n\n{''.join(codes)}\n"
            "Whoever has a code can do so: give each to its person alone, and remove this file afterwards.\n",
        )
    first = answer / "first-account.txt"
    if not anew and first.exists():
        return
    enrolment = ask(("accounts", "enrol", *where))
    if not enrolment.returncode:
        _tell(
            first,
            f"The page has no account yet. Open {here} and make the first one, an administrator's,\n"
            f"with the code {enrolment.stdout.strip()}\n"
            "Whoever has the code can do so until then: keep it to yourself, and remove this file afterwards.\n",
        )


def _page_port(box: Box) -> int | None:
    """Where others reach the page; None where nobody does."""
    return page_port(tomllib.loads(box.configuration.read_text()))


def _tell(path: Path, text: str) -> None:
    with contextlib.suppress(OSError):  # the stick can't be written, which was said
        Files().write(path, text.encode())
