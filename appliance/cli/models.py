"""Commands that change which model package reads: install, switch, roll back, and cases that must not regress."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from appliance.cli.options import JSON, acting, configured, moment, operator, reason, table
from appliance.config_file import load
from appliance.database import existing_ledger
from appliance.errors import PackageError

_BY = click.option("--by", help="Who says so.  [default: the user who calls]")
_WHY = click.option("--why", callback=reason, required=True, help="The reason, which is kept with the change.")


@click.group()
def models() -> None:
    """Install model packages, and say which one reads.

    \b
    A new version comes into service like this:
      scanside models install chest-pneumonia-1.4.0.scanside
      scanside models switch chest-pneumonia 1.4.0 --why "retrained with this site's portable unit"
      scanside models rollback chest-pneumonia --why "more false alarms since"

    An appliance that runs goes on receiving and reading meanwhile; the change takes place between two images, and every
    result names the package that made it.
    """


def progress(share: float, what: str) -> None:
    """Tells on standard error what takes long."""
    if sys.stderr.isatty():
        click.echo(f"\r{share:4.0%} {what:<60}", nl=False, err=True)


@models.command("list")
@JSON
@configured
def list_models(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List the packages on this device, and which of them read."""
    from appliance import installed
    from appliance.package_store import PackageStore

    config = load(config_path, data_dir)
    try:
        reads = {each.sha256 for each in installed.packages(config)}
    except PackageError as error:  # what it can be mended with is listed all the same
        reads = set()
        click.echo(f"Nothing reads: {error}", err=True)
    known = {}
    if config.ledger_path.exists():
        known = {row["sha256"]: row for row in PackageStore(config.ledger_path, read_only=True).installed()}
    rows: dict[str, dict[str, Any]] = {}
    for opened in installed.verified(config):
        row = known.get(opened.sha256)
        rows[opened.sha256] = {
            "model": opened.manifest.id,
            "version": opened.manifest.version,
            "reads": opened.sha256 in reads,
            "sha256": opened.sha256,
            "signed_by": opened.signed_by,
            "installed_at": row and row["installed_at"],
            "installed_by": row and row["installed_by"],
            "file": str(opened.path),
        }
    ordered = sorted(rows.values(), key=lambda row: (row["model"], row["version"]))
    if as_json:
        click.echo(json.dumps(ordered, indent=1))
        return
    table(
        ("model", "version", "reads", "SHA-256", "installed"),
        (
            (row["model"], row["version"], "yes" if row["reads"] else "", row["sha256"][:12], _installed(row))
            for row in ordered
        ),
    )


def _installed(row: dict[str, Any]) -> str:
    return f"{moment(row['installed_at'])} by {row['installed_by']}" if row["installed_at"] else "comes along"


@models.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@configured
def install(path: Path, config_path: Path | None, data_dir: Path | None) -> None:
    """Keep a package FILE on this device, once its signature is verified. It does not read before a switch."""
    from appliance import installed
    from appliance.package_store import PackageStore

    config = load(config_path, data_dir)
    store = PackageStore(existing_ledger(config))
    with acting(config, "models install", f"package {path.name}"):
        opened = installed.install(config, store, path, operator())
    click.echo(f"{opened} is installed, signed by trusted key {opened.signed_by}")
    click.echo(f"To have it read: scanside models switch {opened.manifest.id} {opened.manifest.version} --why ...")


