"""How long claims, triage, series, status and the worklist take in a ledger with many finished instances.

python -m tests.benchmarks.ledger [--finished 1000000] [--waiting 1000] [--series 20] [--slices 100] [--folder FOLDER]
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

from appliance.completeness import Ready, Slice, judge
from appliance.config import Config
from appliance.custody import Custody
from appliance.health import health
from appliance.series_store import Gathered
from appliance.store import Arrival, Store

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
        f"p99 {seconds[int(len(seconds) * 0.99)] * 1000:.2f} ms, of {len(seconds)}"
    )


def gather(store: Store, series: int, slices: int) -> list[Callable[[], Any]]:
    """Calls that each take a slice from the queue and put it into its series; its association stays open."""
    patience = 300.0
    for number in range(series * slices):
        uid, transfer = f"3.{number}", f"{number % series}"
        arrival = Arrival(uid, "1.2", f"c{number}", "x", 1, "storage_scp", "MR at 192.0.2.1", transfer_id=transfer)
        store.receive(arrival)

    def take(number: int) -> None:
        claim = store.claim("me", 600)
        assert claim is not None
        header = {"sop_instance_uid": claim["sop_instance_uid"], "study_instance_uid": "1", "patient_id": "P"}
        place = Slice(number // series + 1, position=float(number // series), normal=(0.0, 0.0, 1.0))
        store.park(claim["id"], "me", header, f"4.{claim['transfer_id']}", place, "routine", patience, 600.0)

    return [lambda number=number: take(number) for number in range(series * slices)]  # type: ignore[misc]


def judge_and_start(store: Store, series: Gathered) -> None:
    judged = judge(series.slices, series.transfers, series.last_arrival, time.time() + 1.0, 10.0)
    assert isinstance(judged, Ready), judged
    assert store.start_series(series, judged.reason)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--waiting", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: the temporary folder")
    parser.add_argument("--series", type=int, default=20, help="that are gathered meanwhile")
    parser.add_argument("--slices", type=int, default=100, help="of each series")
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
            connection.execute(
                "INSERT INTO result (instance_id, findings, warnings, provenance, seconds, urgent, made_at) "
                "SELECT id, '[]', '[]', '{}', '{}', id % 50 = 0, 0 FROM instance WHERE state = 'delivered'"
            )
            connection.execute(
                "INSERT INTO object (instance_id, kind, sop_class_uid, sop_instance_uid, path) "
                "SELECT instance_id, 'structured_report', '1.2', '9.' || instance_id, 'x' FROM result"
            )
            connection.execute(
                "INSERT INTO outbox (object_id, destination, state, next_attempt_at, last_error) "
                "SELECT id, 'pacs', iif(id % 100 = 0, 'waiting', 'sent'), id, 'it can''t be reached' FROM object"
            )
            connection.execute("INSERT INTO event (instance_id, at, what) SELECT id, 0, 'received' FROM instance")
        connection.close()
        timed("gather a slice: claim and park", gather(store, options.series, options.slices))
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
        timed("series to judge, none due", [store.to_judge] * 100)
        for each in range(options.series):
            store.end_transfer(f"{each}", "released")
        timed(f"evidence of {options.series} series", [store.to_judge] * 5)
        starts = [lambda each=each: judge_and_start(store, each) for each in store.to_judge()]  # type: ignore[misc]
        timed("judge and start a series", starts)
        timed("claim a series", [lambda: store.claim("me", 600)] * options.series)
        timed("counts by state", [store.counts] * 200)
        timed("destinations", [store.destinations] * 200)
        config = Config(data_dir=folder)
        timed("status, all of it", [lambda: health(config, store)] * 200)
        timed("worklist, first page", [store.worklist] * 200)
        timed("worklist, page 100", [lambda: store.worklist(50, 5000)] * 200)
        timed("worklist, page 1000, the last that is shown", [lambda: store.worklist(50, 50_000)] * 100)
        timed("change mark", [store.change_mark] * 200)
        timed("due to be sent", [lambda: store.due("pacs")] * 100)
        custody = Custody(path)
        timed("quarantine", [custody.quarantined] * 100)
        timed("counted anew", [custody.recount] * 3)
        timed("contradictions", [lambda: list(custody.contradictions())] * 1)
        custody.close()
        store.close()


if __name__ == "__main__":
    main()
