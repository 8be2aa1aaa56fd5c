"""External sets: data of other places, that a model is measured on and that no stage lets shape it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from compression.content import content_version

if TYPE_CHECKING:
    from compression.stages import Build

_PREFIX = "external: "


def sets(build: Build) -> dict[str, str]:
    """What each is called in a report -> its folder below the data's root, in the recipe's order."""
    return {f"{_PREFIX}{name}": name for name in build.recipe.data.external}


def blindness(build: Build) -> str:
    """What was chosen on data that figures are of, in sentences; of a set that people looked at, the recipe says so."""
    recipe, said = build.recipe, []
    if getattr(recipe.data, "cross_validated", 1) > 1:
        said.append("Pruning and quantization were chosen on validation cases, which other folds test.")
    said.append(f"The build chose nothing {'else ' if said else ''}on test or external data.")
    names = {"test": "the test"} | {name: name for name in recipe.data.external}
    seen = [words for name, words in names.items() if name in recipe.card.looked_at]
    if seen:
        said.append(
            f"Yet figures on {' and '.join(seen)} are not blind: people saw results there while they made the model."
        )
    return " ".join(said)


def fingerprint(build: Build) -> bytes:
    """For the keys of stages that measure: the sets' names and versions. The training set's is in those before."""
    return msgspec.json.encode([(name, content_version(build.data_root / name)) for name in build.recipe.data.external])
