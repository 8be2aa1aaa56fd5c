"""Columns of a data set's list: the names of those that tell where, by what and of whom an image was made; numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence

import numpy as np

SITE = ("site", "source", "hospital", "center", "location")
DEVICE = ("device", "scanner")
UNKNOWN = "unknown"
_AGES = ((18, "under 18"), (40, "18 to 39"), (65, "40 to 64"))
_OLDEST = 150
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}  # DICOM's Age String, PS3.5 table 6.2-1


def site(names: Collection[str], named: str | None = None) -> str | None:
    """The column that tells the site: the recipe's ``check.site`` where the list has it, else the first usual one."""
    return next((name for name in (named, *SITE) if name in names), None)


def device(names: Collection[str]) -> str | None:
    """The column that tells the device; importers write ``scanner``."""
    return next((name for name in DEVICE if name in names), None)


def of_subgroups(
    rows: Sequence[dict[str, str]], others: Sequence[str], named_site: str | None = None
) -> dict[str, np.ndarray]:
    """What a list knows about its rows that may make subgroups: site, device, age group and ``others``, if it has them.

    ``named_site``: the recipe's ``check.site``. Returns name -> value of each row, str ``(rows,)``.
    """
    names = {name: name for name in others if name in rows[0]}
    names |= {"site": site(rows[0], named_site) or "", "device": device(rows[0]) or ""}
    known = {name: np.array([row[each] or UNKNOWN for row in rows]) for name, each in names.items() if each}
    if "age" in rows[0]:
        known["age"] = np.array([age_group(row["age"]) for row in rows])
    return known


def numbers(words: Sequence[str] | np.ndarray) -> np.ndarray | None:
    """A column's values as float ``(count,)``, NaN where it has none; None where one is no number, or infinite."""
    try:
        values = np.array([float(word) if word else math.nan for word in words])
    except ValueError:
        return None
    return None if np.isinf(values).any() else values


def age_years(stated: str) -> float | None:
    """An age in years, from a number (``57``, ``4.5``) or DICOM's Age String (``005Y``, ``18M``); None of all else."""
    found = re.fullmatch(r"(\d{1,3})([DWMY])", stated)
    try:
        years = int(found[1]) * _YEARS[found[2]] if found else float(stated)
    except ValueError:
        return None
    return years if math.isfinite(years) and 0 <= years < _OLDEST else None


def age_group(stated: str) -> str:
    """The group of an age as `age_years` reads it."""
    years = age_years(stated)
    if years is None:
        return UNKNOWN
    return next((name for limit, name in _AGES if years < limit), "65 and more")
