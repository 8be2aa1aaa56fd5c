"""What is known of the models behind earlier results: the manifests of the packages that are installed now."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from appliance import installed, package
from appliance.config import Config
from appliance.errors import PackageError
from appliance.package import Manifest, OperatingPoint

# Figures that people go by: what they are called, and how much of what they tell.
_FIGURES = {
    "sensitivity": "of those with it are found",
    "specificity": "of those without it are cleared",
}


class Manifests:
    """Manifests of installed packages, read when they are first asked for; safe to use from several threads."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._read: dict[tuple[Path, int, int], tuple[str, Manifest] | None] = {}

    def of(self, sha256: str) -> Manifest | None:
        """The manifest of the very package file with this SHA-256; None where that is not installed any more."""
        with self._lock:
            for path in installed.files(self._config):
                found = self._manifest(path)
                if found is not None and found[0] == sha256:
                    return found[1]
        return None

    def _manifest(self, path: Path) -> tuple[str, Manifest] | None:
        try:
            status = path.stat()
            key = path, status.st_mtime_ns, status.st_size
            if key not in self._read:
                # Who has signed it was looked at before it gave the result that has its SHA-256.
                opened = package.read(path, None)
                self._read[key] = opened.sha256, opened.manifest
            return self._read[key]
        except (OSError, PackageError):
            return None


def operating_point(manifest: Manifest, target: str, name: str) -> OperatingPoint | None:
    """The operating point of that name of a target; None where the manifest has none such."""
    points = manifest.targets[target].operating_points if target in manifest.targets else ()
    return next((point for point in points if point.name == name), None)


def measured(manifest: Manifest, target: str, point: str) -> list[tuple[str, list[tuple[str, float, float, float]]]]:
    """How well a target does at its default operating point: on which images, and what, in how many, from, to.

    Figures of another operating point are not there: they are not measured. A manifest calls an external set
    ``external`` or ``external: NAME``.
    """
    found = manifest.targets.get(target)
    if found is None or point != found.default_operating_point:
        return []
    sets: dict[str, Any] = found.measured.get("sets", {})
    told: list[tuple[str, list[tuple[str, float, float, float]]]] = []
    for name, words in _told_sets(sets):
        figures = sets[name].get("figures", {})
        lines = []
        for each, tells in _FIGURES.items():
            if len(figures.get(each, ())) == 3:
                value, low, high = map(float, figures[each])
                lines.append((tells, value, low, high))
        if lines:
            told.append((words, lines))
    return told


def _told_sets(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The sets that people are told of, the test set first: each one's name, and what images it has."""
    listed = tuple(names)
    if "test" in listed:
        yield "test", "images of the same hospital, kept apart"
    for each in listed:
        kind, _, name = each.partition(": ")
        if kind == "external":
            yield each, f"images from elsewhere ({name})" if name else "images from elsewhere"


def volume_error(manifest: Manifest, target: str, label: str) -> float | None:
    """By how large a share half of the volumes of a segment are off at the least, on the test images: the median.

    None where that is not measured.
    """
    found = manifest.targets.get(target)
    figures = found.measured.get("sets", {}).get("test", {}).get("figures", {}) if found is not None else {}
    error = figures.get(label, {}).get("volume_error")
    return float(error[0]) if error and error[0] is not None else None
