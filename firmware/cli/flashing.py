"""Commands on a field engineer's machine: disks."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import click

_PATH = click.Path(path_type=Path)
# Never a key from the stick itself: whoever changed the image could have put it there.
KEY = click.option(
    "--key", "trusted", multiple=True, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="SCANSIDE_IMAGE_KEY", help="The publisher's image.pub, which came another way than the image.",
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="JSON lines on standard output.")


@click.command("list")
@JSON
def list_disks(as_json: bool) -> None:
    """Show the disks, and why one may not be flashed."""
    from firmware.flash.disks import listed

    disks = listed()
    if as_json:
        click.echo(json.dumps([{"path": str(disk.path), "size": disk.size, "serial": disk.serial, "model": disk.model,
                                "removable": disk.removable, "refused": [why for why, _ in disk.refusals()]}
                               for disk in disks]))  # fmt: skip
        return
    for disk in disks:
        whys = [why for why, _ in disk.refusals()]
        about = f"{disk.path!s:<14} {disk.size / 1e9:7.1f} GB  {disk.transport:<5} {disk.model:<22} {disk.serial:<20}"
        click.echo(f"{about} {click.style('no: ' + ', '.join(whys), fg='red') if whys else 'may be flashed'}".rstrip())


@click.command()
@click.argument("manifest", type=_PATH)
@click.argument("targets", metavar="DISK...", nargs=-1, required=True, type=_PATH)
@click.option("--serial", "serials", multiple=True, help="Typed serial number of a disk that is not removable.")
@click.option(
    "--board", help="The board that the disks are for; another one's image is refused. Asked for where it is left out."
)
@click.option("--asset", "assets", multiple=True, help="Asset number of each disk, in their order: writes its record.")
@click.option("--records", type=_PATH, default=Path("records"), show_default=True, help="Folder of asset records.")
@click.option("--by", default="", help="Who flashes, for the record.")
@click.option("--file", "as_file", is_flag=True, help="DISK is a regular file, which is made where it is missing.")
@KEY
@JSON
def flash(
    manifest: Path,
    targets: tuple[Path, ...],
    serials: tuple[str, ...],
    board: str | None,
    assets: tuple[str, ...],
    records: Path,
    by: str,
    as_file: bool,
    trusted: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Write the image of MANIFEST to each DISK, read it all back, compare. Several disks at once.

    The signature is checked first, each piece of the image before it is written. A disk that is mounted, in use, too
    small or read-only is refused; one that is not removable needs its typed serial number. Without --board it asks
    whether the image is for the machines that the disks go into; without a terminal --board is needed. After an
    interruption the same command goes on where it stopped, on a disk that has a serial number; Ctrl-C stops all disks.
    Until all was compared, a disk does not start. With --file a regular file stands for a disk: it becomes a raw image.

    \b
      scanside-firmware flash out/manifest.json /dev/sdb --asset RAD-0042 --board x86-efi --key image.pub
      scanside-firmware flash out/manifest.json /dev/sdb /dev/sdc --board x86-efi --key image.pub
      scanside-firmware flash out/manifest.json /dev/nvme0n1 --board x86-efi --serial S4EVNX0M123456 --key image.pub
      scanside-firmware flash out/manifest.json box.img --file --board generic --key image.pub
    """
    from firmware.errors import FirmwareError, die
    from firmware.flash import disks
    from firmware.flash import records as keeping
    from firmware.flash.manifest import load
    from firmware.flash.writing import flash as write
    from firmware.flash.writing import notes_folder
    from firmware.image.boards import BOARDS
    from firmware.steps import Progress, emit

    if len(set(targets)) < len(targets):
        die("a disk is named twice")
    if assets and len(assets) != len(targets):
        die(f"{len(targets)} disks and {len(assets)} asset numbers", "give one --asset for each disk, in their order")
    image = load(manifest, trusted)
    if board and image.board != board:
        die(f"this image is for {image.board}, and the disks are for {board}", f"take the image for {board}")
    machines = BOARDS[image.board].about if image.board in BOARDS else "a board that this program does not know"
    if not as_json:
        click.echo(f"{image.board} {image.version}: for {machines}", err=True)
    if not board:
        _ask(image.board, machines)
    found = [disks.find(path, new_file=as_file) for path in targets]
    for disk in found:
        if disk.is_file and not as_file:
            die(f"{disk.path} is a regular file, not a disk", "to write a raw image into it: --file")
        if not disk.is_file:
            typed = disk.serial if disk.serial in serials else next(iter(serials), None)
            disk.refuse(image.least_disk, typed)
    keeping.check(records, list(zip(assets, found, strict=False)))

    stop = Event()
    warnings: dict[Path, list[str]] = {disk.path: [] for disk in found}

    def one(disk: disks.Disk) -> FirmwareError | None:
        progress = Progress(str(disk.path), 2 * image.bytes_to_write, as_json)
        try:
            kept = write(image, disk, progress.at, notes_folder(), stop=stop, warn=warnings[disk.path].append)
        except FirmwareError as error:
            return error
        except OSError as error:
            return FirmwareError(f"{disk.path}: {error}", hint="run the same command again")
        if kept and not as_json:
            click.echo(
                f"{disk.path}: {kept / 1e6:.0f} MB were there from an interrupted run, and were compared", err=True
            )
        return None

    with _stopping(stop), ThreadPoolExecutor(len(found)) as pool:
        errors = list(pool.map(one, found))
    for number, (disk, error) in enumerate(zip(found, errors, strict=True)):
        said: dict[str, Any] = {"target": str(disk.path), "ok": error is None, "warnings": warnings[disk.path]}
        if error is None and assets:
            try:
                kept = disks.find(disk.path) if disk.is_file else disk  # a new file has a size now
                path, picture = keeping.write(records, keeping.record(image, kept, assets[number], by, flashed=True))
                said |= {"record": str(path), "label": str(picture)}
            except (FirmwareError, OSError) as trouble:
                errors[number] = error = FirmwareError(
                    f"{disk.path} holds {image.board} {image.version}, every byte compared, and no record: {trouble}",
                    hint=f"scanside-firmware record --asset {assets[number]} writes one; --records: another folder",
                )
        if error:
            said |= {"ok": False, "message": error.message, "hint": error.hint}
        if as_json:
            emit("flashed", **said)
            continue
        if error:
            click.secho(f"{disk.path}: {error.message}\n    {error.hint}", err=True, fg="red")
        else:
            click.echo(f"{disk.path}: {image.board} {image.version}, every byte read back and compared")
            if assets:
                click.echo(f"    {said['record']}, {said['label']} (print at 60 x 30 mm)")
        for warning in warnings[disk.path]:
            click.secho(f"    {warning}", err=True, fg="yellow")
    sys.exit(1 if any(errors) else 0)


