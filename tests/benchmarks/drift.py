"""Does drift monitoring hold what it promises? False alarms, delays, causes; river's and frouros' detectors beside it.

    .venv-dev/bin/pip install --no-deps --target .build/detectors river frouros     # both BSD; not for the device
    PYTHONPATH=.build/detectors .venv-dev/bin/python -m tests.benchmarks.drift --shared ../shared/data

Studies are drawn with replacement from streams of real images (`tests.benchmarks.drift_pools`): a site's baseline, then
studies like it, then a change. What is drawn goes through the device's own functions, many runs side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from appliance.drift import martingale
from appliance.drift.martingale import Capitals
from appliance.drift.streams import NUMERIC, STREAMS, WEIGHTS
from tests.benchmarks import drift_pools

BASELINE, ALPHA, RUN_LENGTH = 1000, 0.01, 20_000
LIMIT = np.log(1 / ALPHA)
Detect = Callable[[np.ndarray], bool]


@dataclass(frozen=True)
class Course:
    """What runs saw, ``(runs, studies)``: the logarithm of the mean martingale, and the e-detector."""

    evidence: np.ndarray
    warning: np.ndarray
    by_stream: np.ndarray  # (runs, streams), at the end or at the alarm


def draw(
    before: np.ndarray,
    after: np.ndarray,
    mix: float,
    quiet: int,
    changed: int,
    runs: int,
    seed: int,
    baseline: int = BASELINE,
) -> np.ndarray:
    """Bins ``(runs, baseline + quiet + changed, streams)``; in the last part a share ``mix`` is from ``after``."""
    chance = np.random.default_rng(seed)
    length = baseline + quiet + changed
    found = before[chance.integers(0, len(before), (runs, length))]
    other = chance.random((runs, changed)) < mix
    found[:, baseline + quiet :][other] = after[chance.integers(0, len(after), int(other.sum()))]
    return found


def watch(studies: np.ndarray, seed: int = 5, baseline: int = BASELINE, weights: np.ndarray = WEIGHTS) -> Course:
    """The device's martingales on many runs at once."""
    runs, length, streams = studies.shape
    chance = np.random.default_rng(seed)
    # Of a stream in which nothing ever happens all are tied, so that its p-values are nothing but chance.
    moving = np.flatnonzero((studies != studies[:1, :1]).any(axis=(0, 1)))
    seen = studies[:, :, moving]
    counts = np.zeros((runs, len(moving), int(seen.max()) + 1), np.int32)
    every, row = np.arange(runs)[:, None], np.arange(len(moving))[None, :]
    for step in range(baseline):
        counts[every, row, seen[:, step]] += 1
    capitals = Capitals.new((runs, streams))
    evidence, warning = np.zeros((runs, length - baseline)), np.zeros((runs, length - baseline))
    by_stream = np.full((runs, streams), np.nan)
    for step in range(baseline, length):
        counts[every, row, seen[:, step]] += 1
        p = chance.random((runs, streams))
        p[:, moving] = martingale.p_values(counts, seen[:, step], NUMERIC[moving], p[:, moving])
        capitals.update(p)
        worth = capitals.evidence()
        evidence[:, step - baseline] = martingale.combined(worth, weights)
        warning[:, step - baseline] = capitals.warnings() @ weights / weights.sum()
        first = (evidence[:, step - baseline] >= LIMIT) & np.isnan(by_stream[:, 0])
        by_stream[first] = worth[first]
    return Course(evidence, warning, by_stream)


def first(reached: np.ndarray) -> np.ndarray:
    """For each run the number of the first study, from 1, at which it held; infinity where it never did."""
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def said(delays: np.ndarray) -> str:
    middle = np.median(delays)
    caught = np.isfinite(delays).mean()
    low, high = np.quantile(delays, 0.1, method="lower"), np.quantile(delays, 0.9, method="higher")
    return f"{middle:5.0f} ({low:.0f} to {high:.0f}), {caught:.0%} of runs"


def verdict(what: str, good: bool) -> None:
    click.echo(f"{'ok  ' if good else 'FAIL'} {what}")


# --- other detectors -------------------------------------------------------------------------------------------------


def values(studies: np.ndarray) -> np.ndarray:
    """Bins as numbers for detectors that take them: of a number its bin's place, which is about its rank."""
    return studies / np.array([stream.bins for stream in STREAMS])


