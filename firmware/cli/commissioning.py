"""Commands that make a flashed box a site's box, and take it back."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from firmware.box import Box
from firmware.cli.boxing import ROOT

# Why systemd has ended a unit, as systemd.exec(5) has $SERVICE_RESULT.
_WHY = {"oom-kill": "memory ran out", "timeout": "it took too long"}
_FILE = click.Path(dir_okay=False, path_type=Path)
_COUNTS = "it counts from the next start of the box, which reads network, time servers and open ports of it, too"


@click.group()
def provision() -> None:
    """Commission a box: a site's signed configuration, its certificate.

    On a stick with the label SCANSIDE, site.toml with its site.toml.sig is taken by itself; see `stick`.
    """


@provision.command("sign")
@click.argument("site", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--key", required=True, type=_FILE, help="site.key")
def sign(site: Path, key: Path) -> None:
    """Check SITE (a site.toml) and sign it: SITE.sig lies beside it.

    The appliance judges its own tables, as it does on a box. What lies in files/ beside SITE goes with it, and is
    listed in SITE as [[files]].
    """
    from firmware import health, provisioning, signing
    from firmware.firewall import page_port
    from firmware.site_toml import parse

    # The one that was installed with this command, also where its folder is not on PATH.
    places = (str(Path(sys.executable).parent), os.environ.get("PATH", ""))
    program = shutil.which("scanside", path=os.pathsep.join(places)) or "scanside"
    _refuse_another_key(key)
    text = provisioning.check(site, functools.partial(health.scanside, program=program))
    if text != site.read_text(encoding="utf-8"):
        site.write_text(text, encoding="utf-8")
    if page_port(parse(text, site.name).get("appliance", {})) is None:
        click.echo(
            'note: nobody but the box itself reaches its page; [appliance.web] host = "0.0.0.0" opens it', err=True
        )
    click.echo(signing.sign_file(site, key, provisioning.PURPOSE))


def _refuse_another_key(key: Path) -> None:
    """A publisher's keys lie in one folder; what any but site.key has signed, a box takes for something changed."""
    from firmware import provisioning, signing
    from firmware.errors import RefusedError, die

    public = key.with_name("site.pub")
    try:
        if public.exists():
            signing.verify(b"", signing.sign(b"", key, provisioning.PURPOSE), [public], provisioning.PURPOSE, key.name)
    except RefusedError:
        die(
            f"{key.name} does not belong to {public}, by which boxes know a site",
            "name site.key; nothing was signed",
        )


def _flashed(root: Path) -> Box:
    """The box, where this is one: a key or a history of another machine would be nobody's."""
    box = Box(root)
    box.image()
    return box


@provision.command("apply")
@click.argument("site", type=_FILE)
@click.option("--allow-older", is_flag=True, help="Take a lower version than one that was applied here.")
@ROOT
def apply(site: Path, allow_older: bool, root: Path) -> None:
    """Use SITE, where it is signed. The appliance judges its own tables first; nothing is half in place."""
    from firmware import provisioning
    from firmware.incoming import alone

    with alone(box := Box(root), click.echo):
        number = provisioning.apply(box, site, allow_older=allow_older)
    click.echo(f"configuration {number} is in place; {_COUNTS}")


@provision.command("history")
@ROOT
def history(root: Path) -> None:
    """List all configurations that were applied."""
    from firmware import provisioning

    for each in provisioning.history(_flashed(root)):
        click.echo(f"{each['number']:4}  version {each['version']}  {each['name']}")


@provision.command("back")
@click.argument("number", type=int)
@ROOT
def back(number: int, root: Path) -> None:
    """Use configuration NUMBER of the history again."""
    from firmware import provisioning
    from firmware.incoming import alone

    with alone(box := Box(root), click.echo):
        provisioning.go_back(box, number)
    click.echo(f"configuration {number} is in place again; {_COUNTS}")


@provision.command("csr")
@click.argument("target", type=_FILE)
@click.option("--name", required=True, help="The box's name in the hospital's network.")
@click.option("--address", "addresses", multiple=True, help="An IP address that the certificate is to name, too.")
@ROOT
def csr(target: Path, name: str, addresses: tuple[str, ...], root: Path) -> None:
    """Write a certificate signing request to TARGET. The key is made on the box and stays there."""
    from firmware import provisioning

    target.write_bytes(provisioning.request(_flashed(root), name, addresses))
    click.echo(
        f"{target}: have it signed by the hospital's authority, then: scanside-firmware provision certificate FILE"
    )


