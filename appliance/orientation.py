"""How the patient lies in an image, by what its header states: where rows and columns lead to.

The letters are those of Patient Orientation (PS3.3 section C.7.6.1.1.1): right, left, anterior, posterior, head, feet;
of a direction between them, several, the main one first.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydicom import Dataset

from appliance.image import numbers, text

Letters = tuple[str, str]

_ONE_OPPOSITE = str.maketrans("RLAPHF", "LRPAFH")
_AXES = ("LR", "PA", "HF")  # where each of x, y and z leads to, and where it comes from
_LEAST = 0.1  # of a direction's part along an axis; some 6 degrees


def stated(header: Dataset) -> Letters | None:
    """Where rows and columns lead to by Patient Orientation; None where that is missing, or says nothing."""
    found = re.fullmatch(r"([RLAPHF]{1,3})\\([RLAPHF]{1,3})", text(header, "PatientOrientation").upper())
    return (found[1], found[2]) if found else None


def measured(header: Dataset) -> Letters | None:
    """The same by Image Orientation (Patient) (PS3.3 section C.7.6.2.1.1)."""
    cosines = numbers(header, "ImageOrientationPatient", 6)
    return None if cosines is None else along(cosines[:3], cosines[3:])


def along(rows: Sequence[float], columns: Sequence[float]) -> Letters | None:
    """The same of two directions in the patient's coordinates."""
    along_rows, along_columns = _letters(rows), _letters(columns)
    return (along_rows, along_columns) if along_rows and along_columns else None


def edges(leads: Letters) -> tuple[str, str, str, str]:
    """What stands at the left, right, upper and lower edge of an image whose rows and columns lead there."""
    right, lower = leads
    return right.translate(_ONE_OPPOSITE), right, lower.translate(_ONE_OPPOSITE), lower


def side_at_left(header: Dataset) -> tuple[Literal["R", "L"] | None, bool]:
    """Which side of the patient lies at the left edge of a frontal radiograph, and whether the header states it.

    By Patient Orientation. Without it a frontal view is taken to hang as usual, facing the viewer; of another view
    there is no such side.
    """
    rows = text(header, "PatientOrientation").upper().split("\\")[0]
    if rows:
        return ("R" if rows[0] == "L" else "L" if rows[0] == "R" else None), True
    return ("R" if text(header, "ViewPosition").upper() in ("PA", "AP") else None), False


def _letters(direction: Sequence[float]) -> str:
    """The axes along which a direction goes, the main one first."""
    length = float(np.linalg.norm(direction))
    parts = sorted(((abs(part), axis, part < 0) for axis, part in enumerate(direction)), reverse=True)
    return "".join(_AXES[axis][backwards] for size, axis, backwards in parts if size > _LEAST * length)
