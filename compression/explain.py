"""``python -m compression explain``: is a package's activation map to be trusted, and what do its answers hang on?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from appliance import image, occlusion, orientation
from appliance.errors import ImageError, SpoolError
from appliance.package import Package
from appliance.preprocess import preprocess
from appliance.probability import calibrated
from compression import data, map_sanity
from compression.check_text import table
from compression.inference import INPUT, LOGITS, RUNTIMES, open_network
from compression.recipe import RecipeError

_PICTURES = {".png", ".jpg", ".jpeg"}
_FRONTAL = {"PA", "AP"}


def explain(package: Package, target: str, paths: Sequence[Path]) -> dict[str, Any]:
    """The map's two sanity tests, on the package's own generated images, and an occlusion of each given image.

    Parameters
    ----------
    target
        Whose artifact: one that is ONNX.

    Raises
    ------
    RecipeError, PackageError
    """
    if package.manifest.task != "classification":
        raise RecipeError(f"{package} outlines and has no activation map; explain is for packages with findings")
    if target not in RUNTIMES:
        raise RecipeError(f"target {target!r} is not known here (known: {', '.join(RUNTIMES)})")
    artifact, steps = package.artifact(target), package.manifest.input.steps
    golden = list(package.golden()["images"])
    tensors = [preprocess(each, steps) for each in golden]
    layers = map_sanity.randomization(artifact, target, tensors)
    marker = map_sanity.planted_marker(artifact, target, golden, steps)
    return {
        "package": str(package),
        "target": target,
        "images": len(golden),
        "randomization": {
            "layers": layers,
            "between_images": round(map_sanity.between_images(artifact, target, tensors), 4),
            "passed": abs(layers[-1]["correlation"]) < map_sanity.MOST_ALIKE,
        },
        "planted_marker": marker | {"passed": marker["mass"] >= map_sanity.LEAST_GAIN * marker["area"]},
        "occlusion": [_occlusion(package, target, path) for path in paths],
    }


def _occlusion(package: Package, target: str, path: Path) -> dict[str, Any]:
    """One image's sentence and figures; a picture without a header hangs as frontal radiographs do."""
    at_left: Literal["R", "L"] | None = "R" if set(package.manifest.accepts.views) <= _FRONTAL else None
    try:
        if path.suffix.lower() in _PICTURES:
            pixels = data.decode(path)
        else:
            loaded = image.load(path)
            pixels, (at_left, _) = loaded.pixels, orientation.side_at_left(loaded.header)
    except (ImageError, SpoolError) as error:
        raise RecipeError(f"{path}: {error}") from error
    network, of_target = open_network(package.artifact(target), target), package.target(target)
    threshold = of_target.operating_point().threshold
    explained = []
    for index, finding in enumerate(package.manifest.findings):

        def probability(tensor: np.ndarray, index: int = index) -> float:
            logits = network.run({INPUT: tensor})[LOGITS][0]
            return float(calibrated(logits, of_target.temperature, of_target.bias)[index])

        found = occlusion.occlude(preprocess(pixels, package.manifest.input.steps), probability)
        explained.append(
            {
                "finding": finding.label,
                "threshold": threshold,
                "sentence": occlusion.sentence(found, finding.label, threshold, at_left),
                **occlusion.to_dict(found, at_left),
            }
        )
    return {"file": str(path), "findings": explained}


def text(found: dict[str, Any]) -> str:
    """For a terminal."""
    return "\n".join(_lines(found))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    shuffled, marker = found["randomization"], found["planted_marker"]
    yield f"{found['package']}, target {found['target']}, on its {found['images']} generated images"
    yield ""
    yield "randomized weights: rank correlation of the map with the map before"
    blocks: dict[str, dict[str, Any]] = {}
    for row in shuffled["layers"]:
        blocks[".".join(row["layer"].split(".")[:2])] = row  # as it is once the whole block is shuffled
    rows = [(name, row["shuffled"], f"{row['correlation']:.3f}", f"{row['absolute']:.3f}")
            for name, row in blocks.items()]  # fmt: skip
    yield from table(("down to", "layers", "correlation", "of sizes"), rows)
    yield f"maps of two different images, nothing shuffled: {shuffled['between_images']:.3f}"
    yield _verdict(
        shuffled["passed"],
        "the map depends on what the network has learned",
        "the map stays although the network has forgotten all: it shows the image and not the network",
    )
    yield ""
    yield "planted marker: a head that knows nothing but the marker, on the network's own features"
    yield f"it finds the marker in images that it has not seen: AUC {marker['auc']:.3f}"
    yield (
        f"highest cell at the marker or beside it: {marker['hits']:.0%} of {marker['marked_images']} maps (the "
        f"package's own head: {marker['own_head_hits']:.0%}); mass there {marker['mass']:.0%} (own head: "
        f"{marker['own_head_mass']:.0%}, evenly spread: {marker['area']:.0%})"
    )
    yield _verdict(
        marker["passed"],
        "the map lies on what the head relies on",
        "the map does not lie on what the head relies on",
    )
    for each in found["occlusion"]:
        yield f"\n{each['file']}"
        yield from (f"{finding['finding']}: {finding['sentence']}" for finding in each["findings"])


def _verdict(passed: bool, good: str, bad: str) -> str:
    return f"passed: {good}" if passed else f"FAILED: {bad}"
