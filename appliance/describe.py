"""A package in words, for who installs it: what it is, who signed it, what runs it here."""

from __future__ import annotations

from collections.abc import Iterator

from appliance import backends
from appliance.package import Accepts, Package, Target


def describe(package: Package, signature: str) -> str:
    """Facts first, then the card; ``signature`` is what is to be said of it."""
    manifest = package.manifest
    lines = [
        f"{package}: {manifest.title}",
        "",
        f"file       {package.path} ({package.path.stat().st_size / 1e6:.1f} MB, sha256 {package.sha256})",
        f"signature  {signature}",
        f"accepts    {', '.join(manifest.accepts.modalities)}, {', '.join(manifest.accepts.body_parts)}, "
        f"view {', '.join(manifest.accepts.views) or 'any'}, "
        f"{', '.join(manifest.accepts.photometric_interpretations)}"
        f"{_spacing(manifest.accepts)}"
        f"{'; a whole series as one volume' if package.takes_volumes else ''}",
        *_says(package),
    ]
    for name, target in manifest.targets.items():
        lines += ["", f"target {name}", *(f"  {line}" for line in _target(package, name, target))]
    return "\n".join([*lines, "", package.card])


def _spacing(accepts: Accepts) -> str:
    return ", {:g} to {:g} mm along each axis".format(*accepts.millimeters) if accepts.millimeters else ""


def _says(package: Package) -> Iterator[str]:
    """What it looks for or draws, and how its golden vectors are held to it."""
    manifest, golden = package.manifest, package.manifest.golden
    if package.segments:
        drawn = (f"{each.label} ({each.type.scheme} {each.type.value})" for each in manifest.segments)
        yield f"outlines   {', '.join(drawn)}"
        yield f"golden     {golden.count} images; Dice coefficient of each segment at least {golden.smallest_dice}"
    else:
        found = (f"{each.label} ({each.code.scheme} {each.code.value})" for each in manifest.findings)
        yield f"finds      {', '.join(found)}"
        yield f"golden     {golden.count} images; probabilities within {golden.probability_tolerance}"


def _target(package: Package, name: str, target: Target) -> Iterator[str]:
    points = ", ".join(
        f"{point.name} {point.threshold:.4f}{' (default)' if point.name == target.default_operating_point else ''}"
        for point in target.operating_points
    )
    yield f"runs here   {_runs_here(name)}"
    yield (
        f"artifact    {target.precision}, {len(package.artifact(name)) / 1e6:.2f} MB, "
        f"sha256 {package.artifact_sha256(name)}"
    )
    yield f"made by     {target.producer}"
    if target.why:
        yield f"why         {target.why}"
    yield f"calibrated  with {target.calibrated_with}"
    if target.operating_points:
        yield f"thresholds  {points}"
    if target.conformal is not None:
        yield f"coverage    prediction sets hold the truth in {target.conformal.coverage:.0%} (see the card)"
    heads = package.heads(name)
    if target.ensemble is not None and heads is not None:
        yield f"ensemble    {len(heads.weights)} heads; unsure where their spread is above {target.ensemble.limit:.3f}"


def _runs_here(target: str) -> str:
    """Which backends of this version take a target, and why one can't be used on this machine."""
    found = [name for name in backends.names() if target == backends.module(name).TARGET]
    answers = [f"{name}: no, {reason}" if (reason := backends.probe(name)) else f"{name}: yes" for name in found]
    return "; ".join(answers) or "no: this version of Scanside has no backend for it"
