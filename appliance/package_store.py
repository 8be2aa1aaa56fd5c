"""Packages in the ledger: which were installed, which one reads of each model and since when, what must not regress.

The only module that knows these tables. What reads is the latest choice of its model; a choice is one row, so that it
is there as a whole or not at all, and none is ever changed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from appliance.database import Database
from appliance.errors import PackageError

Kind = Literal["switch", "promotion", "rollback", "fallback"]
BACK: tuple[Kind, ...] = ("rollback", "fallback")

_IN_FORCE = """
SELECT * FROM package_choice WHERE id IN (SELECT max(id) FROM package_choice GROUP BY model) ORDER BY id
"""
_CHOOSE = """
INSERT INTO package_choice (model, version, sha256, former, kind, chosen_at, chosen_by, why, cases, overridden)
VALUES (:model, :version, :sha256, :former, :kind, :at, :by, :why, :cases, :overridden) RETURNING id
"""
_INSTALL = """
INSERT INTO installed_package VALUES (:sha256, :model, :version, :file, :signed_by, :at, :by) ON CONFLICT DO NOTHING
"""
_CASES = """
SELECT regression_case.*, instance.modality, instance.body_part, instance.image_removed_at
FROM regression_case JOIN instance ON instance.id = regression_case.instance_id
WHERE :model IN ('', model) ORDER BY model, instance_id
"""


@dataclass(frozen=True)
class Choice:
    """Which package is to read a model's images from now on, who says so, and why.

    Attributes
    ----------
    sha256, former
        Of the package file, and of the one that reads until now; '' where there is none.
    cases
        Builtins of `appliance.regression.Replayed`; None where nothing was replayed.
    overridden
        The reason why it is chosen although something regressed.
    """

    model: str
    version: str
    sha256: str
    former: str
    kind: Kind
    by: str
    why: str
    cases: Any = None
    overridden: str = ""


class PackageStore(Database):
    """What the ledger knows of packages."""

    def install(self, sha256: str, model: str, version: str, file: str, signed_by: str, by: str) -> None:
        values = {
            "sha256": sha256, "model": model, "version": version, "file": file, "signed_by": signed_by,
            "at": time.time(), "by": by,
        }  # fmt: skip
        with self._transaction() as connection:
            connection.execute(_INSTALL, values)

    def installed(self) -> list[dict[str, Any]]:
        return self._rows("SELECT * FROM installed_package ORDER BY model, installed_at")

    def choose(self, choice: Choice) -> int:
        """Put a package in force; the choice's number.

        Raises
        ------
        PackageError
            Somebody else has chosen meanwhile: what it takes over from is not what reads now.
        """
        with self._transaction() as connection:
            latest = connection.execute(
                "SELECT sha256, version FROM package_choice WHERE model = ? ORDER BY id DESC LIMIT 1", (choice.model,)
            ).fetchone()
            if latest is not None and latest["sha256"] != choice.former:
                raise PackageError(
                    f"{choice.model} {latest['version']} was put in force meanwhile, so nothing was changed",
                    hint="look at `scanside models list`, and decide again",
                )
            values = {
                "model": choice.model, "version": choice.version, "sha256": choice.sha256, "former": choice.former,
                "kind": choice.kind, "at": time.time(), "by": choice.by, "why": choice.why,
                "cases": msgspec.json.encode(choice.cases).decode(), "overridden": choice.overridden,
            }  # fmt: skip
            number: int = connection.execute(_CHOOSE, values).fetchone()[0]
        return number

    def latest_choice(self) -> int:
        """The number of the latest choice of any model, 0 before the first: it changes whenever one is made."""
        return int(self._rows("SELECT ifnull(max(id), 0) AS id FROM package_choice")[0]["id"])

    def in_force(self) -> dict[str, dict[str, Any]]:
        """Model -> the choice that counts; models that nobody has chosen anything for are not there."""
        return {row["model"]: row for row in map(_decoded, self._rows(_IN_FORCE))}

    def before(self, model: str) -> list[str]:
        """SHA-256 of what read before the package in force, the latest first; of what was taken back none."""
        way: list[str] = []
        for row in reversed(self.choices(model, most=-1)):
            if row["kind"] in BACK:
                del way[way.index(row["sha256"]) if row["sha256"] in way else 0 :]
            elif not way:
                way.append(row["former"])
            way.append(row["sha256"])
        return [each for each in reversed(way[:-1]) if each]

    def choices(self, model: str = "", most: int = 100) -> list[dict[str, Any]]:
        """The latest first; -1 for all."""
        sql = "SELECT * FROM package_choice WHERE :model IN ('', model) ORDER BY id DESC LIMIT :most"
        return [_decoded(row) for row in self._rows(sql, model=model, most=most)]

    # --- what must not regress ------------------------------------------------------------------------------------

    def add_case(self, model: str, instance_id: int, expected: Any, by: str, why: str) -> None:
        """What a result says is to be said of its image by every later package; it replaces an earlier word."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO regression_case (model, instance_id, expected, added_at, added_by, why) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (model, instance_id, msgspec.json.encode(expected).decode(), time.time(), by, why),
            )

    def remove_cases(self, instance_ids: Sequence[int]) -> int:
        """How many were there."""
        with self._transaction() as connection:
            return sum(
                connection.execute("DELETE FROM regression_case WHERE instance_id = ?", (each,)).rowcount
                for each in instance_ids
            )

    def cases(self, model: str = "") -> list[dict[str, Any]]:
        rows = self._rows(_CASES, model=model)
        return [{**row, "expected": msgspec.json.decode(row["expected"])} for row in rows]


def _decoded(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "cases": msgspec.json.decode(row["cases"])}
