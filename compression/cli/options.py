"""What several commands share."""

from __future__ import annotations

from pathlib import Path

import click

RECIPE = click.argument("recipe_path", metavar="RECIPE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
DATA = click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=Path("../shared/data"),
    show_default=True,
    help="Folder of the data sets that the recipe names.",
)
WEIGHTS = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    default=Path("../shared/weights"),
    show_default=True,
    help="Folder of the initial weights.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="JSON instead of text.")
