"""Commands that build packages and sign them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.backend import cores
from appliance.errors import ApplianceError
from appliance.signature import key_id, load_or_create_private_key
from compression import stages
from compression.cli.options import DATA, FILE, FOLDER, RECIPE, WEIGHTS, WORK
from compression.recipe import Recipe, RecipeError, read, task

if TYPE_CHECKING:
    from appliance.package import Package
    from compression.segmentation.recipe import SegmentationRecipe

_STAGES = (
    "data", "train", "prune", "choose", "volumes", "export", "quantize", "gate", "ensemble", "golden", "evaluate",
    "report", "pack",
)  # fmt: skip
_THERE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DEVELOPMENT_KEY = Path(".build") / "development.pem"


@click.command()
@RECIPE
@DATA
@WEIGHTS
@WORK
@click.option("--key", type=click.Path(path_type=Path),
              help=f"Private key that signs.  [default: {_DEVELOPMENT_KEY}, made where there is none]")  # fmt: skip
@click.option("--release", is_flag=True, help="Sign for users: needs --key, and refuses the development key.")
@click.option("--trust", type=FOLDER, help="Also write the public key into this folder.")
@click.option("--quick", is_flag=True, help="A toy package, to see that it works, in under two minutes.")
@click.option("--stage", type=click.Choice(_STAGES), help="Stop after this stage.")
@click.option("--force", type=click.Choice(_STAGES), multiple=True, help="Run this stage again though nothing changed.")
@click.option(
    "--adopt",
    type=click.Choice(_STAGES),
    multiple=True,
    help="Keep what this stage made though its sources changed, a comment for instance; the package says so.",
)
@click.option("--threads", type=click.IntRange(1), default=cores(), show_default=True,
              help="Cores to use; a classification trains on no more than its recipe's train.threads.")  # fmt: skip
def build(
    recipe_path: Path,
    data: Path,
    weights: Path,
    work: Path | None,
    key: Path | None,
    release: bool,
    trust: Path | None,
    quick: bool,
    stage: str | None,
    force: tuple[str, ...],
    adopt: tuple[str, ...],
    threads: int,
) -> None:
    """Build a package from a recipe, stage by stage.

    What is already there and still fits is kept; training goes on from its last checkpoint, which Ctrl-C and SIGTERM
    write at once. The package, its card and its report lie beside the recipe; with --quick, in the work folder. On
    several GPUs or processes: torchrun --nproc-per-node 2 -m compression build RECIPE.
    """
    from compression import build as classification
    from compression import distributed
    from compression import quick as toy
    from compression.pack import write_public_key
    from compression.segmentation import build as segmentation
    from compression.segmentation import quick as segmentation_quick
    from compression.segmentation import recipe as segmentation_recipe

    rank = 0
    try:
        read_recipe = segmentation_recipe.read if task(recipe_path) == "segmentation" else read
        recipe = read_recipe(recipe_path)
        distributed.use_threads(threads)
        with distributed.start() as group:
            rank = group.rank
            with group.first():
                private_key, is_new = load_or_create_private_key(_signing_key(key, release))
            if is_new:
                click.echo(f"Made a development key, {_DEVELOPMENT_KEY}; devices trust it only where they are told to.")
            work = work or Path(".build") / recipe.package.id
            given = recipe_path, data, weights, work, private_key, recipe_path.parent, threads
            if isinstance(recipe, Recipe):
                started = classification.Build(recipe, *given, group=group)
                if quick:
                    with group.first():
                        started = toy.shrink(started)
                classification.run(started, stage, force, adopt)
            else:
                drawing = segmentation.Build(recipe, *given, group=group)
                if quick:
                    with group.first():
                        drawing = segmentation_quick.shrink(drawing)
                segmentation.run(drawing, stage, force, adopt)
            if trust is not None and group.main:
                click.echo(f"Wrote {write_public_key(private_key, trust)}: devices with this file trust the package.")
    except (RecipeError, ApplianceError) as error:
        raise click.ClickException(f"process {rank}: {error}" if rank else str(error)) from error


def _signing_key(key: Path | None, release: bool) -> Path:
    """The file of the key that signs; raises where a release has none of its own, or a key is not there."""
    if key is not None and not key.exists():
        raise RecipeError(f"{key} is not there; make it with: python -m compression keygen {key}")
    if release:
        if key is None:
            raise RecipeError("a release needs a key of its own: --key FILE, made with python -m compression keygen")
        if _DEVELOPMENT_KEY.exists() and key.read_bytes() == _DEVELOPMENT_KEY.read_bytes():
            raise RecipeError(f"{key} is this checkout's development key, which signs no release")
    return key or _DEVELOPMENT_KEY


_PACKAGE = click.argument("package_path", metavar="PACKAGE", type=_THERE)
_KEY = click.option("--key", required=True, type=_THERE, help="Private key that signs.")


@click.command("add-reference")
@RECIPE
@_PACKAGE
@DATA
@WORK
@_KEY
def add_reference(recipe_path: Path, package_path: Path, data: Path, work: Path | None, key: Path) -> None:
    """Give PACKAGE, which was built before, a drift reference, and write it as the version of RECIPE.

    Its networks, calibration and golden vectors stay as they are; nothing is trained. A build adds a reference by
    itself.
    """
    from compression import build as classification
    from compression import pack, reference
    from compression.segmentation import build as segmentation
    from compression.segmentation import reference as segmented

    private_key, _ = load_or_create_private_key(key)
    recipe, before = _shipped(recipe_path, package_path)
    named = recipe.package
    given = recipe_path, data, Path(), work or Path(".build") / named.id, private_key, recipe_path.parent
    if isinstance(recipe, Recipe):
        started = classification.Build(recipe, *given)
        stages.run(started, classification.STAGES, "data", (), ())
        reference.check_same(started, before)
        later = reference.later_version(
            named.id,
            named.version,
            before,
            lambda: reference.training_images(started),
            lambda: reference.validation_images(started),
        )
        click.echo(pack.write(started, *later))
        return
    drawing = segmentation.Build(recipe, *given)
    segmented.check_same(drawing, before)
    later = reference.later_version(
        named.id,
        named.version,
        before,
        lambda: segmented.training(drawing),
        lambda: segmented.studies(drawing),
        segmented.WHO,
    )
    click.echo(pack.write(drawing, *later))


@click.command("rewrite-card")
@RECIPE
@_PACKAGE
@_KEY
def rewrite_card(recipe_path: Path, package_path: Path, key: Path) -> None:
    """Give PACKAGE, which was built before, the card that RECIPE says today, and write it as RECIPE's version.

    For words that turned out untrue, card.looked_at for instance. Networks, calibration, golden vectors, drift
    reference and figures stay as they are. Card and report are made anew of the figures in report.json beside the
    recipe, which must be the package's own.
    """
    from compression import build as classification
    from compression import rewriting
    from compression.segmentation import build as segmentation

    private_key, _ = load_or_create_private_key(key)
    recipe, before = _shipped(recipe_path, package_path)
    given = recipe_path, Path(), Path(), Path(), private_key, recipe_path.parent
    if isinstance(recipe, Recipe):
        click.echo(rewriting.of_classification(classification.Build(recipe, *given), before))
    else:
        click.echo(rewriting.of_segmentation(segmentation.Build(recipe, *given), before))


def _shipped(recipe_path: Path, package_path: Path) -> tuple[Recipe | SegmentationRecipe, Package]:
    """A package that was built before and its recipe, which must be of one task."""
    from appliance import package
    from appliance.signature import TRUSTED_KEYS, load_trusted_keys
    from compression.segmentation import recipe as segmentation_recipe

    before, made = package.read(package_path, load_trusted_keys((TRUSTED_KEYS,))), task(recipe_path)
    if made != before.manifest.task:
        raise RecipeError(
            f"{package_path} is of a {before.manifest.task} and {recipe_path} of a {made}; give the package's own "
            "recipe"
        )
    return segmentation_recipe.read(recipe_path) if made == "segmentation" else read(recipe_path), before


@click.command()
@click.argument("path", metavar="FILE", type=FILE)
@click.option("--trust", type=FOLDER, help="Write the public key into this "
              "folder, as devices want it.  [default: beside FILE]")  # fmt: skip
def keygen(path: Path, trust: Path | None) -> None:
    """Make a key that signs packages. Keep FILE secret and safe; devices need the .pub file."""
    from compression.pack import write_public_key

    if path.exists():
        raise click.ClickException(f"{path} is there already; a key is never overwritten")
    key, _ = load_or_create_private_key(path)
    public = write_public_key(key, trust or path.parent)
    click.echo(f"Key {key_id(key.public_key())}: private {path}, public {public}")
