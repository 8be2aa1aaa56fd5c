"""Commands about model packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from appliance.cli.options import JSON, configured
from appliance.config import Config
from appliance.config_file import load
from appliance.errors import SignatureError


@click.group()
def package() -> None:
    """Look into a model package."""


def _open_package(path: Path, config: Config, verified: bool) -> Any:
    from appliance import installed
    from appliance import package as packages

    return packages.read(path, installed.trusted(config) if verified else None)


@package.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@JSON
@configured
def show(path: Path, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Print what a package is, who signed it, what runs it on this device, and its card.

    A package that this device doesn't trust is shown, too, and said so.
    """
    import msgspec

    from appliance.describe import describe

    config = load(config_path, data_dir)
    try:
        found = _open_package(path, config, verified=True)
        said = f"by key {found.signed_by}, which this device trusts"
    except SignatureError as error:
        found, said = _open_package(path, config, verified=False), f"NOT TRUSTED: {error}"
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found.manifest), indent=1).decode())
    else:
        click.echo(describe(found, said))


@package.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@configured
def verify(path: Path, config_path: Path | None, data_dir: Path | None) -> None:
    """Check that a package is whole, unchanged, and signed by a key that this device trusts."""
    found = _open_package(path, load(config_path, data_dir), verified=True)
    targets = ", ".join(sorted(found.manifest.targets))
    click.echo(f"{found} is whole and signed by trusted key {found.signed_by}; targets: {targets}")
