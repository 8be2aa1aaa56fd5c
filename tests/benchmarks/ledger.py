"""How long a claim and its triage take in a ledger with many finished instances.

python -m tests.benchmarks.ledger [--finished 1000000] [--waiting 1000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.store import Store

INSERT = """
INSERT INTO instance (sop_instance_uid, sop_class_uid, digest, file, size, source, sender, received_at, state,
                      finished_at, due_at, triaged)
VALUES (?, '1.2', ?, 'x', 1, 'storage_scp', 'CT at 192.0.2.1', ?, ?, ?, ?, ?)
"""


def timed(what: str, calls: list[Callable[[], Any]]) -> None:
    seconds = []
    for call in calls:
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    seconds.sort()
    print(
        f"{what}: median {statistics.median(seconds) * 1000:.2f} ms, "
        f"p95 {seconds[int(len(seconds) * 0.95)] * 1000:.2f} ms, of {len(seconds)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "ledger.sqlite3"
        store = Store(path)
        connection = sqlite3.connect(path)
        finished = ((f"1.{n}", f"a{n}", n, "delivered", n, n, 1) for n in range(options.finished))
        waiting = ((f"2.{n}", f"b{n}", 2e9, "received", None, 2e9, 0) for n in range(options.waiting))
        with connection:
            connection.executemany(INSERT, finished)
            connection.executemany(INSERT, waiting)
        connection.close()
        claims: list[dict[str, Any]] = []

        def claim() -> None:
            found = store.claim("me", 600)
            assert found is not None
            claims.append(found)

        half = options.waiting // 2
        timed("claim", [claim] * half)
        place = [(each["id"], "me", {"modality": "CR"}, "routine", 300.0) for each in claims]
        timed("triage, given back", [lambda each=each: store.triage(*each) for each in place])  # type: ignore[misc]
        timed("claim among triaged and untriaged", [claim] * half)
        timed("counts by state", [store.counts] * 5)
        store.close()


if __name__ == "__main__":
    main()