def live(pool: np.ndarray, other: np.ndarray) -> list[int]:
    """Streams in which anything happens."""
    both = np.concatenate([pool, other])
    return [number for number in range(both.shape[1]) if WEIGHTS[number] and len(np.unique(both[:, number])) > 1]


def others(name: str, setting: float) -> Callable[[], Callable[[float], bool]]:
    """A factory of detectors, each a function that takes a value and says whether it has drifted."""

    def river(make: Callable[[], object]) -> Callable[[], Callable[[float], bool]]:
        def one() -> Callable[[float], bool]:
            detector = make()

            def take(value: float) -> bool:
                detector.update(value)  # type: ignore[attr-defined]
                return bool(detector.drift_detected)  # type: ignore[attr-defined]

            return take

        return one

    if name.startswith("river ADWIN"):
        from river.drift import ADWIN

        clock = 1 if name.endswith("1") else 32  # it looks after so many values; 32 is its default
        return river(lambda: ADWIN(delta=setting, clock=clock))
    if name == "river KSWIN":
        from river.drift import KSWIN

        return river(lambda: KSWIN(alpha=setting, window_size=100, stat_size=30, seed=1))
    if name == "river Page-Hinkley":
        from river.drift import PageHinkley

        return river(lambda: PageHinkley(threshold=setting))
    from frouros.detectors import concept_drift

    kind = getattr(concept_drift, name.removeprefix("frouros "))
    config = getattr(concept_drift, name.removeprefix("frouros ") + "Config")

    def frouros() -> Callable[[float], bool]:
        detector = kind(config=config(lambda_=setting, min_num_instances=30))

        def take(value: float) -> bool:
            detector.update(value=value)
            return bool(detector.status["drift"])

        return take

    return frouros


def delays_of(
    make: Callable[[], Callable[[float], bool]], studies: np.ndarray, streams: Sequence[int], start: int
) -> np.ndarray:
    """The first study from ``start`` on at which any stream's detector drifts, after having seen all before."""
    numbers = values(studies)
    found = np.full(len(studies), np.inf)
    for run, course in enumerate(numbers):
        for stream in streams:
            take = make()
            for place, value in enumerate(course[:, stream]):
                if take(float(value)) and place >= start:
                    found[run] = min(found[run], place - start + 1)
                    break
                if place - start + 1 >= found[run]:
                    break
    return found


# --- what is asked ---------------------------------------------------------------------------------------------------


def in_control(pool: np.ndarray, runs: int) -> None:
    click.echo(f"\nIn control: {runs} runs of 2,000 studies after a baseline of {BASELINE}")
    alarms = warned = 0
    for chunk in range(0, runs, 250):
        count = min(250, runs - chunk)
        course = watch(draw(pool, pool, 0, 2000, 0, count, 100 + chunk), 7 + chunk)
        alarms += int((course.evidence >= LIMIT).any(axis=1).sum())
        warned += int((course.warning >= RUN_LENGTH).any(axis=1).sum())
    click.echo(f"  alarms {alarms} of {runs}; early warnings (run length {RUN_LENGTH:,}) in {warned} of {runs} runs")
    verdict(f"false alarms at alpha {ALPHA}: {alarms / runs:.1%} <= 1 %", alarms / runs <= 0.01)
    verdict(f"early warnings: {warned / runs:.1%} <= {2000 / RUN_LENGTH:.0%}", warned / runs <= 2000 / RUN_LENGTH)


def named(course: Course, count: int = 5) -> dict[str, float]:
    """How often a stream is among the first that a cause names."""
    reached = ~np.isnan(course.by_stream[:, 0])
    order = np.argsort(-course.by_stream[reached], axis=1)[:, :count]
    return {stream.name: float((order == number).any(axis=1).mean()) for number, stream in enumerate(STREAMS)}