@models.command()
@click.argument("model")
@click.argument("version")
@_BY
@_WHY
@click.option(
    "--override", default="", metavar="REASON", help="Switch although a case regresses that must not, and why."
)
@configured
def switch(
    model: str,
    version: str,
    by: str | None,
    why: str,
    override: str,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Have VERSION of MODEL read from now on.

    First it proves itself on this device (golden vectors), and the cases that must not regress are replayed on it. Then
    it is put in force at one stroke. Where an appliance runs, this waits until it reads with it.
    """
    from appliance import installed, switching

    config = load(config_path, data_dir)
    existing_ledger(config)
    with acting(config, "models switch", f"package {model} {version}"):
        done = switching.switch(
            config, installed.find(config, model, version), by or operator(), why, progress, override
        )
    say_switched(done, model)


@models.command()
@click.argument("model")
@_BY
@_WHY
@configured
def rollback(model: str, by: str | None, why: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Have the package of MODEL read again that read before the latest switch."""
    from appliance import switching

    config = load(config_path, data_dir)
    existing_ledger(config)
    with acting(config, "models rollback", f"package {model}"):
        done = switching.rollback(config, model, by or operator(), why, progress)
    say_switched(done, model)


def say_switched(done: Any, model: str) -> None:
    version = done.choice.version
    click.echo(f"{model} {version} is in force" if version else f"{model} reads no longer")
    if done.choice.kind in ("switch", "promotion"):
        click.echo(f"{done.cases.in_words()}{', overridden' if done.choice.overridden else ''}")
    if done.served:
        click.echo(f"the appliance reads with it since {done.seconds:.1f} s after the change")
    else:
        click.echo("no appliance reads with it yet: it will when it starts; see `scanside status`")


@models.command()
@click.argument("model", default="")
@JSON
@configured
def history(model: str, as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """Show which package read from when on, who said so, and why."""
    from appliance.package_store import PackageStore

    rows = PackageStore(existing_ledger(load(config_path, data_dir)), read_only=True).choices(model)
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not rows:
        click.echo("No package was ever switched: those of the configuration read, or those that come along.")
    else:
        table(
            ("when", "model", "version", "what", "by", "why"),
            (
                (
                    moment(row["chosen_at"]),
                    row["model"],
                    row["version"] or "none",
                    row["kind"],
                    row["chosen_by"] or "the device",
                    row["why"] + (f" (overridden: {row['overridden']})" if row["overridden"] else ""),
                )
                for row in rows
            ),
        )


@models.group()
def cases() -> None:
    """Say which results no later package may lose.

    Before a switch their images are read by the new package, and it must say of them what readers said, or what the
    result said when it was added. Retention leaves their images alone.
    """


_NUMBERS = click.argument("numbers", nargs=-1, required=True, type=click.IntRange(1, 2**63 - 1))


@cases.command()
@_NUMBERS
@_WHY
@configured
def add(numbers: tuple[int, ...], why: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Keep the results NUMBERS as cases that must not regress."""
    from appliance import regression
    from appliance.package_store import PackageStore

    config = load(config_path, data_dir)
    store = PackageStore(existing_ledger(config))
    for number in numbers:
        with acting(config, "models cases add", f"image {number}"):
            kept = regression.add(config, store, number, operator(), why)
        click.echo(f"image {number} is a case for {', '.join(kept)}")


@cases.command()
@_NUMBERS
@configured
def remove(numbers: tuple[int, ...], config_path: Path | None, data_dir: Path | None) -> None:
    """Let the results NUMBERS be cases no longer."""
    from appliance.package_store import PackageStore

    config = load(config_path, data_dir)
    store = PackageStore(existing_ledger(config))
    with acting(config, "models cases remove", " ".join(f"image {number}" for number in numbers)):
        count = store.remove_cases(numbers)
    click.echo(f"{count} cases removed")


@cases.command("list")
@JSON
@configured
def list_cases(as_json: bool, config_path: Path | None, data_dir: Path | None) -> None:
    """List the cases, and what is expected of each."""
    from appliance.package_store import PackageStore

    rows = PackageStore(existing_ledger(load(config_path, data_dir)), read_only=True).cases()
    if as_json:
        click.echo(json.dumps(rows, indent=1))
    elif not rows:
        click.echo("There is none: scanside models cases add NUMBER --why ...")
    else:
        table(
            ("image", "model", "expected", "by", "why"),
            (
                (str(row["instance_id"]), row["model"], _expected(row["expected"]), row["added_by"], row["why"])
                for row in rows
            ),
        )


def _expected(expected: dict[str, dict[str, Any]]) -> str:
    findings = [f"{label} {word}" for label, word in expected["findings"].items()]
    return ", ".join([*findings, *(f"{label} {voxels:,} voxels" for label, voxels in expected["segments"].items())])
