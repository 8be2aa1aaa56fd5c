"""A package in words, for who installs it: what it is, who signed it, what runs it here."""

from __future__ import annotations

from collections.abc import Iterator

from appliance import backends
from appliance.package import Package, Target


def describe(package: Package, signature: str) -> str:
    """Facts first, then the card; ``signature`` is what is to be said of it."""
    manifest = package.manifest
    lines = [
        f"{package}: {manifest.title}",
        "",
        f"file       {package.path} ({package.path.stat().st_size / 1e6:.1f} MB, sha256 {package.sha256})",
        f"signature  {signature}",
        f"accepts    {', '.join(manifest.accepts.modalities)}, {', '.join(manifest.accepts.body_parts)}, "
        f"view {', '.join(manifest.accepts.views)}, {', '.join(manifest.accepts.photometric_interpretations)}",
        f"finds      {', '.join(f'{each.label} ({each.code.scheme} {each.code.value})' for each in manifest.findings)}",
        f"golden     {manifest.golden.count} images; probabilities within {manifest.golden.probability_tolerance}",
    ]
    for name, target in manifest.targets.items():
        lines += ["", f"target {name}", *(f"  {line}" for line in _target(package, name, target))]
    return "\n".join([*lines, "", package.card])


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
    yield f"thresholds  {points}"
    if target.conformal is not None:
        yield f"coverage    prediction sets hold the truth in {target.conformal.coverage:.0%} (see the card)"


def _runs_here(target: str) -> str:
    """Which backends of this version take a target, and why one can't be used on this machine."""
    found = [name for name in backends.names() if target == backends.module(name).TARGET]
    answers = [f"{name}: no, {reason}" if (reason := backends.probe(name)) else f"{name}: yes" for name in found]
    return "; ".join(answers) or "no: this version of Scanside has no backend for it"
