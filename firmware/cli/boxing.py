"""Commands on a box: updates, and what the system calls at its start."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import click

from firmware.box import Box
from firmware.errors import FirmwareError

ROOT = click.option(
    "--root", default="/", type=click.Path(file_okay=False, path_type=Path), hidden=True, help="Of the box; for tests."
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_SECONDS_TO_BE_SEEN = 2.0  # of a verdict on the console, before the restart clears it


@click.group()
def update() -> None:
    """Signed updates in two slots, on the box."""


@update.command()
@click.argument("bundle", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--allow-older", is_flag=True, help="Take an older version of the same epoch.")
@JSON
@ROOT
def install(bundle: Path, allow_older: bool, as_json: bool, root: Path) -> None:
    """Install BUNDLE into the slot that does not run; the next start tries it.

    It is verified in full before anything is touched. After the start it must prove itself; otherwise this system
    comes back by itself, with the ledger as it was.
    """
    from firmware.steps import emit
    from firmware.update import install as install_bundle

    def say(percent: int, what: str) -> None:
        if as_json:
            emit("progress", percent=percent, what=what)
        else:
            click.echo(f"{percent:3} %  {what}")

    offered = install_bundle(Box(root), bundle, say, allow_older)
    if as_json:
        emit("installed", version=offered.version, epoch=offered.epoch)
    else:
        click.echo(f"{offered} is installed; restart the box to try it (systemctl reboot)")


@update.command()
@click.argument("bundle", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--allow-older", is_flag=True, help="As for `install`.")
@ROOT
def check(bundle: Path, allow_older: bool, root: Path) -> None:
    """Say whether this box would take BUNDLE, and install nothing. A refusal stands in the history."""
    from firmware.update import judge

    click.echo(f"{bundle.name} is whole, signed, and for this box: {judge(Box(root), bundle, allow_older)}")


@update.command()
@JSON
@ROOT
def status(as_json: bool, root: Path) -> None:
    """Show both slots, which runs, which starts next, and what happened."""
    from firmware.boot import SLOTS

    box = Box(root)
    boot = box.boot()
    said = {
        "version": box.release().version,
        "epoch": box.release().epoch,
        "board": box.image()["board"],
        "floor": str(box.floor()),
        "runs": boot.current(),
        "next": boot.primary(),
        "slots": {slot: boot.state(slot) for slot in SLOTS},
        "history": box.history()[-20:],
    }
    if as_json:
        click.echo(json.dumps(said))
        return
    click.echo(f"{said['version']} (epoch {said['epoch']}) for {said['board']}; nothing older than {said['floor']}")
    for slot in SLOTS:
        marks = [mark for mark, true in (("runs", slot == said["runs"]), ("starts next", slot == said["next"])) if true]
        click.echo(f"slot {slot}  {boot.state(slot):<6} {', '.join(marks)}".rstrip())
    for line in said["history"]:
        what = ", ".join(f"{key} {value}" for key, value in line.items() if key not in ("at", "event"))
        click.echo(f"  {line['event']:<12} {what}")


@update.command()
@click.option("--seconds", default=300.0, show_default=True, help="How long the system has to prove itself.")
@click.option("--only-on-trial", is_flag=True, help="Leave a system alone that has proved itself.")
@ROOT
def confirm(seconds: float, only_on_trial: bool, root: Path) -> None:
    """Check this system; on trial, keep it or send it back. The box calls this after each start.

    Exit code 0: good; 1: a check fails on a system that had proved itself before, which goes on.
    """
    from firmware import first_start, health
    from firmware.boot import on_trial
    from firmware.handover import take_what_waits, try_what_is_untried
    from firmware.inbox import try_report
    from firmware.update import confirm as decide
    from firmware.update import restart

    box = Box(root)
    tried = on_trial(box.boot())
    if only_on_trial and not tried:
        click.echo("this system is not on trial")
        return
    if not tried:  # nobody reaches the page until then
        # It is judged, whatever comes of these.
        with contextlib.suppress(FirmwareError, OSError, ValueError, subprocess.SubprocessError):
            try_what_is_untried(box)
            for line in first_start.invitation(box):
                click.echo(line)

    def look() -> list[health.Finding]:
        findings = health.wait_until_fit(lambda: health.examine(box), seconds, say=click.echo)
        for finding in findings:
            click.echo(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.what}: {finding.detail}")
        return findings

    outcome = decide(box, look, click.echo)
    click.echo(f"this system is {outcome}")
    if outcome == "failed":
        time.sleep(_SECONDS_TO_BE_SEEN)
        restart()
        sys.exit(1)
    try_report(box)
    if outcome == "good" and tried:
        take_what_waits()
    sys.exit(0 if outcome == "good" else 1)


@update.command("roll-back")
@ROOT
def roll_back(root: Path) -> None:
    """Let the other slot start next, where it was good. A system on trial is given up, and the box starts again."""
    from firmware.update import restart
    from firmware.update import roll_back as back

    if back(Box(root)):
        click.echo("this system is given up; the box starts again with the other slot")
        restart()
    else:
        click.echo("the other slot starts next; restart the box (systemctl reboot)")


@update.command("prepare-start", hidden=True)
@ROOT
def prepare_start(root: Path) -> None:
    """Called before the appliance starts: keep the ledger aside on trial, or bring it back."""
    from firmware.inbox import try_report
    from firmware.trial import prepare

    box = Box(root)
    click.echo(prepare(box) or "nothing to do")
    try_report(box)


@update.command("before-install", hidden=True)
@ROOT
def before_install(root: Path) -> None:
    """Called by RAUC before it writes."""
    from firmware.update import before_install as prepare

    prepare(Box(root), os.environ)


@update.command("loader", hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1)
@ROOT
def loader(arguments: tuple[str, ...], root: Path) -> None:
    """Called by RAUC as its boot-loader backend."""
    from firmware.update import loader as answer

    said = answer(Box(root).boot(), arguments)
    if said:
        click.echo(said)


@click.group()
def data() -> None:
    """The data partition of the box."""


@data.command("open", hidden=True)
@ROOT
def open_data(root: Path) -> None:
    """Called at the start: make it where it is missing, open it, mount it."""
    from firmware import datadisk, provisioning

    box = Box(root)
    try:
        datadisk.open_data(box)
        if said := provisioning.renew(box):
            click.echo(said)
            datadisk.use_site(box)
    finally:
        with contextlib.suppress(FirmwareError):
            click.echo(f"this is box {box.identity()}")
    click.echo(datadisk.status(box))


@data.command("finish-wiping", hidden=True)
@ROOT
def finish_wiping(root: Path) -> None:
    """Called at the start, before data is opened, where a factory reset is noted that is not at its end."""
    from firmware import datadisk

    click.echo("a factory reset goes on; where data is not encrypted, it takes hours: leave the box switched on")
    click.echo(datadisk.finish_wiping(Box(root)), nl=False)


@data.command("check-labels", hidden=True)
@ROOT
def check_labels(root: Path) -> None:
    """Called at the start, before a partition is written: each label of a box's partitions is on one disk alone."""
    from firmware import datadisk

    datadisk.check_labels(Box(root))