@provision.command("certificate")
@click.argument("path", metavar="FILE", type=_FILE)
@ROOT
def certificate(path: Path, root: Path) -> None:
    """Take the hospital's certificate, where it fits the box's key and counts today."""
    from firmware import provisioning
    from firmware.incoming import alone

    with alone(box := _flashed(root), click.echo):
        said, _ = provisioning.take_certificate(box, path)
    click.echo(said)


@click.command("export-logs")
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@ROOT
def export_logs(target: Path, root: Path) -> None:
    """Write the journal of two weeks and the history to the folder TARGET. Nothing of a patient is in them."""
    from firmware import logs

    for path in logs.export(Box(root), target):
        click.echo(path)


@click.command("factory-reset")
@click.option("--box", "typed", required=True, help="The box's own identity, typed; a start prints it.")
@click.option("--record", type=_FILE, help="Where the record of the reset is written, such as on a stick.")
@ROOT
def factory_reset(typed: str, record: Path | None, root: Path) -> None:
    """Destroy all data of this box: images, ledger, results, keys, configuration. The system stays.

    Encrypted data: its keys are destroyed, and that is checked. Otherwise the box starts again, and then writes over
    every byte and reads it back, which takes hours. The data partition need not be open. What a power cut interrupts,
    the next start brings to its end. The record also comes to the next stick.
    """
    from firmware import datadisk
    from firmware.errors import die
    from firmware.update import restart

    box = Box(root)
    known = box.identity()
    if typed != known:
        die(f"this is box {known}, not {typed}", "type the identity of the box that is to lose its data")
    if record:
        _try_record(record, box)
    text = datadisk.erase(box).rstrip()
    click.echo(text)
    try:
        if record:
            record.write_text(text + "\n")
    except OSError as error:  # such as a stick that was pulled out meanwhile
        click.echo(f"the record can't be written to {record}: {error.strerror}; write down the lines above", err=True)
    finally:
        restart()


def _try_record(record: Path, box: Box) -> None:
    """Before anything is erased: whether the record can be written there, and stays."""
    from firmware.errors import die

    if record.resolve().is_relative_to((box.root / "data").resolve()):
        die(f"{record} would be erased, too", "name a file on a stick; nothing was erased")
    try:
        record.write_text("")
    except OSError as error:
        die(f"the record can't be written to {record}: {error.strerror}", "name another file; nothing was erased")


@click.command("stick")
@click.argument("device", type=click.Path(path_type=Path))
@ROOT
def stick(device: Path, root: Path) -> None:
    """Take what the stick DEVICE (or a folder) brings; the box calls this for a label SCANSIDE.

    site.toml with files/, certificate.pem, *.scanside, *.raucb, service.token, each where it is signed; logs and the
    certificate request go back to it, and the recovery key, once. While data does not open: recovery-key.txt and
    service.token.
    """
    from firmware.errors import die
    from firmware.inbox import try_report
    from firmware.stick import take

    box = Box(root)
    if device.is_dir():
        take(box, device, say=click.echo)
        try_report(box)
        return
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        done = subprocess.run(
            ["mount", "-o", "nosuid,nodev,noexec", str(device), folder], capture_output=True, text=True, check=False
        )
        if done.returncode:
            die(f"the stick {device} can't be mounted: {done.stderr.strip()}", "format it as FAT32, ext4 or exFAT")
        try:
            take(box, Path(folder), say=click.echo)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=False)
            try_report(box)


@click.command("inbox", hidden=True)
@ROOT
def inbox(root: Path) -> None:
    """Called by the box once files were handed over on the page."""
    from firmware.inbox import take

    take(Box(root), tell=click.echo)


@click.command("inbox-ended", hidden=True)
@ROOT
def inbox_ended(root: Path) -> None:
    """Called once what takes the page's files has ended: where it was cut short, the page would wait for it forever."""
    from firmware.inbox import write_report

    box = Box(root)
    report = json.loads(box.report.read_text()) if box.report.exists() else {}
    if report.get("working"):
        result = os.environ.get("SERVICE_RESULT", "")
        why = _WHY.get(result, result or "the journal says why")
        write_report(
            box, said=[*report["said"], f"taking it was cut short: {why}; hand over again what is not told here"]
        )


@click.command("service-token")
@click.option("--box", "box_id", required=True, help="The box's own identity.")
@click.option("--hours", default=4.0, show_default=True, help="24 at most.")
@click.option("--who", required=True, help="Who works on it; it stands in the box's history.")
@click.option("--key", required=True, type=_FILE, help="site.key")
def service_token(box_id: str, hours: float, who: str, key: Path) -> None:
    """Sign a token for a shell on one box's console; put it on a stick as service.token."""
    from firmware import service

    _refuse_another_key(key)
    click.echo(service.make(box_id, hours, key, who), nl=False)
