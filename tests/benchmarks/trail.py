"""What the audit trail costs: a record by itself, and the page with and without it.

python -m tests.benchmarks.trail [--records 2000] [--folder FOLDER]

The verdict is by ratios in the same run: a view's record must cost less than a tenth of the page that it records, and a
million records must be verified within minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from appliance import audit_proof
from appliance.audit import Record, Trail
from tests.appliance.guarded import Guarded

_SHARE = 0.1  # of a page's time, at most
_VERIFY_SECONDS = 300.0  # a million records


def timed(act: Callable[[], object], count: int) -> list[float]:
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        act()
        found.append(time.perf_counter() - begin)
    return found


def said(name: str, seconds: list[float]) -> float:
    middle = statistics.median(seconds)
    slow = statistics.quantiles(seconds, n=20)[-1]
    print(f"{name:<44}{middle * 1000:>9.3f} ms median{slow * 1000:>9.3f} ms p95")
    return middle


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="on the disk that is to be measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        trail = Trail(Path(folder) / "audit.sqlite3", Path(folder) / "keys" / "device.pem")
        record = Record(0.0, "view", "GET /study/<int>", person="anna", role="clinician", target="image 17")
        view = said("a view's record", timed(lambda: trail.append(record, flushed=False), options.records))
        said("an act's record, on the disk", timed(lambda: trail.append(record), max(options.records // 10, 20)))
        count = options.records + max(options.records // 10, 20)
        begin = time.perf_counter()
        outcome = audit_proof.verify(Path(folder) / "audit.sqlite3", Path(folder) / "keys" / "device.pem")
        each = (time.perf_counter() - begin) / count
        print(f"{'verify':<44}{each * 1e6:>9.1f} s for a million records, {len(outcome.faults)} faults")
        trail.close()
        box = Guarded(Path(folder) / "box")
        client = box.client("clinician")
        page = said("the worklist, with its record", timed(lambda: client.get("/"), 200))
    good = view < _SHARE * page and each * 1e6 < _VERIFY_SECONDS and not outcome.faults
    print(f"{'good' if good else 'TOO SLOW'}: a view's record is {view / page:.1%} of the page that it records")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
