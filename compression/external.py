"""External sets: data of other places, that a model is measured on and that shapes nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compression.content import content_version

if TYPE_CHECKING:
    from compression.stages import Build

_PREFIX = "external: "


def sets(build: Build) -> dict[str, str]:
    """What each is called in a report -> its folder below the data's root, in the recipe's order."""
    return {f"{_PREFIX}{name}": name for name in build.recipe.data.external}


def fingerprint(build: Build) -> bytes:
    """For the keys of stages that measure: the sets' versions. The training set's is in those before."""
    return b"".join(content_version(build.data_root / name).encode() for name in build.recipe.data.external)
