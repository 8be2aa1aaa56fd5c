"""The command line of the training side."""

from __future__ import annotations

import os
from pathlib import Path

import click

from appliance.errors import ApplianceError
from appliance.signature import key_id, load_or_create_private_key
from compression.recipe import RecipeError, read

_STAGES = ("data", "train", "export", "quantize", "calibrate", "golden", "evaluate", "pack")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Build model packages for Scanside: train, quantize, calibrate, evaluate, sign."""


@main.command()
@click.argument("recipe_path", metavar="RECIPE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True,
              help="Folder of the data sets that the recipe names.")  # fmt: skip
@click.option("--weights", type=click.Path(path_type=Path), default=Path("../shared/weights"), show_default=True,
              help="Folder of the initial weights.")  # fmt: skip
@click.option("--work", type=click.Path(path_type=Path), help="Folder for the stages' results.  [default: .build/ID]")
@click.option("--key", type=click.Path(path_type=Path), help="Private key that signs; made where there is none.  "
              "[default: scanside/signing.pem in your configuration folder]")  # fmt: skip
@click.option(
    "--trust", type=click.Path(file_okay=False, path_type=Path), help="Also write the public key into this folder."
)
@click.option("--stage", type=click.Choice(_STAGES), help="Stop after this stage.")
@click.option("--force", type=click.Choice(_STAGES), multiple=True, help="Run this stage again though nothing changed.")
def build(
    recipe_path: Path,
    data: Path,
    weights: Path,
    work: Path | None,
    key: Path | None,
    trust: Path | None,
    stage: str | None,
    force: tuple[str, ...],
) -> None:
    """Build a package from a recipe, stage by stage.

    What is already there and still fits is kept; training goes on from its last finished epoch.
    """
    from compression import build as builder
    from compression.pack import write_public_key

    try:
        recipe = read(recipe_path)
        key = key or Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "scanside" / "signing.pem"
        private_key, is_new = load_or_create_private_key(key)
        if is_new:
            click.echo(
                f"Made a signing key: {key} (id {key_id(private_key.public_key())}). Keep it; devices must trust it."
            )
        started = builder.Build(
            recipe, recipe_path, data, weights, work or Path(".build") / recipe.package.id, private_key
        )
        builder.run(started, stage, force)
        if trust is not None:
            click.echo(f"Wrote {write_public_key(private_key, trust)}: devices with this file trust the package.")
    except (RecipeError, ApplianceError) as error:
        raise click.ClickException(str(error)) from error
