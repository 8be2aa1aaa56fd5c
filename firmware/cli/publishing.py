"""Commands of a publisher."""

from __future__ import annotations

from pathlib import Path

import click

from firmware.image import wheels
from firmware.image.boards import BOARDS

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
KEYS = click.option(
    "--keys", required=True, type=_FOLDER, envvar="SCANSIDE_KEYS", help="Folder of `scanside-firmware keys`."
)


@click.command("keys")
@click.argument("folder", type=_FOLDER)
@click.option("--name", default="Scanside development", show_default=True, help="In the certificates.")
def make_keys(folder: Path, name: str) -> None:
    """Make a set of keys and certificates in FOLDER; what is there is kept.

    Each signs one thing: update bundles, images for flashing, kernels (Secure Boot), site configurations, models. Not
    inside a repository. For releases keep update-ca.key off-line.
    """
    from firmware import keys

    made = keys.make(folder, name)
    for path in made:
        click.echo(path)
    click.echo(f"{len(made)} files made in {folder}; *.key are secret" if made else f"{folder} has a whole set")


@click.group("bundle")
def bundle_group() -> None:
    """Make and verify update bundles."""


@bundle_group.command("make")
@click.argument("content", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("target", type=_FILE)
@click.option("--version", required=True, help="Such as 1.2.0.")
@click.option("--epoch", default=1, show_default=True, type=click.IntRange(0), help="Raised by security releases.")
@click.option("--compatible", required=True, help="The board, such as scanside-generic.")
@KEYS
def make_bundle(content: Path, target: Path, version: str, epoch: int, compatible: str, keys: Path) -> None:
    """Sign the folder CONTENT (root.img, a.efi, b.efi) as TARGET. `build` does this, too."""
    from firmware import bundle
    from firmware.policy import Offered

    bundle.make(content, Offered(version, epoch, compatible), keys, target)
    click.echo(f"{target} made, {target.stat().st_size / 1e6:.0f} MB")


@bundle_group.command("verify")
@click.argument("path", metavar="FILE", type=_FILE)
@click.option("--ca", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="update-ca.pem")
def verify_bundle(path: Path, ca: Path) -> None:
    """Check signature, certificate and every byte of a bundle."""
    from firmware import bundle

    offered = bundle.verify(path, ca)
    click.echo(f"{path.name} is whole and signed: {offered} for {offered.compatible}")


@click.command()
@click.option("--board", required=True, type=click.Choice(sorted(BOARDS)), help="The kind of machine.")
@click.option("--to", "target", required=True, type=_FOLDER, help="Folder of what is built.")
@click.option("--version", default=None, help="Of the image.  [default: the appliance's]")
@click.option("--epoch", default=1, show_default=True, type=click.IntRange(0), help="Raised by security releases.")
@click.option("--project", default=Path(), type=_FOLDER, show_default="here", help="The sources of Scanside.")
@click.option("--cache", type=_FOLDER, default=Path("~/.cache/scanside-firmware"), show_default=True,
              help="Debian trees and wheels of earlier builds.")  # fmt: skip
@click.option("--mirror", default="http://deb.debian.org/debian", show_default=True,
              help="Of Debian; one of snapshot.debian.org builds the same packages again.")  # fmt: skip
@click.option("--twice", is_flag=True, help="Build twice and compare.")
@KEYS
def build(
    board: str,
    target: Path,
    version: str | None,
    epoch: int,
    project: Path,
    cache: Path,
    mirror: str,
    twice: bool,
    keys: Path,
) -> None:
    """Build the image of a box: for flashing, as an update bundle, and its bill of materials.

    Needs root, mmdebstrap, and rauc with squashfs-tools. The time of the last commit dates all files.

    \b
      sudo scanside-firmware build --board generic --keys ~/keys --to out
    """
    import subprocess
    import tomllib

    from firmware.errors import FirmwareError
    from firmware.image.boards import board as board_of
    from firmware.image.build import Plan
    from firmware.image.build import build as make

    project, target = project.resolve(), target.resolve()
    version = version or tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
    date = subprocess.run(
        ["git", "-C", str(project), "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    ).stdout.strip()
    plan = Plan(project, board_of(board), version, epoch, keys.resolve(), target, cache.expanduser().resolve(), mirror,
                int(date or 1_700_000_000))  # fmt: skip
    first = make(plan)
    for name, digest in first.items():
        click.echo(f"{digest}  {name}")
    if twice:
        again = make(plan)
        if differ := [name for name, digest in first.items() if again[name] != digest]:
            raise FirmwareError(f"two builds differ in: {', '.join(differ)}")
        click.echo(f"two builds are the same in: {', '.join(first)}")
    click.echo(f"scanside-firmware flash {target / 'manifest.json'} DISK --key {plan.keys / 'image.pub'}")


@click.command("lock")
@click.option("--board", required=True, type=click.Choice(sorted(BOARDS)))
@click.option(
    "--machine",
    default=wheels.X86_64,
    type=click.Choice(list(wheels.MANYLINUX)),
    show_default=True,
    help="Boards are x86_64; aarch64 is for containers.",
)
@click.option("--project", default=Path(), type=_FOLDER, show_default="here", help="The sources of Scanside.")
def lock(board: str, machine: str, project: Path) -> None:
    """Resolve what the device needs anew, and pin it with hashes. Review the difference, then commit it."""
    click.echo(wheels.write_lock(project, board, BOARDS[board].extras, machine))
