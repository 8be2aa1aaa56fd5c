"""Does the test of sensitivity against its floor hold what it promises? How often it is wrong, and how fast.

    .venv-dev/bin/python -m tests.benchmarks.performance [--runs 2000]

Cases are drawn one after another; what is drawn goes through the device's own functions, many runs side by side. Beside
it: what a site does that looks at the figure whenever a case is confirmed (Wilson's interval below the floor), and one
that looks at every 50 cases.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import numpy as np

from appliance import sequential
from appliance.config import Performance
from appliance.measures import Z95

CASES = 2_000
GOOD, GOOD_CASES = 0.97, 300
WORSE = (0.90, 0.88, 0.85, 0.80, 0.70)
SETTINGS = Performance()
FLOOR = SETTINGS.sensitivity_floor


def scanside(right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """After how many cases each run has a ticket by the wealth, and by the detector; 0 for never."""
    runs, cases = right.shape
    shape = (runs, len(sequential.alternatives(FLOOR)))
    wealth, detector = np.zeros(shape), np.full(shape, -np.inf)
    first = np.zeros((2, runs), int)
    for number in range(cases):
        wealth, detector = sequential.advance(wealth, detector, right[:, number], FLOOR)
        reached = (
            sequential.log_mean(wealth) >= -np.log(SETTINGS.alpha),
            sequential.log_mean(detector) >= np.log(SETTINGS.run_length),
        )
        for which, each in enumerate(reached):
            first[which] = np.where((first[which] == 0) & each, number + 1, first[which])
    return first[0], first[1]


def looking(every: int) -> Callable[[np.ndarray], np.ndarray]:
    """A site that looks at Wilson's interval of all cases so far, every so many cases."""

    def after(right: np.ndarray) -> np.ndarray:
        n = np.arange(1, right.shape[1] + 1)
        hits = np.cumsum(right, axis=1)
        high = (hits + Z95**2 / 2 + Z95 * np.sqrt(hits * (n - hits) / n + Z95**2 / 4)) / (n + Z95**2)
        below = (high < FLOOR) & (n % every == 0) & (n >= 20)
        return np.where(below.any(axis=1), below.argmax(axis=1) + 1, 0)

    return after


def either(first: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The earlier of both; 0 for never."""
    both = np.stack([np.where(each == 0, 10**9, each) for each in first]).min(axis=0)
    return np.where(both == 10**9, 0, both)


@click.command(help=__doc__)
@click.option("--runs", default=2_000, show_default=True)
def main(runs: int) -> None:
    chance, begin = np.random.default_rng(7), time.perf_counter()
    failed = []
    click.echo(f"floor {FLOOR:.0%}, alpha {SETTINGS.alpha:g}, run length {SETTINGS.run_length}; {runs} runs")
    click.echo(f"\nWrong tickets within {CASES} confirmed cases: share of runs")
    click.echo("sensitivity   wealth   detector   looks at each   looks at each 50th")
    for rate in (FLOOR, 0.94, 0.97):
        right = chance.random((runs, CASES)) < rate
        wealth, detector = scanside(right)
        naive = [float((looking(every)(right) > 0).mean()) for every in (1, 50)]
        shares = [float((each > 0).mean()) for each in (wealth, detector)]
        click.echo(f"{rate:11.0%}   {shares[0]:6.1%}   {shares[1]:8.1%}   {naive[0]:13.1%}   {naive[1]:18.1%}")
        room = 3 * np.sqrt(SETTINGS.alpha * (1 - SETTINGS.alpha) / runs)
        if shares[0] > SETTINGS.alpha + room:
            failed.append(f"the wealth is wrong in {shares[0]:.1%} of the runs at {rate:.0%}")
        # With a mean of `run_length` cases or more, the chance within CASES is CASES / run_length at the most.
        if shares[1] > CASES / SETTINGS.run_length:
            failed.append(f"the detector is wrong in {shares[1]:.1%} of the runs at {rate:.0%}")
    click.echo(f"\nDelay in confirmed cases, from {GOOD:.0%} for {GOOD_CASES} cases to: median (90th percentile)")
    click.echo("sensitivity   ticket         wealth alone   looks at each")
    for rate in WORSE:
        right = np.concatenate([chance.random((runs, GOOD_CASES)) < GOOD, chance.random((runs, CASES)) < rate], axis=1)
        first = scanside(right)
        shown = [_delay(each) for each in (either(first), first[0], looking(1)(right))]
        click.echo(f"{rate:11.0%}   {shown[0]:12}   {shown[1]:12}   {shown[2]:12}")
    click.echo(f"\n{time.perf_counter() - begin:.0f} s")
    if failed:
        raise SystemExit("FAILED: " + "; ".join(failed))
    click.echo("Both hold what they promise.")


def _delay(first: np.ndarray) -> str:
    """Of the runs that had no ticket before the change; never counts as the longest."""
    waited = np.where(first == 0, CASES, first - GOOD_CASES)[(first == 0) | (first > GOOD_CASES)]
    if not len(waited):
        return "-"
    median, late = np.median(waited), np.quantile(waited, 0.9)
    return f"{'>' if median >= CASES else ''}{median:.0f} ({'>' if late >= CASES else ''}{late:.0f})"


if __name__ == "__main__":
    main()
