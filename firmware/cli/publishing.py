"""Commands of a publisher."""

from __future__ import annotations

from pathlib import Path

import click

from firmware.image import mirror as mirrors
from firmware.image.boards import AARCH64, BOARDS, X86_64

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)
KEYS = click.option(
    "--keys", required=True, type=_FOLDER, envvar="SCANSIDE_KEYS", help="Folder of `scanside-firmware keys`."
)

_UNSAFE = "NOT TO BE RELEASED: this image has none of Debian's security updates since its latest point release"


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
@click.option("--date", type=click.IntRange(1), envvar="SOURCE_DATE_EPOCH",
              help="Of all files, in seconds since 1970 UTC.  [default: the last commit's]")  # fmt: skip
@click.option("--cache", type=_FOLDER, default=Path("~/.cache/scanside-firmware"), show_default=True,
              help="Wheels, and Debian trees, which are made anew once a mirror has something new.")  # fmt: skip
@click.option("--mirror", default=mirrors.DEBIAN, show_default=True,
              help="Of Debian and its updates; two of snapshot.debian.org build the same packages again.")  # fmt: skip
@click.option("--security", default=mirrors.SECURITY, show_default=True,
              help="Of Debian's security updates; `none` builds without them: nothing to release.")  # fmt: skip
@click.option("--twice", is_flag=True, help="Build twice and compare; not for a Jetson.")
@click.option("--bsp", type=_FOLDER, help="For a Jetson: NVIDIA's folder Linux_for_Tegra, after apply_binaries.sh.")
@click.option("--sectors", type=click.IntRange(1), help="For a Jetson: of its NVMe drive (blockdev --getsz).")
@click.option("--module", default="jetson-orin-nano-devkit", show_default=True,
              help="For a Jetson: as NVIDIA's tool calls it.")  # fmt: skip
@KEYS
def build(
    board: str,
    target: Path,
    version: str | None,
    epoch: int,
    project: Path,
    date: int | None,
    cache: Path,
    mirror: str,
    security: str,
    twice: bool,
    bsp: Path | None,
    sectors: int | None,
    module: str,
    keys: Path,
) -> None:
    """Build the image of a box: for flashing, as an update bundle, and its bill of materials.

    Needs root, mmdebstrap, and rauc with squashfs-tools. The time of the last commit dates all files, or --date;
    a box's clock never starts before it. Debian comes with its updates and security updates as of today.

    \b
      sudo scanside-firmware build --board generic --keys ~/keys --to out
      sudo scanside-firmware build --board jetson-orin --bsp Linux_for_Tegra --sectors 488397168 --keys ~/keys --to out
    """
    import tomllib

    from firmware.errors import FirmwareError
    from firmware.image import jetson
    from firmware.image.build import build as make
    from firmware.image.plan import Plan

    project, target, kind = project.resolve(), target.resolve(), BOARDS[board]
    version = version or tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
    plan = Plan(project, kind, version, epoch, keys.resolve(), target, cache.expanduser().resolve(), mirror,
                date or _last_commit(project), "" if security == "none" else security)  # fmt: skip
    unsafe = not plan.security and not kind.nvidias
    if unsafe:
        click.secho(_UNSAFE, err=True, fg="red", bold=True)
    if kind.nvidias:
        if bsp is None or sectors is None or twice:
            raise click.UsageError(f"--board {board} needs --bsp and --sectors, and goes without --twice")
        first = jetson.build(plan, bsp.resolve(), sectors)
    elif bsp is not None or sectors is not None:
        raise click.UsageError(f"--bsp and --sectors are for a Jetson, and --board {board} is none")
    else:
        first = make(plan)
    for name, digest in first.items():
        click.echo(f"{digest}  {name}")
    if twice:
        again = make(plan)
        if differ := [name for name, digest in first.items() if again[name] != digest]:
            raise FirmwareError(f"two builds differ in: {', '.join(differ)}")
        click.echo(f"two builds are the same in: {', '.join(first)}")
    if bsp is not None:
        click.echo(jetson.flash_command(bsp.resolve(), module))
    else:
        click.echo(f"scanside-firmware flash {target / 'manifest.json'} DISK --key {plan.keys / 'image.pub'}")
    if unsafe:
        click.secho(_UNSAFE, err=True, fg="red", bold=True)


def _last_commit(project: Path) -> int:
    """When it was made, in seconds since 1970 UTC."""
    import subprocess

    from firmware.errors import die

    command, hint = ["git", "-C", str(project), "log", "-1", "--format=%ct"], "name the date with --date SECONDS"
    try:
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    except OSError as error:
        die(f"git, which dates the image by the last commit, can't be started: {error.strerror}", hint)
    except subprocess.CalledProcessError as error:
        die(f"git does not tell the last commit of {project}: {error.stderr.strip()}", f"do as it says, or {hint}")


@click.command("lock")
@click.option("--board", required=True, type=click.Choice(sorted(BOARDS)))
@click.option(
    "--machine",
    type=click.Choice([X86_64, AARCH64]),
    help="Another than the board's is for containers.  [default: the board's]",
)
@click.option("--project", default=Path(), type=_FOLDER, show_default="here", help="The sources of Scanside.")
def lock(board: str, machine: str | None, project: Path) -> None:
    """Resolve what the device needs anew, and what makes the project's own wheel, and pin it with hashes.

    Review the difference, then commit it.
    """
    from firmware.image import wheels

    for path in wheels.write_lock(project, BOARDS[board], machine or ""):
        click.echo(path)
