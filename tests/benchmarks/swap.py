"""Packages switched and rolled back while images come in: is any lost, and does every result name its package?

python -m tests.benchmarks.swap [--changes 40] [--pause 0.05] [--folder FOLDER] [--json]

A real appliance receives radiographs over one association without end, while the command line switches to a second
package and back. Then every image that was acknowledged must have its result, each result and each of its objects must
name a package that was in force, and `scanside ledger verify` must find nothing. The seconds are those from the choice
in the ledger until the worker reads with it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from tests.swapping import appliance, as_json, swap_under_load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=40, help="switches and rollbacks, by turns")
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two images")
    parser.add_argument("--folder", type=Path, help="default: a temporary one")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        running = appliance(Path(name))
        running.start(300)
        try:
            running.wait_ready(300)
            outcome = swap_under_load(running, Path(name), options.changes, options.pause)
        finally:
            running.stop()
    if options.json:
        print(as_json(outcome))
    else:
        print(f"{outcome.sent} images, {outcome.changes} changes, by version {dict(outcome.by_version)}")
        for name, seconds in (("switch", outcome.switches), ("rollback", outcome.rollbacks)):
            if seconds:
                middle = statistics.median(seconds)
                print(f"{name}: reads with it after {middle:.2f} s (median), {max(seconds):.2f} s at most")
        print(f"longest wait of an image, from its receipt to its result: {max(outcome.waits):.2f} s")
        for line in (*outcome.lost, *outcome.unnamed):
            print(line)
    good = not outcome.lost and not outcome.unnamed and len(outcome.by_version) == 2
    print("PASS: none lost, every result names its package" if good else "FAIL", file=sys.stderr)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
