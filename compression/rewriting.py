"""A shipped package under a later version, with the card and the report that today's recipe makes of its figures.

For words that turned out untrue, when the build's work folder is long gone. The words alone are made anew: networks,
calibration, golden vectors, drift reference and figures stay the very bytes that they were, and the manifest says which
package they are of.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from compression import card, pack, report, shipping
from compression.recipe import RecipeError
from compression.reference import check_becomes
from compression.segmentation import card as drawn_card
from compression.segmentation import evaluate as drawn_evaluate
from compression.segmentation import pack as drawn_pack
from compression.segmentation import report as drawn_report

if TYPE_CHECKING:
    from appliance.package import Manifest, Package
    from compression import stages
    from compression.build import Build
    from compression.segmentation.build import Build as DrawnBuild

# What the recipe says of a package and the card repeats from the manifest.
_OF_THE_PACKAGE = ("title", "intended_use", "accepts", "finding_site", "segments")
Words = Callable[["Manifest", dict[str, Any]], tuple[str, str]]


def of_classification(build: Build, before: Package) -> str:
    """Write package, card and report into ``build.out``, where the package's own report lies; where, in words."""

    def words(manifest: Manifest, whole: dict[str, Any]) -> tuple[str, str]:
        told = {name: pack.of_sets(whole, name) for name in manifest.targets}
        _check_figures(build, before, told)
        return card.write_card(build, manifest, whole), report.page(build, whole)

    return _rewrite(build, before, words)


def of_segmentation(build: DrawnBuild, before: Package) -> str:
    """As `of_classification`."""

    def words(manifest: Manifest, whole: dict[str, Any]) -> tuple[str, str]:
        told = {name: drawn_pack.of_sets(whole, name, each.producer) for name, each in manifest.targets.items()}
        _check_figures(build, before, told)
        whole["drop"] = drawn_evaluate.drops(build, whole["sets"])  # which older reports lack
        return drawn_card.write_card(build, manifest, whole), drawn_report.page(build, whole)

    return _rewrite(build, before, words)


def _rewrite(build: stages.Build, before: Package, words: Words) -> str:
    """Write all of it once it is made; ``words``: the card and the report's page, of manifest and report."""
    path = report.published(build)[1]
    manifest = _manifest(build, before)
    whole = _read(path)
    whole["package"] = f"{manifest.id} {manifest.version}"
    whole["ships"] = {
        name: shipping.told(each.producer, each.why, each.calibrated_with) for name, each in manifest.targets.items()
    }
    try:
        made_card, page = words(manifest, whole)
    except KeyError as error:
        raise RecipeError(f"{path} lacks {error}, which card or report tells today; build the package anew") from error
    report.write(build.out, whole, page)
    files = {name: before.file(name) for name in before.manifest.files}
    return pack.write(build, manifest, {**files, manifest.card: made_card.encode()}, made_card)


def _manifest(build: stages.Build, before: Package) -> Manifest:
    """The package's own, under the recipe's version.

    Raises
    ------
    RecipeError
        The recipe is of another package, has no version of its own, or says more otherwise than card and report.
    """
    old, recipe = before.manifest, build.recipe.package
    check_becomes(before, recipe.id, recipe.version)
    for name in _OF_THE_PACKAGE:
        if getattr(recipe, name, getattr(old, name)) != getattr(old, name):
            raise RecipeError(
                f"{build.recipe_path}: package.{name} is not what {before} says, which is more than its card; build it"
            )
    origin = {
        "version": old.version,
        "package_sha256": before.sha256,
        "recipe_sha256": hashlib.sha256(build.recipe_path.read_bytes()).hexdigest(),
    }
    training = {**old.training, "card_rewritten_of": origin}
    return msgspec.structs.replace(old, version=recipe.version, training=training)


def _read(path: Path) -> dict[str, Any]:
    try:
        whole: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (FileNotFoundError, msgspec.DecodeError) as error:
        raise RecipeError(f"{path}, of whose figures card and report are made, can't be read: {error}") from error
    return whole


def _check_figures(build: stages.Build, before: Package, told: dict[str, dict[str, Any]]) -> None:
    for target, sets in told.items():
        if before.manifest.targets[target].measured["sets"] != sets:
            raise RecipeError(
                f"the figures of {target} in {report.published(build)[1]} are not those of {before}; bring the report "
                "of its build"
            )
