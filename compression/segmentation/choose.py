"""Stage ``choose``: the smallest pruned network that draws as well as the unpruned one, the same in each fold."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compression.segmentation import prune
from compression.unet import UNet

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("gate",)


def run(build: Build) -> str:
    rows = choose(prune.table(build), build.recipe.gate.dice_loss)
    (build.folder("choose") / "table.json").write_text(json.dumps(rows, indent=1))
    chosen = next(row for row in rows if row["chosen"])
    return (
        f"{chosen['name']}: {chosen['parameters'] / rows[0]['parameters']:.0%} of the parameters, "
        f"{chosen['macs'] / rows[0]['macs']:.0%} of the MACs"
    )


def choose(rows: list[dict[str, Any]], dice_loss: float) -> list[dict[str, Any]]:
    """Mark the smallest network none of whose segments loses more than ``dice_loss``; it may be the first, unpruned."""
    good = [
        row
        for row in rows
        if all(before - after <= dice_loss for before, after in zip(rows[0]["dice"], row["dice"], strict=True))
    ]
    chosen = min(good, key=lambda row: row["parameters"])
    return [{**row, "chosen": row is chosen} for row in rows]


def table(build: Build) -> list[dict[str, Any]]:
    """Every network that was made, and which goes on."""
    rows: list[dict[str, Any]] = json.loads((build.folder("choose") / "table.json").read_text())
    return rows


def load(build: Build, fold: int) -> UNet:
    """The network of a fold that goes on, in evaluation mode."""
    return prune.network(build, next(row for row in table(build) if row["chosen"])["name"], fold)
