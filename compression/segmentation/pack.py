"""Stage ``pack``: manifest, card, signature, one file beside the recipe."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import msgspec

from appliance import package
from appliance.package import GoldenSpec, InputSpec, Manifest, OutputSpec, Target
from appliance.signature import public_pem
from compression import reference as drift
from compression import stages
from compression.gate import runtime
from compression.inference import EMBEDDING, INPUT, LOGITS
from compression.pack import published as published
from compression.pack import write
from compression.quantize import FLOAT
from compression.segmentation import cases, choose, evaluate, gate, golden, reference, train
from compression.segmentation.card import write_card
from compression.shipping import summary

if TYPE_CHECKING:
    from compression.segmentation.build import Build

SECTIONS = ("package", "card", "golden", "train", "quantize", "augment_policy")


def fingerprint(build: Build) -> bytes:
    return public_pem(build.key)


def run(build: Build) -> str:
    recipe, report = build.recipe, evaluate.load(build)
    manifest = Manifest(
        format=package.FORMAT,
        id=recipe.package.id,
        version=recipe.package.version,
        title=recipe.package.title,
        task="segmentation",
        intended_use=recipe.package.intended_use,
        accepts=recipe.package.accepts,
        input=InputSpec(INPUT, (1, 1, *recipe.input.shape), recipe.input.steps),
        outputs=OutputSpec(LOGITS, "", EMBEDDING),
        findings=(),
        finding_site=recipe.package.finding_site,
        targets={name: _target(build, choice, report) for name, choice in gate.load(build).items()},
        golden=GoldenSpec("golden.npz", recipe.golden.count, 0.0, recipe.golden.smallest_dice),
        training=_provenance(build),
        card="card.md",
        files={},
        segments=recipe.package.segments,
    )
    card = write_card(build, manifest, report)
    files = {
        "golden.npz": golden.path(build).read_bytes(),
        "card.md": card.encode(),
        **{target.artifact: gate.artifact(build, name).read_bytes() for name, target in manifest.targets.items()},
    }
    unsigned = package.Package(published(build)[0], "", manifest, files, None)
    arrays, studies = drift.make(unsigned, lambda: reference.training(build), lambda: reference.studies(build))
    opened = drift.added(unsigned, files, arrays, studies, reference.WHO)
    return write(build, opened.manifest, {**files, drift.FILE: opened.file(drift.FILE)}, card)


def _target(build: Build, choice: gate.Choice, report: dict[str, Any]) -> Target:
    """One network with what was measured of it."""
    verdict, name = choice.shipped, choice.target
    return Target(
        artifact=f"artifacts/{name}{gate.artifact(build, name).suffix}",
        precision="float32" if verdict.producer == FLOAT else "int8",
        producer=verdict.producer,
        calibrated_with=runtime(build, name),
        temperature=1.0,
        activation_map_scale=1.0,
        operating_points=(),
        default_operating_point="",
        why=choice.reason,
        measured={
            # Times differ from run to run; the same inputs make the same package. The report has them.
            "gate": [{key: value for key, value in each.items() if key != "milliseconds"}
                     for each in summary(choice.tried, choice.shipped)],
            "sets": of_sets(report, name, verdict.producer),
        },
    )  # fmt: skip


def of_sets(report: dict[str, Any], target: str, producer: str) -> dict[str, Any]:
    """What the report's sets say of the network that ships for a target, for the manifest."""
    row = evaluate.row_of(target, producer)
    return {
        key: {"cases": found["cases"], "figures": measured(found["networks"][row])}
        for key, found in report["sets"].items()
    }


def measured(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Segment -> figure -> what `evaluate.load` has, without figures that no case has, for devices."""
    return {
        segment: {name: each for name, each in found.items() if not isinstance(each, list) or each[0] is not None}
        for segment, found in figures.items()
    }


def _provenance(build: Build) -> dict[str, Any]:
    """Where the weights come from, so that the same can be made again."""
    found, _ = cases.load(build)
    return {
        "recipe_sha256": hashlib.sha256(build.recipe_path.read_bytes()).hexdigest(),
        "stages": build.keys,
        "stages_kept_by_hand": list(build.adopted),
        "data_manifest_sha256": cases.list_digest(build),
        "cases": {name: len(indices) for name, indices in cases.split(build, found, 0).items()},
        "epochs": {f"fold {fold}": train.log(build, fold) for fold in train.folds(build)},
        "prune": choose.table(build),
        "augment_policy": msgspec.to_builtins(build.recipe.augment_policy),
        "golden": json.loads((build.folder("golden") / "facts.json").read_text()),
        "libraries": stages.versions(build.libraries),
        "libraries_of_kept_stages": stages.made_otherwise(build),
    }
