"""Does drift monitoring of the segmentations hold what it promises? Lungs, hippocampus: false alarms, other machines.

    .venv-dev/bin/python -m tests.benchmarks.drift_segmentations --data ../shared/data

As `tests.benchmarks.drift`, on which it stands: studies are drawn with replacement from streams of real images. These
are of patients that the networks were not trained on, once by the device's own path and once for each change of the
machine. Against the site's baseline all streams bet; against the package's reference those that it has, with as many
studies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scipy import ndimage

from appliance import package
from appliance.drift.measure import Space
from appliance.drift.monitor import weights
from appliance.drift.reference import from_arrays
from appliance.drift.streams import STREAMS, WEIGHTS, Categories, Value
from appliance.image import Image
from appliance.volume import Volume
from compression import reference
from compression.segmentation import reference as segmented
from compression.segmentation.build import Build
from compression.segmentation.recipe import read
from tests.benchmarks.drift import ALPHA, BASELINE, LIMIT, RUN_LENGTH, draw, first, live, named, said, verdict, watch
from tests.benchmarks.drift_pools import MACHINES, TARGET, bins

QUIET, CHANGED = 300, 300
Machine = Callable[[Image | Volume], Image | Volume]


def _image(change: Callable[[np.ndarray], np.ndarray]) -> Machine:
    return lambda source: replace(source, pixels=change(source.pixels))


def _share(pixels: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Levels as a share of the volume's range, and that."""
    low, high = float(pixels.min()), float(pixels.max())
    return (pixels - low) / max(high - low, 1e-9), low, max(high - low, 1e-9)


def _leveled(change: Callable[[np.ndarray], np.ndarray]) -> Machine:
    def changed(source: Image | Volume) -> Image | Volume:
        level, low, extent = _share(source.pixels.astype(float))
        return replace(source, pixels=np.round(low + extent * np.clip(change(level), 0, None)))

    return changed


def _noise(level: np.ndarray) -> np.ndarray:
    """Rician, of 4 % of the range."""
    chance = np.random.default_rng(int(level.sum()))
    real, imaginary = chance.normal(0, 0.04, (2, *level.shape))
    return np.hypot(level + real, imaginary)


def _bias(level: np.ndarray) -> np.ndarray:
    """Another coil: 40 % darker at one side, 40 % brighter at the other."""
    return level * np.linspace(0.6, 1.4, level.shape[-1])


def _thicker(source: Image | Volume) -> Image | Volume:
    """Slices of twice the thickness."""
    assert isinstance(source, Volume)
    even = source.pixels[: len(source.pixels) // 2 * 2]
    pixels = even.reshape(-1, 2, *even.shape[1:]).mean(axis=1)
    return replace(source, pixels=pixels, spacing=(2 * source.spacing[0], *source.spacing[1:]))


SCANNERS: dict[str, Machine] = {
    "gamma 0.7": _leveled(lambda level: level**0.7),
    "gamma 1.4": _leveled(lambda level: level**1.4),
    "noise": _leveled(_noise),
    "softer": _leveled(lambda level: ndimage.gaussian_filter(level, 0.7)),
    "other coil": _leveled(_bias),
    "inverted": _leveled(lambda level: 1 - level),
    "thicker slices": _thicker,
}
CHANGES: dict[str, dict[str, Machine]] = {
    "lungs": {name: _image(change) for name, change in MACHINES.items()},
    "hippocampus": SCANNERS,
}


def pools(model: str, data: Path) -> dict[str, np.ndarray]:
    """``studies`` and each change -> int ``(studies, streams)``: the bin of each study in each stream."""
    kept = Path(".build") / f"drift-{model}.json"
    if not kept.exists():
        kept.write_text(json.dumps(_measured(model, data)))
    categories = Categories()
    return {name: bins(studies, categories) for name, studies in json.loads(kept.read_text()).items()}


def _measured(model: str, data: Path) -> dict[str, list[dict[str, Value]]]:
    opened = package.read(package.bundled(model)[0], None)
    where, recipe = Space.of_package(opened.drift(), TARGET), Path("models") / model / "recipe.toml"
    build = Build(read(recipe), recipe, data, Path(), Path(".build") / model, Ed25519PrivateKey.generate(), Path())
    segmented.check_same(build, opened)

    def taken(machine: Machine) -> Iterator[dict[str, Value]]:
        for each in reference.ask(opened, TARGET, map(machine, segmented.studies(build))):
            yield reference.values(opened, TARGET, each, where)

    found = {}
    for name, machine in {"studies": lambda source: source, **CHANGES[model]}.items():
        found[name] = list(taken(machine))
        click.echo(f"{model}, {name}: {len(found[name])} studies")
    return found


def judge(model: str, pool: dict[str, np.ndarray], against: str, baseline: int, stake: np.ndarray, runs: int) -> None:
    click.echo(f"\n{model} against {against}: {baseline} studies, {int((stake > 0).sum())} streams")
    studies, begun = pool["studies"], time.perf_counter()
    alarms = warned = 0
    for chunk in range(0, runs, 100):
        count = min(100, runs - chunk)
        course = watch(draw(studies, studies, 0, 2000, 0, count, 100 + chunk, baseline), 7 + chunk, baseline, stake)
        alarms += int((course.evidence >= LIMIT).any(axis=1).sum())
        warned += int((course.warning >= RUN_LENGTH).any(axis=1).sum())
    click.echo(f"  early warnings within 2,000 studies: {warned} of {runs} runs ({time.perf_counter() - begun:.0f} s)")
    verdict(f"false alarms at alpha {ALPHA} within 2,000 studies: {alarms} of {runs} <= 1 %", alarms <= 0.01 * runs)
    for change in CHANGES[model]:
        course = watch(draw(studies, pool[change], 1.0, QUIET, CHANGED, 50, 31, baseline), 5, baseline, stake)
        delays = first(course.evidence[:, QUIET:] >= LIMIT)
        bet = np.where((stake > 0) | np.isnan(course.by_stream), course.by_stream, -np.inf)
        often, moved = named(replace(course, by_stream=bet)), live(studies, pool[change])
        names = sorted((STREAMS[number].name for number in moved if stake[number]), key=lambda name: -often[name])[:3]
        click.echo(f"  {change:15} alarm {said(delays)}; names {', '.join(names)}")
        if (stake > 0).sum() == (WEIGHTS > 0).sum():  # a reference has no streams of how images are stored
            verdict(f"{change}: detected within {CHANGED}", bool(np.isfinite(delays).mean() >= 0.99))


@click.command()
@click.option("--data", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--runs", default=200, show_default=True, help="In control; changes have 50.")
@click.option("--only", type=click.Choice(list(CHANGES)), multiple=True)
def main(data: Path, runs: int, only: tuple[str, ...]) -> None:
    """Print tables and verdicts."""
    for model in only or CHANGES:
        pool = pools(model, data)
        usual = from_arrays(package.read(package.bundled(model)[0], None).drift(), TARGET)
        assert usual is not None
        judge(model, pool, "the site's baseline", BASELINE, WEIGHTS, runs)
        judge(model, pool, "its reference", usual.studies, weights(usual.streams(), np.zeros(len(STREAMS), bool)), runs)


if __name__ == "__main__":
    main()
