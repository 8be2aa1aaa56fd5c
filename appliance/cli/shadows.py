"""Commands about a second package that reads the same images for comparison, and its taking over."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from appliance.cli.models import progress, say_switched
from appliance.cli.options import acting, configured, operator, reason
from appliance.config_file import load
from appliance.database import existing_ledger
from appliance.errors import ApplianceError, ConfigError


@click.group()
def shadow() -> None:
    """Let a second package read the same images, for comparison only, and let it take over once it has shown itself.

    It reads while nothing waits, on processor time that nobody else wants. What it says is never shown as a result and
    never sent.

    \b
      scanside shadow start chest-pneumonia-1.4.0.scanside --why "retrained in May"
      scanside shadow report
      scanside shadow promote --by "J. Smith" --key smith.pem --why "as planned"
    """


@shadow.command()
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--why", callback=reason, required=True, help="The reason, which is kept.")
@configured
def start(path: Path, why: str, config_path: Path | None, data_dir: Path | None) -> None:
    """Have the package FILE read in shadow, once it is verified; an appliance that runs begins at once."""
    from appliance import installed, package, switching
    from appliance.package_store import PackageStore
    from appliance.shadow.store import ShadowStore

    config = load(config_path, data_dir)
    existing_ledger(config)
    if not config.shadow.enabled or not config.models.switches:
        raise ConfigError("shadow.enabled or models.switches is false", hint="set both to true in the configuration")
    opened = package.read(path, installed.trusted(config))
    former = switching.reading(config, opened.manifest.id)
    if former is None:
        raise ApplianceError(f"no package reads {opened.manifest.id} here, so there is nothing to compare it with")
    if former.sha256 == opened.sha256:
        raise ApplianceError(f"{opened} is the one that reads")
    with acting(config, "shadow start", f"package {opened}"):
        installed.keep(config, PackageStore(config.ledger_path), opened, operator())
        manifest = opened.manifest
        ShadowStore(config.ledger_path).begin(
            manifest.id, manifest.version, opened.sha256, former.sha256, operator(), why
        )
    click.echo(f"{opened} reads in shadow of {former} from now on")


@shadow.command()
@configured
def stop(config_path: Path | None, data_dir: Path | None) -> None:
    """Have it read no longer. What it has shown stays: scanside shadow report."""
    from appliance.shadow.store import ShadowStore

    config = load(config_path, data_dir)
    store = ShadowStore(existing_ledger(config))
    running = store.running()
    if running is None:
        raise ApplianceError("no package is in shadow")
    with acting(config, "shadow stop", f"package {running['model']} {running['version']}"):
        store.end(running["id"], operator(), "stopped")
    click.echo(f"{running['model']} {running['version']} reads in shadow no longer")


@shadow.command()
@click.option("--format", "form", type=click.Choice(("text", "json", "html")), default="text", show_default=True)
@click.option("--number", type=click.IntRange(min=1), help="Of an earlier shadow.  [default: the latest]")
@click.option("--to", "path", type=click.Path(dir_okay=False, path_type=Path), help="File.  [default: print it]")
@configured
def report(
    form: Literal["text", "json", "html"],
    number: int | None,
    path: Path | None,
    config_path: Path | None,
    data_dir: Path | None,
) -> None:
    """Say how the package in shadow compares with the one that reads, and which criteria it meets."""
    from appliance.shadow import report as reports
    from appliance.shadow.store import ShadowStore
    from appliance.spool import write_durably

    config = load(config_path, data_dir)
    made = reports.make(config, ShadowStore(existing_ledger(config), read_only=True), number)
    if form == "text":
        content = "".join(f"{line}\n" for line in reports.text(made))
    else:
        content = made.to_json().decode() + "\n" if form == "json" else reports.html(made)
    if path is None:
        click.echo(content, nl=False)
    else:
        write_durably(path, content.encode(), mode=0o644)
        click.echo(f"written to {path}")


@shadow.command()
@click.option("--by", required=True, help="The person who approves; NAME.pub lies in the folder shadow.approvers.")
@click.option("--why", callback=reason, required=True, help="The reason, which is signed and kept.")
@click.option(
    "--key", "key_path", required=True, type=click.Path(path_type=Path), help="That person's Ed25519 key, a PEM file."
)
@configured
def promote(by: str, why: str, key_path: Path, config_path: Path | None, data_dir: Path | None) -> None:
    """Let the package in shadow take over.

    Only with all criteria met, receipts on this device, no case lost that must not regress, and the signature of a
    person whose public key lies on the device. An evidence bundle is written, in the form of a predetermined change
    control plan. The way back is scanside models rollback.

    \b
    A key and its public part are made by:
      openssl genpkey -algorithm ed25519 -out smith.pem
      openssl pkey -in smith.pem -pubout -out "J. Smith.pub"
    """
    from appliance.shadow.promotion import promote as take_over

    config = load(config_path, data_dir)
    existing_ledger(config)
    with acting(config, "shadow promote", f"approved by {by}"):
        switched, evidence = take_over(config, by, why, key_path, progress)
    say_switched(switched, switched.choice.model)
    click.echo(f"evidence: {evidence}")
