"""The worklist in pages: filtered, searched, and as fast with a million rows as with ten.

What a row can be filtered by is one text, its *facet*: place in the reading order, state, outcome, whether somebody has
reviewed it, whether somebody has assessed it, modality. There are some dozens of different facets however many rows
there are. A filter is therefore the list of facets that pass it: each gives its latest rows from one index, in which
they lie by time, and a page is made of these. Nothing is ever scanned for rows that do not fit.

What is searched for leads to a limited number of rows first, which are filtered then.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from appliance.overview import SHOWN, Overview, decoded

MOST_COUNTED = 1000  # rows that a filter finds are counted so far; more are "more than"

_FACETS = """
WITH RECURSIVE each(facet) AS (
  SELECT min(facet) FROM instance INDEXED BY instance_listed WHERE facet IS NOT NULL
  UNION ALL
  SELECT (SELECT min(facet) FROM instance INDEXED BY instance_listed
          WHERE facet IS NOT NULL AND instance.facet > each.facet) FROM each WHERE facet IS NOT NULL)
SELECT facet FROM each WHERE facet IS NOT NULL
"""
_FACETS_OF_SENDER = """
WITH RECURSIVE each(facet) AS (
  SELECT min(facet) FROM instance INDEXED BY instance_listed_by_sender
  WHERE ae_title = :sender AND ae_title <> '' AND facet IS NOT NULL
  UNION ALL
  SELECT (SELECT min(facet) FROM instance INDEXED BY instance_listed_by_sender
          WHERE ae_title = :sender AND ae_title <> '' AND facet IS NOT NULL AND instance.facet > each.facet)
  FROM each WHERE facet IS NOT NULL)
SELECT facet FROM each WHERE facet IS NOT NULL
"""
_SENDERS = """
WITH RECURSIVE each(ae_title) AS (
  SELECT min(ae_title) FROM instance INDEXED BY instance_listed_by_sender WHERE facet IS NOT NULL AND ae_title <> ''
  UNION ALL
  SELECT (SELECT min(ae_title) FROM instance INDEXED BY instance_listed_by_sender
          WHERE facet IS NOT NULL AND ae_title <> '' AND instance.ae_title > each.ae_title)
  FROM each WHERE ae_title IS NOT NULL)
SELECT ae_title FROM each WHERE ae_title IS NOT NULL LIMIT 200
"""
# By what an image is found, each through its index; the lead stands for its series.
_BY_NUMBER = "SELECT ifnull(lead_id, id) AS id FROM instance WHERE id = :number"
_BY_UID = "SELECT ifnull(lead_id, id) AS id FROM instance WHERE sop_instance_uid = :text AND sop_instance_uid <> ''"
_BY_STUDY = """
SELECT ifnull(lead_id, id) AS id FROM instance INDEXED BY instance_by_study
WHERE study_instance_uid >= :text AND study_instance_uid < :end AND study_instance_uid <> '' LIMIT :most
"""
_BY_ACCESSION = """
SELECT ifnull(lead_id, id) AS id FROM instance INDEXED BY instance_by_accession
WHERE accession_number COLLATE NOCASE >= :text AND accession_number COLLATE NOCASE < :end AND accession_number <> ''
LIMIT :most
"""
_BY_PATIENT_ID = """
SELECT id FROM instance INDEXED BY instance_by_patient
WHERE patient_id COLLATE NOCASE >= :text AND patient_id COLLATE NOCASE < :end AND patient_id <> ''
  AND facet IS NOT NULL LIMIT :most
"""
_BY_PATIENT_NAME = (
    "SELECT rowid AS id FROM instance_named WHERE instance_named MATCH :words ORDER BY rowid DESC LIMIT :most"
)
_KEYS = """
SELECT instance.id, facet, received_at, ae_title FROM json_each(:ids) AS wanted
JOIN instance ON instance.id = wanted.value WHERE facet IS NOT NULL
"""
_PRIORS = f"""
{SHOWN} WHERE instance.id IN (
  SELECT id FROM instance INDEXED BY instance_by_patient
  WHERE patient_id = :patient_id COLLATE NOCASE AND patient_id = :patient_id AND patient_id <> '' AND facet IS NOT NULL
    AND issuer_of_patient_id = :issuer AND outcome <> '' AND id <> :id
  ORDER BY received_at DESC LIMIT :most)
