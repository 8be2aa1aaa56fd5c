"""Drift in the ledger: one row a study, days, baselines, watches, alarms and who acknowledged them.

The only module that knows the tables ``drift_*``. One study is one transaction (`Database.together`), so that what is
counted, what was bet and what was raised always belong together.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec
import numpy as np

from appliance.database import Database
from appliance.drift import Outcome
from appliance.drift.streams import MOST_BINS, STREAMS, Categories
from appliance.errors import DriftError

Against = Literal["validated", "site"]
Kind = Literal["alarm", "warning", "confidence"]

_MOST_COUNTED = 200  # letters of the latest reason
_INSERT_STUDY = """
INSERT INTO drift_study (package, study, instance_id, at, bins) VALUES (:package, :study, :instance, :at, :bins)
ON CONFLICT DO NOTHING
"""
_DAY = """
INSERT INTO drift_day VALUES (:package, :day, 1, :counts, :validated, :site)
ON CONFLICT DO UPDATE SET studies = studies + 1, counts = :counts,
    validated = max(ifnull(validated, :validated), ifnull(:validated, validated)),
    site = max(ifnull(site, :site), ifnull(:site, site))
"""
_COUNT = """
INSERT INTO drift_count VALUES (:name, 1, :at, :last)
ON CONFLICT DO UPDATE SET n = n + 1, last_at = :at, last = :last
"""


def pack(counts: np.ndarray) -> bytes:
    """Counts ``(streams, MOST_BINS)``, most of them 0, as bytes."""
    return zlib.compress(counts.astype("<u4").tobytes(), 1)


def unpack(content: bytes) -> np.ndarray:
    """int64 ``(streams, MOST_BINS)``."""
    return np.frombuffer(zlib.decompress(content), "<u4").reshape(len(STREAMS), MOST_BINS).astype(np.int64)


class DriftStore(Database):
    """What is kept of drift in one ledger."""

    # --- the worker's side ------------------------------------------------------------------------------------------

    def add_study(self, package: str, study: bytes, instance: int, at: float, bins: np.ndarray) -> int | None:
        """The row's number; None where the study was counted before."""
        with self._transaction() as connection:
            cursor = connection.execute(
                _INSERT_STUDY,
                {
                    "package": package,
                    "study": study,
                    "instance": instance,
                    "at": at,
                    "bins": bins.astype(np.uint8).tobytes(),
                },
            )
            return int(cursor.lastrowid or 0) if cursor.rowcount == 1 else None

    def add_to_day(self, package: str, at: float, bins: np.ndarray, worth: Mapping[Against, float]) -> None:
        """Count a study in its day, with the highest logarithm of each mean martingale."""
        day = datetime.fromtimestamp(at).strftime("%Y-%m-%d")
        with self._transaction() as connection:
            row = connection.execute(
                "SELECT counts FROM drift_day WHERE package = ? AND day = ?", (package, day)
            ).fetchone()
            counts = unpack(row["counts"]) if row else np.zeros((len(STREAMS), MOST_BINS), np.int64)
            counts[np.arange(len(STREAMS)), bins] += 1
            connection.execute(
                _DAY,
                {
                    "package": package,
                    "day": day,
                    "counts": pack(counts),
                    "validated": worth.get("validated"),
                    "site": worth.get("site"),
                },
            )

    def add_category(self, stream: str, name: str, number: int) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO drift_category VALUES (?, ?, ?)", (stream, name, number))

    def count(self, name: str, last: str = "") -> None:
        """Count something that is no study of its own; ``last`` says what it was, without patient data."""
        with self._transaction() as connection:
            connection.execute(_COUNT, {"name": name, "at": time.time(), "last": last[:_MOST_COUNTED]})

    def add_package(self, package: str, name: str, reference: np.ndarray, seed: int) -> None:
        """A package is watched from now on."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO drift_package (package, name, first_at, reference, seed, began_after) "
                "VALUES (?, ?, ?, ?, ?, (SELECT ifnull(max(id), 0) FROM drift_study))",
                (package, name, time.time(), pack(reference), seed),
            )
            self.event("", f"{name} is watched for drift; the site's baseline is learned")

    def save_monitor(self, package: str, against: Against, after: int, state: bytes | None) -> None:
        """A watch as it is after a study."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE drift_monitor SET after = ?, state = ? WHERE package = ? AND against = ?",
                (after, state, package, against),
            )

    def begin_monitor(self, package: str, against: Against, state: bytes | None) -> None:
        """A watch begins after the latest study, or rests (None)."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO drift_monitor SELECT :package, :against, 1, latest, latest, :state "
                "FROM (SELECT ifnull(max(id), 0) AS latest FROM drift_study) WHERE true "
                "ON CONFLICT DO UPDATE SET changes = changes + 1, after = excluded.after, begun = excluded.begun, "
                "state = excluded.state",
                {"package": package, "against": against, "state": state},
            )

    def set_baseline(
        self, package: str, counts: np.ndarray, studies: int, by: str, dependent: dict[str, float]
    ) -> None:
        """The baseline is what is usual from now on."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE drift_package SET accepted_at = ?, accepted_by = ?, baseline = ?, studies = ?, dependent = ? "
                "WHERE package = ?",
                (time.time(), by, pack(counts), studies, msgspec.json.encode(dependent).decode(), package),
            )

    def forget_baseline(self, package: str) -> None:
        """Learn it anew, from the next study on."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE drift_package SET accepted_at = NULL, accepted_by = '', baseline = NULL, studies = 0, "
                "dependent = '{}', began_after = (SELECT ifnull(max(id), 0) FROM drift_study) WHERE package = ?",
                (package,),
            )

    def raise_alarm(
        self, package: str, against: Against, kind: Kind, study: int, at: float, evidence: float, cause: bytes
    ) -> int:
        with self._transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO drift_alarm (package, against, kind, raised_at, study, evidence, cause) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (package, against, kind, at, study, evidence, cause.decode()),
            )
            return int(cursor.lastrowid or 0)

    def thin(self, days: float) -> int:
        """Remove rows of studies that are older; days stay, and rows that baselines and watches still count."""
        removed = 0
        with self._transaction() as connection:
            for about in self.packages():
                watches = [row["after"] for row in self.monitors(about["package"]).values() if row["state"] is not None]
                learned = [about["began_after"]] if about["accepted_at"] is None else []
                removed += connection.execute(
                    "DELETE FROM drift_study WHERE package = ? AND at < ? AND id <= ?",
                    (about["package"], time.time() - days * 86400, min(watches + learned, default=2**62)),
                ).rowcount
        return removed

    # --- people's side ----------------------------------------------------------------------------------------------

    def acknowledge(self, alarm: int, by: str, why: str, outcome: Outcome) -> dict[str, Any]:
        """Record who has seen an alarm, why it was, and what follows; the alarm.

        With an alarm go the early warnings against the same reference.

        Raises
        ------
        DriftError
            There is none of that number, or somebody was earlier.
        """
        with self._transaction() as connection:
            row = self.alarm(alarm)
            if row is None:
                raise DriftError(f"there is no drift alarm {alarm}", hint="scanside drift status lists them")
            if row["acknowledged_at"] is not None:
                raise DriftError(f"drift alarm {alarm} was acknowledged by {row['acknowledged_by']} already")
            connection.execute(
                "UPDATE drift_alarm SET acknowledged_at = ?, acknowledged_by = ?, why = ?, outcome = ? "
                "WHERE id = ? OR (? = 'alarm' AND acknowledged_at IS NULL AND package = ? AND against = ?)",
                (time.time(), by, why, outcome, alarm, row["kind"], row["package"], row["against"]),
            )
            return row

    def event(self, who: str, what: str) -> None:
        with self._transaction() as connection:
            connection.execute("INSERT INTO drift_event (at, who, what) VALUES (?, ?, ?)", (time.time(), who, what))

    # --- reading ----------------------------------------------------------------------------------------------------

    def packages(self) -> list[dict[str, Any]]:
        """Those that were watched, the latest first; ``reference`` and ``baseline`` are packed."""
        return self._rows("SELECT * FROM drift_package ORDER BY first_at DESC")

    def package(self, package: str) -> dict[str, Any] | None:
        return next(iter(self._rows("SELECT * FROM drift_package WHERE package = :package", package=package)), None)

    def monitors(self, package: str) -> dict[Against, dict[str, Any]]:
        rows = self._rows("SELECT * FROM drift_monitor WHERE package = :package", package=package)
        return {row["against"]: row for row in rows}

    def studies(self, package: str, after: int, most: int = 100_000) -> list[dict[str, Any]]:
        """The latest of those whose number is higher than ``after``, in their order."""
        rows = self._rows(
            "SELECT id, instance_id, at, bins FROM drift_study NOT INDEXED WHERE package = :package AND id > :after "
            "ORDER BY id DESC LIMIT :most",
            package=package, after=after, most=most,
        )  # fmt: skip
        return rows[::-1]

    def latest_at(self) -> float | None:
        """When the latest study was counted, by the clock then."""
        rows = self._rows("SELECT at FROM drift_study ORDER BY id DESC LIMIT 1")
        return float(rows[0]["at"]) if rows else None

    def number_of_studies(self, package: str, after: int) -> int:
        rows = self._rows(
            "SELECT count(*) AS n FROM drift_study NOT INDEXED WHERE package = :package AND id > :after",
            package=package, after=after,
        )  # fmt: skip
        return int(rows[0]["n"])

    def days(self, package: str, most: int) -> list[dict[str, Any]]:
        """The latest days in their order; ``counts`` are packed."""
        rows = self._rows(
            "SELECT * FROM drift_day WHERE package = :package ORDER BY day DESC LIMIT :most",
            package=package, most=most,
        )  # fmt: skip
        return rows[::-1]

    def studies_of_days(self, package: str) -> int:
        """How many studies were watched since a package was first."""
        rows = self._rows("SELECT sum(studies) AS n FROM drift_day WHERE package = :package", package=package)
        return int(rows[0]["n"] or 0)

    def categories(self) -> Categories:
        known: dict[str, dict[str, int]] = {}
        for row in self._rows("SELECT * FROM drift_category"):
            known.setdefault(row["stream"], {})[row["name"]] = row["number"]
        return Categories(known)

    def alarm(self, number: int) -> dict[str, Any] | None:
        return next(iter(self._rows(f"{_ALARMS} WHERE drift_alarm.id = :number", number=number)), None)

    def alarms(self, most: int = 100, only_open: bool = False) -> list[dict[str, Any]]:
        """The latest first, of open ones alarms before warnings, each with its package's ``name`` and the JSON of its
        ``cause``.
        """
        where = "WHERE acknowledged_at IS NULL" if only_open else ""
        order = "kind <> 'alarm', " if only_open else ""
        return self._rows(f"{_ALARMS} {where} ORDER BY {order} drift_alarm.id DESC LIMIT :most", most=most)

    def open_alarms(self) -> int:
        """How many alarms and warnings wait for somebody to acknowledge them."""
        return int(self._rows("SELECT count(*) AS n FROM drift_alarm WHERE acknowledged_at IS NULL")[0]["n"])

    def open_alarm(self, package: str, against: Against, kind: Kind) -> bool:
        return bool(
            self._rows(
                "SELECT 1 FROM drift_alarm WHERE acknowledged_at IS NULL AND package = :package "
                "AND against = :against AND kind = :kind LIMIT 1",
                package=package, against=against, kind=kind,
            )
        )  # fmt: skip

    def events(self, most: int = 100) -> list[dict[str, Any]]:
        return self._rows("SELECT * FROM drift_event ORDER BY id DESC LIMIT :most", most=most)

    def counted(self) -> list[dict[str, Any]]:
        return self._rows("SELECT * FROM drift_count ORDER BY name")

    def rejected(self, since: float) -> list[dict[str, Any]]:
        """Images that were turned away or set aside, by the first words of the reason, most first."""
        return self._rows(
            "SELECT state, reason, count(*) AS n FROM instance WHERE state IN ('rejected', 'failed', 'quarantined') "
            "AND received_at >= :since GROUP BY state, reason ORDER BY n DESC LIMIT 10",
            since=since,
        )


_ALARMS = "SELECT drift_alarm.*, drift_package.name FROM drift_alarm JOIN drift_package USING (package)"
