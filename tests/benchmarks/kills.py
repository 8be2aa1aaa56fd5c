"""SIGKILL at random points while the appliance receives and works, on an ordinary disk or on one that fills up.

python -m tests.benchmarks.kills [--points 500] [--seed SEED] [--warm] [--full-disk] [--folder FOLDER] [--json]

Three associations of storescu and dcmsend bring radiographs, series of CT and of MR, and somebody fills the drop
folder; a storescp gets the results. At the end nothing may be lost, partial or doubled, and `scanside ledger verify`
must find nothing. Each point is ``scanside run`` from its first line, and takes seconds; with --warm it is forked from
a process that has imported everything, and reads without the sandbox, as in the tests. On a disk that fills up each ten
points have a disk of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.kills.run import Plan, Warm, Whole, kill_again_and_again
from tests.kills.verdict import Verdict
from tests.peers import small_disk

MIB = 1 << 20
POINTS_OF_A_DISK = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: another each time")
    parser.add_argument("--warm", action="store_true", help="start in a tenth of the time")
    parser.add_argument("--full-disk", action="store_true", help="on a tmpfs of 64 MB, which takes root")
    parser.add_argument("--folder", type=Path, help="on the disk to try; default: the temporary folder")
    parser.add_argument("--json", action="store_true", help="print the verdict as JSON")
    options = parser.parse_args()
    # Reading starts some seconds after the port answers where everything is started.
    longest, begin = 1.0 if options.warm else 8.0, time.monotonic()
    plans = [Plan(options.points, options.seed, longest)]
    if options.full_disk:
        plans = [
            Plan(POINTS_OF_A_DISK, options.seed + n, longest, 0.7, (400, 350), 52 * MIB)
            for n in range(max(options.points // POINTS_OF_A_DISK, 1))
        ]
    points = sum(plan.points for plan in plans)
    print(f"seed {options.seed}", file=sys.stderr, flush=True)

    def tell(point: int) -> None:
        left = (time.monotonic() - begin) / point * (points - point)
        print(f"\r{point} of {points} kills, {left / 60:.1f} min left ", end="", file=sys.stderr, flush=True)

    verdicts = []
    for number, plan in enumerate(plans):
        before = sum(each.points for each in plans[:number])
        verdicts.append(_run(plan, options, lambda point, before=before: tell(before + point)))  # type: ignore[misc]
    print(file=sys.stderr)
    _print(verdicts, points, options, time.monotonic() - begin)
    sys.exit(1 if any(verdict.faults for verdict in verdicts) else 0)


def _run(plan: Plan, options: argparse.Namespace, tell: Callable[[int], object]) -> Verdict:
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder)))
        disk = stack.enter_context(small_disk(root / "disk", "64m")) if options.full_disk else root
        return kill_again_and_again(root, disk / "box", plan, Warm if options.warm else Whole, tell)


def _print(verdicts: list[Verdict], points: int, options: argparse.Namespace, seconds: float) -> None:
    found = [verdict.to_dict() for verdict in verdicts]
    if options.json:
        print(json.dumps({"points": points, "seed": options.seed, "seconds": round(seconds), "verdicts": found}))
        return
    print(f"{points} times SIGKILL in {seconds / 60:.1f} min, seed {options.seed}")
    for name in ("acknowledged", "answers", "dropped", "instances", "results", "at_the_peer"):
        print(f"{name.replace('_', ' '):<14}{sum(each[name] for each in found)}")
    for name in ("states", "refused"):
        print(f"{name:<14}{dict(sum((Counter(each[name]) for each in found), Counter())) or 'none'}")
    for name in ("lost", "partial", "doubled", "ledger"):
        print(f"{name:<14}{sum(len(each[name]) for each in found)}")
    for verdict in verdicts:
        for fault in verdict.faults:
            print(f"FAULT  {fault}")


if __name__ == "__main__":
    main()