AND series.superseded_by IS NULL ORDER BY acquired_at DESC, instance.id DESC
"""  # noqa: S608 (of this file)
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Filter:
    """Which rows; what is empty or None lets all pass.

    Attributes
    ----------
    finding
        ``urgent``, ``positive`` (urgent ones too), ``indeterminate``, ``negative``, ``outlined``.
    begin, end
        Received from then until before then, in seconds since 1970.
    search
        A number, accession number, AE title, UID; with ``patients`` also a patient's ID or words of the name.
    patients
        Whether patients may be searched for.
    """

    state: str = ""
    finding: str = ""
    modality: str = ""
    sender: str = ""
    begin: float | None = None
    end: float | None = None
    unreviewed: bool = False
    unassessed: bool = False
    search: str = ""
    patients: bool = False

    def passes(self, facet: Facet) -> bool:
        outcomes = {"positive": ("positive", "urgent")}.get(self.finding, (self.finding,))
        return (
            self.state in ("", facet.state)
            and (not self.finding or facet.outcome in outcomes)
            and self.modality in ("", facet.modality)
            and (facet.unreviewed or not self.unreviewed)
            and (facet.unassessed or not self.unassessed)
        )

    def is_in_time(self, received_at: float) -> bool:
        return (self.begin is None or received_at >= self.begin) and (self.end is None or received_at < self.end)


@dataclass(frozen=True, order=True)
class Facet:
    """The column of that name, in its parts."""

    place: int
    state: str
    outcome: str
    unreviewed: bool
    unassessed: bool
    modality: str
    text: str

    @classmethod
    def of(cls, text: str) -> Facet:
        place, state, outcome, unreviewed, unassessed, modality = text.split("/", 5)
        return cls(int(place), state, outcome, unreviewed == "1", unassessed == "1", modality, text)


@dataclass(frozen=True)
class Cursor:
    """Where a page begins or ends: the key of a row by which the worklist is sorted."""

    place: int
    received_at: float
    id: int

    @property
    def in_order(self) -> tuple[int, float, int]:
        return self.place, -self.received_at, -self.id


@dataclass(frozen=True)
class Page:
    """Rows as of `appliance.overview.Overview.instance`, with ``verdicts``, and where the next pages begin.

    ``found``: how many rows pass, at most `MOST_COUNTED` + 1, which is more than that. ``cut``: what was searched for
    was found more often than that, and the filter has not seen all of it.
    """

    rows: list[dict[str, Any]]
    newer: Cursor | None
    older: Cursor | None
    found: int
    cut: bool = False


class Worklists(Overview):
    """The worklist as readers look through it."""

    def page(self, wanted: Filter, limit: int, after: Cursor | None = None, before: Cursor | None = None) -> Page:
        """Rows behind ``after``, or in front of ``before``, by `appliance.reading_order` and then the latest first."""
        cut, found = False, 0
        wanted = self._sender_searched(wanted)
        if wanted.search:
            keys, cut = self._searched(wanted)
            found = len(keys)
            if before is not None:
                keys = [key for key in keys if key.in_order < before.in_order]
            elif after is not None:
                keys = [key for key in keys if key.in_order > after.in_order]
            keys = keys[-limit - 1 :] if before is not None else keys[: limit + 1]
        else:
            facets = self._passing(wanted)
            found = self._count(wanted, facets)
            keys = list(itertools.islice(self._walk(wanted, facets, limit + 1, after, before), limit + 1))
            if before is not None:
                keys.reverse()
        more = len(keys) > limit
        if more:
            keys = keys[1:] if before is not None else keys[:limit]
        has_newer = more if before is not None else after is not None
        has_older = before is not None or more
        return Page(
            self._shown(keys),
            keys[0] if keys and has_newer else None,
            keys[-1] if keys and has_older else None,
            found,
            cut,
        )

    def numbers(self, wanted: Filter) -> list[int]:
        """The rows that pass, in their order; `MOST_COUNTED` at most."""
        wanted = self._sender_searched(wanted)
        keys: Iterable[Cursor]
        if wanted.search:
            keys = self._searched(wanted)[0]
        else:
            keys = itertools.islice(self._walk(wanted, self._passing(wanted), MOST_COUNTED, None, None), MOST_COUNTED)
        return [key.id for key in keys]

    def choices(self) -> tuple[list[str], list[str]]:
        """Modalities and calling AE titles that the worklist has rows of."""
        modalities = {Facet.of(row["facet"]).modality for row in self._rows(_FACETS)} - {""}
        return sorted(modalities), [row["ae_title"] for row in self._rows(_SENDERS)]

    def priors(self, row: dict[str, Any], most: int = 50) -> tuple[list[dict[str, Any]], int]:
        """Other results of the patient of a row, the latest first, and how many were left out.

        The same patient is the same ID of the same issuer. Where names or sexes contradict each other, somebody has
        given one ID to two people: such a result is left out.
        """
        if not row["patient_id"]:
            return [], 0
        found = self._rows(
            _PRIORS, patient_id=row["patient_id"], issuer=row["issuer_of_patient_id"], id=row["id"], most=most
        )
        same = [each for each in found if _may_be_the_same(row, each)]
        return [decoded(each) for each in same], len(found) - len(same)

    def _sender_searched(self, wanted: Filter) -> Filter:
        """Where an AE title is searched for, the filter for that."""
        for row in self._rows(_SENDERS) if wanted.search else ():
            if row["ae_title"].casefold() == wanted.search.casefold() and wanted.sender in ("", row["ae_title"]):
                return replace(wanted, sender=row["ae_title"], search="")
        return wanted

    def _passing(self, wanted: Filter) -> list[Facet]:
        rows = self._rows(_FACETS_OF_SENDER, sender=wanted.sender) if wanted.sender else self._rows(_FACETS)
        return [facet for row in rows if wanted.passes(facet := Facet.of(row["facet"]))]

    def _walk(
        self, wanted: Filter, facets: list[Facet], limit: int, after: Cursor | None, before: Cursor | None
    ) -> Iterator[Cursor]:
        """Keys in the order of the worklist, or against it for ``before``; ``limit`` of each place at most."""
        backwards = before is not None
        start = before or after
        places = sorted({facet.place for facet in facets}, reverse=backwards)
        for place in places:
            if start is not None and (place > start.place if backwards else place < start.place):
                continue
            bound = start if start is not None and place == start.place else None
            keys = [
                Cursor(place, row["received_at"], row["id"])
                for facet in facets
                if facet.place == place
                for row in self._of_facet(wanted, facet, limit, bound, backwards)
            ]
            yield from sorted(keys, key=lambda key: key.in_order, reverse=backwards)[:limit]

    def _of_facet(
        self, wanted: Filter, facet: Facet, limit: int, bound: Cursor | None, backwards: bool = False
    ) -> list[dict[str, Any]]:
        where, values = _where(wanted)
        if bound is not None:
            where += f" AND (received_at, id) {'>' if backwards else '<'} (:at, :bound)"
            values |= {"at": bound.received_at, "bound": bound.id}
        order = "received_at, id" if backwards else "received_at DESC, id DESC"
        sql = f"SELECT id, received_at {where} ORDER BY {order} LIMIT :limit"
        return self._rows(sql, facet=facet.text, limit=limit, **values)

    def _count(self, wanted: Filter, facets: list[Facet]) -> int:
        """How many rows pass, but no more than one above `MOST_COUNTED`."""
        where, values = _where(wanted)
        found = 0
        for facet in facets:
            sql = f"SELECT count(*) AS n FROM (SELECT 1 {where} LIMIT :limit)"  # noqa: S608 (of this file)
            found += self._rows(sql, facet=facet.text, limit=MOST_COUNTED + 1 - found, **values)[0]["n"]
            if found > MOST_COUNTED:
                break
        return found

    def _searched(self, wanted: Filter) -> tuple[list[Cursor], bool]:
        """The keys of what was searched for and passes, in their order; whether there was more of it."""
        text = wanted.search
        values = {"text": text, "end": f"{text}\U0010ffff", "most": MOST_COUNTED + 1}
        queries: list[tuple[str, dict[str, Any]]] = [(_BY_UID, {"text": text})]
        queries += [(sql, values) for sql in (_BY_STUDY, _BY_ACCESSION)]
        if text.isdecimal() and text.isascii() and len(text) < 19:
            queries.append((_BY_NUMBER, {"number": int(text)}))
        if wanted.patients:
            queries.append((_BY_PATIENT_ID, values))
            if words := " ".join(f'"{word}"*' for word in _WORD.findall(text)):
                queries.append((_BY_PATIENT_NAME, {"words": words, "most": MOST_COUNTED + 1}))
        cut, identifiers = False, set[int]()
        for sql, parameters in queries:
            rows = self._rows(sql, **parameters)
            cut |= len(rows) > MOST_COUNTED
            identifiers.update(row["id"] for row in rows)
        found = self._keys(wanted, identifiers)
        return found[:MOST_COUNTED], cut or len(found) > MOST_COUNTED

    def _keys(self, wanted: Filter, identifiers: Iterable[int]) -> list[Cursor]:
        rows = self._rows(_KEYS, ids=msgspec.json.encode(list(identifiers)).decode())
        keys = [
            Cursor(facet.place, row["received_at"], row["id"])
            for row in rows
            if wanted.passes(facet := Facet.of(row["facet"]))
            and wanted.is_in_time(row["received_at"])
            and wanted.sender in ("", row["ae_title"])
        ]
        return sorted(keys, key=lambda key: key.in_order)

    def _shown(self, keys: list[Cursor]) -> list[dict[str, Any]]:
        identifiers = msgspec.json.encode([key.id for key in keys]).decode()
        rows = self._rows(f"{SHOWN} WHERE instance.id IN (SELECT value FROM json_each(:ids))", ids=identifiers)  # noqa: S608
        by_id = {row["id"]: decoded(row) for row in rows}
        return [by_id[key.id] for key in keys if key.id in by_id]


def _where(wanted: Filter) -> tuple[str, dict[str, Any]]:
    """FROM and WHERE of one facet's rows, by the index that has them by time."""
    index = "instance_listed_by_sender" if wanted.sender else "instance_listed"
    sql = f"FROM instance INDEXED BY {index} WHERE facet = :facet AND facet IS NOT NULL"
    values: dict[str, Any] = {}
    if wanted.sender:
        sql += " AND ae_title = :sender AND ae_title <> ''"
        values["sender"] = wanted.sender
    if wanted.begin is not None:
        sql += " AND received_at >= :begin"
        values["begin"] = wanted.begin
    if wanted.end is not None:
        sql += " AND received_at < :end"
        values["end"] = wanted.end
    return sql, values


def _may_be_the_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    names = [" ".join(_WORD.findall(row["patient_name"].casefold())) for row in (one, other)]
    sexes = {row["patient_sex"] for row in (one, other)} & {"M", "F"}
    return (names[0] == names[1] or not all(names)) and len(sexes) < 2