def _ask(board: str, machines: str) -> None:
    """Whether the disks are for such machines: on another board the image does not start, or lacks drivers."""
    from firmware.errors import die

    if not sys.stdin.isatty():
        die(f"this image is for {board} ({machines})", f"where the disks are for such machines: --board {board}")
    if not click.confirm("Are the disks for such machines?", err=True):
        die("nothing was written", "take the image for the board that the disks are for")


@contextmanager
def _stopping(stop: Event) -> Iterator[None]:
    """Ctrl-C sets ``stop``, however often; what writes then ends by itself, and says in which state its disk is."""

    def ask(*_: object) -> None:
        if not stop.is_set():
            stop.set()
            click.echo("\nstopping, as soon as the disks have taken what was given to them", err=True)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@click.command()
@click.argument("manifest", type=_PATH)
@click.argument("target", metavar="DISK", type=_PATH)
@KEY
@JSON
def verify(manifest: Path, target: Path, trusted: tuple[Path, ...], as_json: bool) -> None:
    """Read DISK and compare it with the image of MANIFEST, byte by byte.

    A start changes a disk: of one that a box has started from it says what differs, and what is as it was flashed.
    """
    from firmware.flash import disks
    from firmware.flash.manifest import load
    from firmware.flash.verifying import verify as compare
    from firmware.steps import Progress, emit

    image = load(manifest, trusted)
    progress = Progress(str(target), image.bytes_to_write, as_json)
    compare(image, disks.find(target), progress.at)
    if as_json:
        emit("verified", target=str(target), board=image.board, version=image.version)
    else:
        click.echo(f"{target} holds {image.board} {image.version}, every byte of it")


@click.command()
@click.argument("manifest", type=_PATH)
@click.argument("target", metavar="DISK", type=_PATH)
@click.option("--asset", required=True, help="Asset number, such as RAD-0042.")
@click.option("--records", type=_PATH, default=Path("records"), show_default=True, help="Folder of asset records.")
@click.option("--by", default="", help="Who verifies, for the record.")
@KEY
@click.pass_context
def record(
    ctx: click.Context, manifest: Path, target: Path, asset: str, records: Path, by: str, trusted: tuple[Path, ...]
) -> None:
    """Verify DISK, then write its asset record and a label with a QR code. Neither holds a secret.

    The record says who verified it and when, in place of an earlier one of the asset and disk: for who flashed it, see
    `flash`.
    """
    from firmware.flash import disks
    from firmware.flash import records as keeping
    from firmware.flash.manifest import load

    disk = disks.find(target)
    keeping.check(records, [(asset, disk)])
    ctx.invoke(verify, manifest=manifest, target=target, trusted=trusted, as_json=False)
    path, picture = keeping.write(records, keeping.record(load(manifest, trusted), disk, asset, by, flashed=False))
    click.echo(f"{path}\n{picture} (print at 60 x 30 mm)")
