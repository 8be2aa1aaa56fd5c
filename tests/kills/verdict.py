"""What must hold after any number of kills, looked up in the files, the ledger and at the peer that got the results."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pydicom

from appliance.spool import LANDING
from tests.kills.load import Senders
from tests.running import scanside


@dataclass
class Verdict:
    """What was found: ``faults`` in words, none where all is well."""

    acknowledged: int = 0  # files; ``answers`` counts each time that one was
    answers: int = 0
    dropped: int = 0
    instances: int = 0
    states: dict[str, int] = field(default_factory=dict)
    results: int = 0
    at_the_peer: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    ledger: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [*self.lost, *self.partial, *self.doubled, *self.ledger]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(data: Path, config_path: Path, senders: Senders, peer: Path) -> Verdict:
    """Of an appliance that has come to an end with everything, and is killed or stopped now."""
    connection = sqlite3.connect(data / "ledger.sqlite3")
    connection.row_factory = sqlite3.Row
    rows = [dict(row) for row in connection.execute("SELECT * FROM instance")]
    found = Verdict(
        acknowledged=len(senders.acknowledged),
        answers=senders.acknowledged.total(),
        dropped=len(senders.dropped),
        instances=len(rows),
        states=dict(Counter(row["state"] for row in rows)),
        refused=dict(senders.refused),
    )
    _nothing_lost(found, data, rows, senders)
    _nothing_partial(found, data)
    _nothing_doubled(found, connection, rows)
    _nothing_doubled_at(found, peer, data)
    connection.close()
    verified = scanside("ledger", "verify", "--json", "--config", config_path, timeout=1200)
    if verified.returncode:
        said = json.loads(verified.stdout)["faults"] if verified.stdout else [verified.stderr]
        found.ledger += [f"ledger verify: {each}" for each in said]
    return found


def _nothing_lost(found: Verdict, data: Path, rows: list[dict[str, Any]], senders: Senders) -> None:
    by_uid = {row["sop_instance_uid"]: row for row in rows}
    for path in {**senders.acknowledged, **dict.fromkeys(senders.dropped.values())}:
        sent = pydicom.dcmread(path)
        row = by_uid.get(sent.SOPInstanceUID)
        if row is None:
            found.lost.append(f"{path} was acknowledged and is not in the ledger")
            continue
        kept = data / "spool" / row["file"]
        if not kept.exists() or pydicom.dcmread(kept).PixelData != sent.PixelData:
            found.lost.append(f"{path} was acknowledged and is not in the spool")
        if row["state"] not in ("delivered", "rejected"):
            found.lost.append(f"{path} ended as {row['state']}: {row['reason']}")


def _nothing_partial(found: Verdict, data: Path) -> None:
    for path in (data / "spool").rglob("*"):
        if path.parent.name == LANDING:  # no final names: slots, and what is coming
            continue
        if path.is_file() and path.stem != hashlib.sha256(_data_set(path.read_bytes())).hexdigest():
            found.partial.append(f"{path} is not what its name says")
    for path in (data / "results").rglob("*"):
        if path.is_file() and path.suffix != ".dcm":
            found.partial.append(f"{path} is left over")


def _nothing_doubled(found: Verdict, connection: sqlite3.Connection, rows: list[dict[str, Any]]) -> None:
    for uid, count in Counter(row["sop_instance_uid"] for row in rows).items():
        if count > 1:
            found.doubled.append(f"{uid} has {count} rows")
    found.results = connection.execute("SELECT count(*) FROM result").fetchone()[0]
    series = connection.execute(
        "SELECT series_instance_uid AS uid, count(*) AS n FROM series JOIN result ON result.instance_id = lead_id "
        "WHERE superseded_by IS NULL GROUP BY 1 HAVING n > 1"
    )
    found.doubled += [f"series {row['uid']} has {row['n']} results that stand" for row in series]


def _nothing_doubled_at(found: Verdict, peer: Path, data: Path) -> None:
    """One object of a kind for each reading, the same however often it was sent, and all that the ledger says."""
    contents: dict[str, set[str]] = defaultdict(set)
    for path in peer.iterdir():
        contents[str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)].add(
            hashlib.sha256(_data_set(path.read_bytes())).hexdigest()
        )
    found.at_the_peer = len(contents)
    for uid, each in contents.items():
        if len(each) > 1:
            found.doubled.append(f"the peer got {len(each)} objects under {uid}")
    connection = sqlite3.connect(data / "ledger.sqlite3")
    written = dict(connection.execute("SELECT sop_instance_uid, path FROM object"))
    connection.close()
    for uid in contents.keys() - written.keys():
        found.doubled.append(f"the peer has {uid}, which the ledger does not know")
    for uid in written.keys() - contents.keys():
        found.lost.append(f"the result {written[uid]} never reached the peer")


def _data_set(content: bytes) -> bytes:
    """Behind the file meta information, by its group length (PS3.10 section 7.1)."""
    return content[144 + int.from_bytes(content[140:144], "little") :]
