"""Stage ``pack``: manifest, card, signature, one file beside the recipe."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from appliance import package
from appliance.package import FindingSpec, GoldenSpec, InputSpec, Manifest, OutputSpec, Target
from appliance.signature import TRUSTED_KEYS, key_id, load_trusted_keys, public_pem
from compression import choose, data, ensemble, evaluate, gate, golden, quantize, reference, shipping, stages
from compression.card import write_card
from compression.inference import ACTIVATION_MAP, EMBEDDING, INPUT, LOGITS

if TYPE_CHECKING:
    from compression.build import Build

SECTIONS = ("package", "card", "golden", "calibrate", "train", "quantize", "augment_policy", "ensemble")
_MEASURED_ANEW = ("milliseconds", "times_as_fast", "memory_mb")


def fingerprint(build: Build) -> bytes:
    return public_pem(build.key)


def published(build: stages.Build) -> tuple[Path, Path]:
    """The package and its card."""
    named = build.recipe.package
    return build.out / f"{named.id}-{named.version}{package.SUFFIX}", build.out / "card.md"


def run(build: Build) -> str:
    recipe, report = build.recipe, evaluate.load(build)
    finding = recipe.package.finding
    choices = gate.load(build)
    targets = {name: _target(build, choice, report) for name, choice in choices.items()}
    manifest = Manifest(
        format=package.FORMAT,
        id=recipe.package.id,
        version=recipe.package.version,
        title=recipe.package.title,
        task="classification",
        intended_use=recipe.package.intended_use,
        accepts=recipe.package.accepts,
        input=InputSpec(INPUT, (1, 1, recipe.input.rows, recipe.input.columns), recipe.input.steps()),
        outputs=OutputSpec(LOGITS, ACTIVATION_MAP, EMBEDDING),
        findings=(
            FindingSpec(finding.label, finding.code, finding.words_positive, finding.words_negative, finding.urgent),
        ),
        finding_site=recipe.package.finding_site,
        targets=targets,
        golden=GoldenSpec("golden.npz", recipe.golden.count, recipe.golden.probability_tolerance),
        training=_provenance(build),
        promotion=recipe.package.promotion,
        card="card.md",
        files={},
    )
    card = write_card(build, manifest, report)
    files = {
        "golden.npz": golden.path(build).read_bytes(),
        "card.md": card.encode(),
        ensemble.FILE: ensemble.path(build).read_bytes(),
        **{target.artifact: gate.artifact(build, name).read_bytes() for name, target in targets.items()},
    }
    unsigned = package.Package(published(build)[0], "", manifest, files, None)
    arrays, studies = reference.make(
        unsigned, lambda: reference.training_images(build), lambda: reference.validation_images(build)
    )
    opened = reference.added(unsigned, files, arrays, studies)
    return write(build, opened.manifest, {**files, reference.FILE: opened.file(reference.FILE)}, card)


def write(build: stages.Build, manifest: Manifest, files: dict[str, bytes], card: str) -> str:
    """Sign and write a package and its card; a line that says where, and who trusts it."""
    path, beside = published(build)
    package.write(path, manifest, files, build.key)
    beside.write_text(card)
    identifier = key_id(build.key.public_key())
    trusted = identifier in load_trusted_keys((TRUSTED_KEYS,))
    note = (
        "" if trusted else "; devices don't trust this key yet: build with --trust FOLDER and give them its .pub file"
    )
    return f"{path} ({path.stat().st_size / 1e6:.1f} MB), signed by {identifier}{note}"


def _target(build: Build, choice: gate.Choice, report: dict[str, Any]) -> Target:
    """One network with what belongs to it, from the verdict that let it through."""
    verdict, name = choice.shipped, choice.target
    calibration = verdict.calibration
    is_float = verdict.producer == quantize.FLOAT
    return Target(
        artifact=f"artifacts/{name}{gate.artifact(build, name).suffix}",
        precision="float32" if is_float else "int8",
        producer=verdict.producer,
        calibrated_with=gate.runtime(build, name),
        temperature=calibration.temperature,
        bias=calibration.bias,
        activation_map_scale=calibration.activation_map_scale,
        operating_points=calibration.operating_points,
        default_operating_point=build.recipe.calibrate.default_operating_point,
        conformal=calibration.conformal,
        ensemble=ensemble.spec(build, name),
        why=choice.reason,
        measured={
            "gate": [_timeless(each) for each in shipping.summary(choice.tried, choice.shipped)],
            "costs": _timeless(report["networks"][name]),
            "sets": of_sets(report, name),
        },
    )  # fmt: skip


def of_sets(report: dict[str, Any], target: str) -> dict[str, Any]:
    """What the report's sets say of the network that ships for a target, for the manifest."""
    return {
        key: {
            "figures": found["networks"][target],
            "against": _without_files(found["against"][target]),
            "conformal_coverage": found["conformal_coverage"][target],
            "abstention": found["abstention"][target],
        }
        for key, found in report["sets"].items()
    }


def _timeless(figures: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from run to run: the same inputs make the same package. The report has the times."""
    return {name: value for name, value in figures.items() if name not in _MEASURED_ANEW}


def _without_files(against: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Figures only: a device needs no list of somebody's images."""
    return {
        other: {name: value for name, value in costs.items() if name != "changed"} for other, costs in against.items()
    }


def write_public_key(key: Ed25519PrivateKey, folder: Path) -> Path:
    """Write the public half as ``<key id>.pub``; the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key_id(key.public_key())}.pub"
    path.write_bytes(public_pem(key))
    return path


def _provenance(build: Build) -> dict[str, Any]:
    """Where the weights come from, so that the same can be made again."""
    return {
        "recipe_sha256": hashlib.sha256(build.recipe_path.read_bytes()).hexdigest(),
        "stages": build.keys,
        "stages_kept_by_hand": list(build.adopted),
        "data_manifest_sha256": reference.data_digest(build),
        "validation_dealt_by": data.dealt_by(build),
        "images": {split: len(data.load(build, split)) for split in data.SPLITS},
        "network": build.recipe.train.network,
        "initial_weights": build.recipe.train.weights or "none: trained from scratch",
        "augment_policy": msgspec.to_builtins(build.recipe.augment_policy),
        "epochs": json.loads((build.folder("train") / "log.json").read_text()),
        "prune": choose.table(build),
        "golden": json.loads((build.folder("golden") / "facts.json").read_text()),
        "libraries": stages.versions(build.libraries),
        "libraries_of_kept_stages": stages.made_otherwise(build),
    }
