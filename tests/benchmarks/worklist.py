"""How long the worklist, a search and a study page take on the server, with a million images in the ledger.

python -m tests.benchmarks.worklist [--images 1000000] [--folder FOLDER]

Every combination of filters that the page offers is asked for, on its first page and on a later one; each of them
through the page's own application, so with SQL, Python and the template, but without a network.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterable
from datetime import date, datetime, timedelta
from pathlib import Path

from flask.testing import FlaskClient

from appliance.config import Config, Web
from appliance.store import STATES, Store
from appliance.web.app import create_app
from appliance.web.filters import FINDINGS

MOST_MILLISECONDS = 150.0
MODALITIES = ("CR", "DX", "MR", "CT", "US", "")
OF_A_THOUSAND = {
    "received": 1, "claimed": 1, "written": 5, "delivered": 949, "rejected": 30, "failed": 10, "quarantined": 3,
    "withheld": 1,
}  # fmt: skip
FAMILIES = ("Smith", "Schmidt", "García", "Nguyen", "Müller", "Okafor", "Tanaka", "Ivanova", "Rossi", "Kim", "Ng")
_FIRST = 1_600_000_000.0
_INSERT = """
INSERT INTO instance (sop_instance_uid, sop_class_uid, digest, file, size, source, sender, received_at, state, reason,
                      finished_at, due_at, triaged, modality, study_instance_uid, patient_id, patient_name,
                      accession_number, ae_title, reading_rank, outcome, reviewed_at, assessed_at)