def adults(pools: dict[str, np.ndarray], runs: int) -> None:
    click.echo(f"\nChildren, then adults: median delay in studies (10 % to 90 %), {runs} runs")
    for mix, most in ((1.0, 30), (0.05, 200)):
        for quiet in (0, 500, 2000):
            length = 120 if mix == 1 else 600
            studies = draw(pools["children"], pools["adults"], mix, quiet, length, runs, 11)
            course = watch(studies)
            alarms = first(course.evidence[:, quiet:] >= LIMIT)
            warnings = first(course.warning[:, quiet:] >= RUN_LENGTH)
            click.echo(
                f"  {mix:4.0%} adults after {quiet:5,} quiet: alarm {said(alarms)}; early warning {said(warnings)}"
            )
            names = named(course)
            of_cause = max(names["age"], names["distance"], names["novelty"])
            if quiet == 500:
                top = ", ".join(f"{k} {v:.0%}" for k, v in sorted(names.items(), key=lambda each: -each[1])[:6])
                click.echo(f"       named: {top}")
                verdict(f"{mix:.0%}: median {np.median(alarms):.0f} <= {most}", bool(np.median(alarms) <= most))
                verdict(f"{mix:.0%}: age or embedding named in {of_cause:.0%}", of_cause >= 0.95)


def machines(pools: dict[str, np.ndarray], runs: int, quick: bool, quiet: int = 500) -> None:
    """Beside detectors that are set to as many false alarms."""
    pool = pools["children"]
    click.echo(f"\nFalse alarms of other detectors within 2,000 studies, any of the streams ({min(runs, 100)} runs)")
    still = draw(pool, pool, 0, 2000, 0, min(runs, 100), 21)
    chosen: dict[str, float] = {}
    # The first that holds is taken; those with one setting, their default, are slow and run a few times only.
    settings = {
        "river ADWIN": (0.03, 0.01, 2e-3, 2e-4),
        "river ADWIN, clock 1": (0.03, 0.01, 2e-3, 2e-4),
        "river Page-Hinkley": (3.0, 10.0, 30.0, 50.0),
        "river KSWIN": (5e-3,),
        "frouros PageHinkley": (50.0,),
    }
    streams = live(pool, pools["adults"])
    for name, tried in settings.items():
        if quick and len(tried) == 1:
            continue
        subset = still[: 5 if len(tried) == 1 else len(still)]
        for setting in tried:
            start = time.perf_counter()
            false = np.isfinite(delays_of(others(name, setting), subset, streams, BASELINE)).mean()
            click.echo(
                f"  {name:22} {setting:8g}: {false:6.1%} of {len(subset)} runs ({time.perf_counter() - start:.0f} s)"
            )
            if false <= ALPHA and len(tried) > 1:
                chosen[name] = setting
                break
    click.echo(
        f"\nAnother machine after {quiet} quiet studies: median delay (10 % to 90 %), {runs} runs; others at <= 1 %"
    )
    columns = list(chosen)
    for change in drift_pools.MACHINES:
        studies = draw(pool, pools[change], 1.0, quiet, 150, runs, 31)
        course = watch(studies)
        alarms = first(course.evidence[:, quiet:] >= LIMIT)
        beside = {
            name: delays_of(others(name, chosen[name]), studies[: min(runs, 20)], streams, BASELINE + quiet)
            for name in columns
        }
        names = sorted(named(course).items(), key=lambda each: -each[1])[:3]
        shown = "; ".join(f"{name} {np.median(each):.0f}" for name, each in beside.items())
        click.echo(f"  {change:13} alarm {said(alarms)}; {shown}; names {', '.join(k for k, _ in names)}")
        verdict(f"{change}: detected", bool(np.isfinite(alarms).mean() >= 0.99))
        for name in (name for name in beside if "ADWIN" in name):
            other = np.median(beside[name])
            verdict(f"{change}: {np.median(alarms):.0f} <= {other:.0f} of {name}", bool(np.median(alarms) <= other))


@click.command()
@click.option("--shared", type=click.Path(path_type=Path), default=Path("../shared/data"), show_default=True)
@click.option("--runs", default=1000, show_default=True, help="In control; changes have 200 at most.")
@click.option("--only", type=click.Choice(["in-control", "adults", "machines"]), multiple=True)
@click.option("--quick", is_flag=True, help="Without those detectors that take minutes.")
def main(shared: Path, runs: int, only: tuple[str, ...], quick: bool) -> None:
    """Print tables and verdicts."""
    pools, _ = drift_pools.pools(shared)
    click.echo({name: len(pool) for name, pool in pools.items()})
    if not only or "in-control" in only:
        in_control(pools["children"], runs)
    if not only or "adults" in only:
        adults(pools, min(runs, 200))
    if not only or "machines" in only:
        machines(pools, min(runs, 200), quick)


if __name__ == "__main__":
    main()
