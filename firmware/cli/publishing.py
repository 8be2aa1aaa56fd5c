"""Commands of a publisher."""

from __future__ import annotations

from pathlib import Path

import click

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