VALUES (?, '1.2', ?, 'x', 1, 'storage_scp', 'CT at 192.0.2.1', ?, ?, ?, ?, 0, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def fill(path: Path, images: int) -> None:
    """A site's years: most images done and reviewed, a few of everything else."""
    Store(path).close()
    chance = random.Random(0)
    connection = sqlite3.connect(path)
    finding = {
        "label": "Pneumonia", "code": {"value": "233604007", "scheme": "SCT", "meaning": "Pneumonia"},
        "probability": 0.7, "threshold": 0.4, "operating_point": "balanced", "positive": True, "urgent": True,
        "words": "Signs of pneumonia are likely.",
    }  # fmt: skip
    with connection:
        connection.executemany(_INSERT, (_row(number, chance) for number in range(images)))
        connection.execute(
            "INSERT INTO result (instance_id, findings, warnings, provenance, seconds, urgent, made_at) "
            "SELECT id, ?, '[]', ?, '{}', outcome = 'urgent', 0 FROM instance WHERE outcome <> ''",
            (json.dumps([finding]), json.dumps(PROVENANCE)),
        )
        connection.execute(
            "INSERT INTO instance_named (rowid, patient_name) "
            "SELECT id, patient_name FROM instance WHERE facet IS NOT NULL"
        )
        connection.execute("INSERT INTO event (instance_id, at, what) SELECT id, 0, 'received' FROM instance")
    connection.close()


PROVENANCE = {
    "package": "chest-pneumonia", "version": "1.0.0", "package_sha256": "ab" * 32, "artifact_sha256": "cd" * 32,
    "target": "cpu", "backend": "onnxruntime", "device": "CPU", "receipt": "0123", "software_version": "1",
    "made_at": "2026-01-01T00:00:00+00:00", "intended_use": "A second look.", "not_for": ["diagnosis"],
    "device_uid": "1.2",
}  # fmt: skip


def _row(number: int, chance: random.Random) -> tuple[object, ...]:
    at = _FIRST + number * 150.0
    state = chance.choices(STATES, [OF_A_THOUSAND[state] for state in STATES])[0]
    read = state in ("written", "delivered")
    outcome = chance.choices(("urgent", "positive", "indeterminate", "negative", "outlined"), (5, 10, 5, 60, 20))[0]
    outcome = outcome if read else ""
    finished = at + 1 if state not in ("received", "claimed", "written") else None
    reviewed = at + 600 if finished and chance.random() < 0.97 else None
    return (
        f"1.2.840.{number}", f"{number:064x}", at, state, "" if read else "It lacks what it needs.", finished,
        chance.choices(MODALITIES, (500, 300, 100, 80, 15, 5))[0], f"1.2.826.0.1.{number // 3}",
        f"PAT{number % 300_000:07d}",
        f"{FAMILIES[number % 300_000 % len(FAMILIES)]}{number % 300_000 % 997}^ANNA MARIA",
        f"ACC{number // 3:08d}", chance.choices(("ROOM1", "ROOM2", "MR1", "ER"), (5, 3, 1, 1))[0],
        chance.choices((0, 2, 5, 8), (1, 1, 90, 8))[0] if not read or outcome != "urgent" else 0, outcome, reviewed,
        reviewed if reviewed and chance.random() < 0.3 else None,
    )  # fmt: skip


def combinations(last: float) -> Iterable[dict[str, str]]:
    """Every filter with every other; of the days none, one, and years."""
    day = datetime.fromtimestamp(last).date()
    days = ({}, {"since": f"{day}"}, {"since": f"{date(2021, 1, 1)}", "until": f"{day - timedelta(365)}"})
    for state, finding, modality, sender, flags, when in itertools.product(
        ("", *STATES), ("", *FINDINGS), ("", *MODALITIES[:5]), ("", "ROOM1", "ER"), range(4), days
    ):
        asked = {"state": state, "finding": finding, "modality": modality, "from": sender}
        asked |= {"unreviewed": "1"} if flags & 1 else {}
        asked |= {"unassessed": "1"} if flags & 2 else {}
        yield {key: value for key, value in asked.items() if value} | when


SEARCHES = (
    "smith", "s", "an", "anna maria", "maria sm", "muller", "schmidt12", "PAT0012345", "pat00", "p", "ACC", "er",
    "acc00001234", "1.2.826.0.1.77", "1.2", "123456", "room1", "nobody at all", "x",
)  # fmt: skip


def timed(client: FlaskClient, address: str, asked: dict[str, str] | None = None) -> tuple[float, float]:
    """Milliseconds of the clock, and of the processor: these tell what a busy machine adds to those."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    answer = client.get(address, query_string=asked)
    assert answer.status_code == 200, (address, asked, answer.status_code)
    return (time.perf_counter() - begin) * 1000, (time.process_time() - cpu_begin) * 1000


def verdict(what: str, milliseconds: list[tuple[float, float]]) -> None:
    (clock, cpu), place = map(sorted, zip(*milliseconds, strict=True)), int(len(milliseconds) * 0.95)
    fits = "fits" if clock[place] <= MOST_MILLISECONDS else "TOO SLOW"
    print(
        f"{what}: median {statistics.median(clock):.1f} ms, p95 {clock[place]:.1f} ms, longest {clock[-1]:.1f} ms; "
        f"of a processor p95 {cpu[place]:.1f} ms, longest {cpu[-1]:.1f} ms; of {len(clock)}: {fits}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; kept, and used again where it is filled")
    parser.add_argument("--combinations", type=int, default=2000, help="of all, drawn by chance; 0 for all")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        config = Config(data_dir=str(folder), web=Web(show_patient=True))
        if not config.ledger_path.exists():
            begin = time.perf_counter()
            fill(config.ledger_path, options.images)
            print(f"{options.images:,} images in {time.perf_counter() - begin:.0f} s, "
                  f"{config.ledger_path.stat().st_size / 2**20:.0f} MiB")  # fmt: skip
        client = create_app(config).test_client()
        timed(client, "/")
        verdict("worklist, first page", [timed(client, "/") for _ in range(100)])
        asked = list(combinations(_FIRST + options.images * 150.0))
        print(f"{len(asked):,} combinations of filters")
        if options.combinations:
            asked = random.Random(1).sample(asked, min(options.combinations, len(asked)))
        verdict("worklist, filtered", [timed(client, "/", each) for each in asked])
        deep = [{**each, "after": f"5_{_FIRST + options.images * 75.0}_{options.images // 2}"} for each in asked[::4]]
        verdict("worklist, filtered, from the middle on", [timed(client, "/", each) for each in deep])
        back = [{**each, "before": f"5_{_FIRST + options.images * 75.0}_{options.images // 2}"} for each in asked[::4]]
        verdict("worklist, filtered, back from the middle", [timed(client, "/", each) for each in back])
        for search in SEARCHES:
            verdict(f"search {search!r}", [timed(client, "/", {"q": search}) for _ in range(10)])
        both = [{**each, "q": search} for each, search in zip(asked[:400], itertools.cycle(SEARCHES), strict=False)]
        verdict("search and filters", [timed(client, "/", each) for each in both])
        chance = random.Random(2)
        numbers = [chance.randrange(1, options.images) for _ in range(300)]
        verdict("study page", [timed(client, f"/study/{number}") for number in numbers])
        verdict("changes of the worklist", [timed(client, "/worklist.fragment") for _ in range(100)])


if __name__ == "__main__":
    main()
