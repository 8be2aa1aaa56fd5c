"""What several commands share."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click


class Number(click.FloatRange):
    """As click's, which takes ``nan`` for a number, and infinity for one that is not too large."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no number", param, ctx)
        return number


SHARE = Number(1e-6, 1 - 1e-6)

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