@data.command("status")
@ROOT
def data_status(root: Path) -> None:
    """Say whether it is encrypted, and what opens it."""
    from firmware import datadisk

    click.echo(datadisk.status(Box(root)))


@data.command("recovery-key")
@ROOT
def recovery_key(root: Path) -> None:
    """Show the recovery key, once, unless a stick has it. Write it down, and keep it away from the box."""
    from firmware import datadisk
    from firmware.errors import die

    box = Box(root)
    key = datadisk.recovery_key(box)
    if not key:
        die(
            "no recovery key is waiting: it is handed over once, or there is none: scanside-firmware data status",
            f"touch {datadisk.waits(box)} and restart: that makes another one, and the earlier opens nothing any more",
        )
    click.echo(key)
    datadisk.handed_over(box)


@click.command()
@ROOT
def firewall(root: Path) -> None:
    """Load the packet filter: the configured ports, and none while a new system is on trial."""
    from firmware import firewall as filtering

    arriving = filtering.apply(Box(root)).partition("chain forward")[0]
    lines = [line.strip() for line in arriving.splitlines()]
    opened = [line.removesuffix(" accept") for line in lines if " tcp dport " in f" {line}"]
    click.echo(f"the packet filter is loaded; open: {', '.join(opened) or 'nothing'}")
